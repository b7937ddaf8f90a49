//! The policy on figures made up for it: what is chosen, in which order, and that nothing is chosen for ever.

mod model;

use proptest::prelude::*;

use super::*;
use storage::{CollectionId, Seqno};

const AGE: Duration = Duration::from_secs(1000);
/// When a past of these tests was left, and when it is looked at.
const NOW_S: u32 = 5000;

fn space(segments: usize, total_bytes: u64, live_bytes: u64) -> FileStatistics {
    FileStatistics {
        live_bytes,
        total_bytes,
        unsealed_bytes: 0,
        segments,
    }
}

fn figures(space: FileStatistics) -> VbucketFigures {
    VbucketFigures {
        space,
        ..VbucketFigures::default()
    }
}

fn past(left: &VbucketFigures) -> Past {
    Past {
        at_s: NOW_S,
        left: left.clone(),
    }
}

fn dropped(id: u32) -> DroppedCollection {
    DroppedCollection {
        collection: CollectionId(id),
        start: Seqno(1),
        end: Seqno(9),
    }
}

fn judged(figures: &VbucketFigures) -> Option<Reason> {
    reason(&CompactionPolicy::default(), figures, None, NOW_S)
}

#[test]
fn small_vbuckets_are_allowed_fewer_segments() {
    let small = 100 << 10;
    assert_eq!(judged(&figures(space(4, small, small))), None);
    let five = judged(&figures(space(5, small, small)));
    assert_eq!(five, Some(Reason::Overdue));
    let big = 100 << 20;
    assert_eq!(judged(&figures(space(8, big, big))), None);
    let nine = judged(&figures(space(9, big, big)));
    assert_eq!(nine, Some(Reason::Overdue));
}

#[test]
fn the_newest_are_merged_alone_until_all_are_due() {
    let policy = CompactionPolicy::default();
    let left = figures(space(1, 50 << 20, 50 << 20));
    let judged_at = |bytes: u64, now_s: u32| {
        let nine = figures(space(9, bytes, bytes));
        reason(&policy, &nine, Some(&past(&left)), now_s)
    };
    assert_eq!(judged_at(60 << 20, NOW_S), Some(Reason::Segments));
    assert_eq!(judged_at(60 << 20, NOW_S + 3599), Some(Reason::Segments));
    assert_eq!(judged_at(60 << 20, NOW_S + 3600), Some(Reason::Overdue));
    assert_eq!(judged_at((100 << 20) - 1, NOW_S), Some(Reason::Segments));
    assert_eq!(judged_at(100 << 20, NOW_S), Some(Reason::Overdue));
    // As long as only the newest are merged, what is dead in older segments stays: that comes first.
    let dead = figures(space(9, 60 << 20, 30 << 20));
    let judged = reason(&policy, &dead, Some(&past(&left)), NOW_S);
    assert_eq!(judged, Some(Reason::Fragmentation));
    let mut deleted = figures(space(9, 60 << 20, 60 << 20));
    (deleted.documents, deleted.tombstones) = (80, 20);
    let judged = reason(&policy, &deleted, Some(&past(&left)), NOW_S);
    assert_eq!(judged, Some(Reason::Tombstones));
}

#[test]
fn half_dead_is_rewritten_unless_it_is_little() {
    let half = figures(space(1, 4 << 20, 2 << 20));
    assert_eq!(judged(&half), Some(Reason::Fragmentation));
    let less = figures(space(1, 4 << 20, (2 << 20) + 4200));
    assert_eq!(judged(&less), None);
    let little = figures(space(1, 100 << 10, 0));
    assert_eq!(judged(&little), None);
}

#[test]
fn what_a_compaction_could_not_change_is_no_reason_for_another() {
    let policy = CompactionPolicy::default();
    let mut kept = figures(space(8, 4 << 20, 1 << 20));
    kept.dropped = vec![dropped(8)];
    assert_eq!(
        reason(&policy, &kept, None, NOW_S),
        Some(Reason::DroppedCollection)
    );
    assert_eq!(reason(&policy, &kept, Some(&past(&kept)), NOW_S), None);
    let mut more = kept.clone();
    more.dropped.push(dropped(9));
    let again = reason(&policy, &more, Some(&past(&kept)), NOW_S);
    assert_eq!(again, Some(Reason::DroppedCollection));
    let mut deader = kept.clone();
    deader.space.total_bytes = 12 << 20;
    let again = reason(&policy, &deader, Some(&past(&kept)), NOW_S);
    assert_eq!(again, Some(Reason::Fragmentation));
}

