//! What is done first, by the figures alone.

use super::*;

/// A shard that nothing is wrong with, with `unsealed` bytes of the 100 there may be.
fn of(unsealed: u64) -> Figures {
    Figures {
        unsealed_bytes: unsealed,
        unsealed_bytes_max: 100,
        log_files: 1,
        ..Figures::default()
    }
}

fn vbucket(number: u16) -> VbucketId {
    VbucketId::new(number).unwrap()
}

fn first(figures: &Figures) -> Option<Work> {
    decide(figures, None)
}

#[test]
fn a_seal_is_due_when_there_is_much_to_seal_or_old_log_files_are_pinned() {
    assert_eq!(first(&of(100)), None);
    assert_eq!(first(&of(101)), Some(Work::Seal));
    let is_sealing = Figures {
        is_sealing: true,
        ..of(101)
    };
    assert_eq!(first(&is_sealing), None);
    let pinned = |unsealed, wants_checkpoint| Figures {
        log_files: LOG_FILES_MAX + 1,
        wants_checkpoint,
        ..of(unsealed)
    };
    assert_eq!(first(&pinned(1, false)), Some(Work::Seal));
    assert_eq!(first(&pinned(0, false)), None);
    // A checkpoint frees them.
    assert_eq!(first(&pinned(1, true)), Some(Work::Checkpoint));
    let is_checkpointing = Figures {
        is_checkpointing: true,
        ..pinned(1, false)
    };
    assert_eq!(first(&is_checkpointing), None);
}

/// A writer so fast that there is always something to seal kept all that is dead on the disk for ever.
#[test]
fn sealing_that_never_ends_keeps_neither_space_nor_log_files_from_being_given_back() {
    let wanted = Figures {
        wants_checkpoint: true,
        has_garbage: true,
        obsolete_logs: OBSOLETE_MAX + 1,
        most_segments: Some(vbucket(1)),
        ..of(10_000)
    };
    let checkpointed = Figures {
        wants_checkpoint: false,
        ..wanted
    };
    let removed = Figures {
        obsolete_logs: OBSOLETE_MAX,
        ..checkpointed
    };
    let reclaimed = Figures {
        has_garbage: false,
        ..removed
    };
    let firsts = [wanted, checkpointed, removed, reclaimed].map(|figures| first(&figures));
    let expected = [
        Work::Checkpoint,
        Work::RemoveObsoleteLog(OBSOLETE_MAX),
        Work::Reclaim,
        Work::Seal,
    ];
    assert_eq!(firsts, expected.map(Some));
}

#[test]
fn seals_and_merges_take_turns() {
    let merge = Work::Merge(vbucket(1));
    let with = |unsealed| Figures {
        most_segments: Some(vbucket(1)),
        ..of(unsealed)
    };
    assert_eq!(first(&with(101)), Some(merge));
    assert_eq!(first(&with(200)), Some(merge));
    assert_eq!(first(&with(201)), Some(Work::Seal));
    let many_files = Figures {
        log_files: 2 * LOG_FILES_MAX + 1,
        ..with(101)
    };
    assert_eq!(first(&many_files), Some(Work::Seal));
    // While another thread merges, this one need not.
    let merged = Figures {
        is_merging: true,
        ..with(101)
    };
    assert_eq!(first(&merged), Some(Work::Seal));
    let rewritten = Figures {
        most_dead: Some(vbucket(2)),
        ..of(101)
    };
    assert_eq!(first(&rewritten), Some(Work::Rewrite(vbucket(2))));
}

#[test]
fn what_failed_steps_back_behind_the_rest_once() {
    let figures = Figures {
        wants_log_file: true,
        obsolete_logs: 1,
        ..of(101)
    };
    assert_eq!(first(&figures), Some(Work::PrepareLogFile));
    let then = decide(&figures, Some(Work::PrepareLogFile));
    assert_eq!(then, Some(Work::Seal));
    let last = decide(&figures, Some(Work::RemoveObsoleteLog(0)));
    assert_eq!(last, Some(Work::PrepareLogFile), "nothing is behind it");
}

#[test]
fn a_seal_that_fails_steps_back_however_pressing_it_is() {
    let figures = Figures {
        obsolete_logs: 1,
        is_merging: true,
        ..of(1_000)
    };
    assert_eq!(first(&figures), Some(Work::Seal));
    let then = decide(&figures, Some(Work::Seal));
    assert_eq!(then, Some(Work::RemoveObsoleteLog(0)));
}

#[test]
fn the_largest_log_files_are_kept_to_be_used_again() {
    let span = |capacity| LogFileSpan {
        name: format!("log {capacity}"),
        number: 1,
        capacity,
        after: 0,
    };
    let mut obsolete = Vec::from([3, 0, 2, 1].map(span));
    let mut removed = Vec::new();
    while let Some(span) = smallest_beyond(&mut obsolete, 2) {
        removed.push(span.capacity);
    }
    assert_eq!(removed, [0, 1]);
    assert_eq!(obsolete.len(), 2);
}