#[test]
fn mb_42652_what_came_while_a_compaction_ran_is_a_reason_for_another() {
    let policy = CompactionPolicy::default();
    let mut began = figures(space(8, 4 << 20, 3 << 20));
    began.dropped = vec![dropped(7), dropped(8)];
    let judged_after = |after: &VbucketFigures| {
        let left = began.unchanged_in(after.clone(), true);
        reason(&policy, after, Some(&past(&left)), NOW_S)
    };
    let mut after = figures(space(8, 4 << 20, 3 << 20));
    after.dropped = vec![dropped(8)];
    assert_eq!(judged_after(&after), None, "it could not change that");
    after.dropped.push(dropped(9));
    assert_eq!(judged_after(&after), Some(Reason::DroppedCollection));
    let sealed = figures(space(21, 4 << 20, 4 << 20));
    assert_eq!(judged_after(&sealed), Some(Reason::Segments));
    let deader = figures(space(8, 4 << 20, 1 << 19));
    assert_eq!(judged_after(&deader), Some(Reason::Fragmentation));
    // Where no history is kept, all that is dead died meanwhile.
    let half = figures(space(8, 4 << 20, 2 << 20));
    assert_eq!(judged_after(&half), None);
    let left = began.unchanged_in(half.clone(), false);
    let judged = reason(&policy, &half, Some(&past(&left)), NOW_S);
    assert_eq!(judged, Some(Reason::Fragmentation));
}

#[test]
fn tombstones_count_once_they_are_old() {
    let counts = |written_at_s, past: Option<&Past>, now_s| {
        let figures = VbucketFigures {
            written_at_s,
            ..VbucketFigures::default()
        };
        tombstones_count(&figures, past, now_s, AGE)
    };
    // Written at 3000, all old at 4000.
    assert!(!counts(3000, None, 3999));
    assert!(counts(3000, None, 4000));
    let compacted_at = |at_s| Past {
        at_s,
        left: VbucketFigures::default(),
    };
    // A compaction before all were old left some; one after that left none that may go.
    assert!(counts(3000, Some(&compacted_at(3500)), 4000));
    assert!(!counts(3000, Some(&compacted_at(4100)), 99_000));
    // One that is written all the time is looked at whenever it was not compacted for so long.
    assert!(!counts(5900, Some(&compacted_at(5000)), 5999));
    assert!(counts(5900, Some(&compacted_at(5000)), 6000));
    let mut many = figures(space(1, 1000, 1000));
    (many.documents, many.tombstones) = (89, 10);
    assert_eq!(judged(&many), Some(Reason::Tombstones));
    (many.documents, many.tombstones) = (91, 10);
    assert_eq!(judged(&many), None);
}

/// What was left of a vbucket that was rolled back since, or deleted and made anew under the same number, is of another
/// vbucket, as it were.
#[test]
fn what_a_compaction_left_says_nothing_of_another_past() {
    let policy = CompactionPolicy::default();
    let mut then = figures(space(8, 4 << 20, 1 << 20));
    then.dropped = vec![dropped(8)];
    let past = past(&then);
    assert_eq!(reason(&policy, &then, Some(&past), NOW_S), None);
    assert!(!tombstones_count(&then, Some(&past), 5999, AGE));
    let others = [
        (Incarnation(2), RollbackEpoch(0)),
        (Incarnation(0), RollbackEpoch(1)),
    ];
    for of in others {
        let now = VbucketFigures { of, ..then.clone() };
        let again = reason(&policy, &now, Some(&past), NOW_S);
        assert_eq!(again, Some(Reason::DroppedCollection), "{of:?}");
        assert!(tombstones_count(&now, Some(&past), 5999, AGE), "{of:?}");
        let dead = VbucketFigures {
            dropped: Vec::new(),
            ..now
        };
        let again = reason(&policy, &dead, Some(&past), NOW_S);
        assert_eq!(again, Some(Reason::Fragmentation), "{of:?}");
    }
}

#[test]
fn the_most_urgent_comes_first() {
    let id = |number| VbucketId::new(number).unwrap();
    let mut erasing = figures(space(1, 1000, 1000));
    erasing.dropped = vec![dropped(8)];
    let (dead, deader) = (space(1, 4 << 20, 1 << 20), space(1, 9 << 20, 1 << 20));
    let all = [
        (id(0), figures(dead)),
        (id(1), figures(space(1, 10, 10))),
        (id(2), figures(deader)),
        (id(3), figures(space(30, 10, 10))),
        (id(4), erasing),
    ];
    let all = all.iter().map(|(id, figures)| (*id, figures, None));
    let chosen = choose(&CompactionPolicy::default(), all.clone(), NOW_S);
    let expected = [
        (id(4), Reason::DroppedCollection),
        (id(3), Reason::Overdue),
        (id(2), Reason::Fragmentation),
        (id(0), Reason::Fragmentation),
    ];
    assert_eq!(chosen, expected);
    assert_eq!(choose(&CompactionPolicy::NEVER, all, NOW_S), []);
}

proptest! {
    #[test]
    fn nothing_is_rewritten_again_unless_something_changed(
        segments in 0usize..40,
        total in 1u64..(1 << 30),
        live in 0u64..(1 << 30),
        drops in 0u32..3,
    ) {
        let mut left = figures(space(segments, total, live.min(total)));
        left.dropped = (0..drops).map(dropped).collect();
        let policy = CompactionPolicy::default();
        let again = reason(&policy, &left, Some(&past(&left)), NOW_S);
        let expected = (segments > policy.segments_max(total)).then_some(Reason::Segments);
        prop_assert_eq!(again, expected);
    }
}
