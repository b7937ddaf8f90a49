//! What is stored and announced of durable writes is true wherever a snapshot from disk was cut, wherever its marker said
//! more than came, and behind a rollback; and no more of it is kept than is needed.

use super::support::durable::{
    aborted, follow_again, follower, from_disk, from_memory, mutation, prepared,
};
use super::support::{become_state, key};
use crate::vbucket::VbucketCore;
use crate::vbucket::checkpoint::{CursorId, ReplicaSnapshot, TakeLimits};
use storage::{Seqno, SnapshotRange, VbucketState, Watermarks};

/// Says that everything is on disk, and what was said to the store with the last of it.
fn store_all(core: &VbucketCore) -> Watermarks {
    let mut last = None;
    while let Some(take) = core.take_for_flush(9, usize::MAX) {
        core.note_persisted(take.watermarks.high_seqno);
        last = Some(take.watermarks);
    }
    last.unwrap()
}

/// A store that was not told would find them open again once what ended them is gone.
#[test]
fn what_ended_in_half_a_disk_snapshot_is_over_for_the_store_of_an_active() {
    for comes_back in [false, true] {
        for is_stored in [false, true] {
            let (bench, epoch) = follower();
            let core = &bench.core;
            from_memory(core, epoch, &[prepared(5, "k"), prepared(6, "z")]);
            let snapshot = ReplicaSnapshot::disk(Seqno(7), Seqno(20), Seqno(6));
            core.apply_marker(epoch, &snapshot, true).unwrap();
            core.apply_item(epoch, mutation(8, "k")).unwrap();
            if comes_back {
                core.begin_stream().unwrap();
            }
            if is_stored {
                assert!(store_all(core).completed_seqno < Seqno(5));
            }
            become_state(core, VbucketState::Active);
            let stored = store_all(core);
            // The other goes on.
            assert_eq!(stored.completed_seqno, Seqno(5));
            assert_eq!(stored.high_prepared_seqno, Seqno(6));
        }
    }
}

#[test]
fn a_rollback_leaves_no_high_prepared_seqno_behind() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[mutation(1, "a")]);
    from_memory(core, epoch, &[prepared(5, "k")]);
    store_all(core);
    core.begin_rollback().unwrap();
    assert!(core.withdraw());
    let mut record = core.state_record();
    let (start, end) = (Seqno(1), Seqno(1));
    record.watermarks = Watermarks {
        snapshot: SnapshotRange { start, end },
        ..Watermarks::at(Seqno(1), 0)
    };
    core.reset(&record);
    core.warm_done();
    let epoch = core.begin_stream().unwrap();
    let snapshot = ReplicaSnapshot::disk(Seqno(2), Seqno(4), Seqno(0));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, mutation(2, "b")).unwrap();
    let limits = TakeLimits {
        items_max: 9,
        bytes_max: usize::MAX,
    };
    let taken = core.lock().log.take(CursorId::FLUSH, limits).unwrap();
    let announced: Vec<_> = taken.pieces.iter().map(|one| one.high_prepared).collect();
    assert_eq!(announced, [Seqno::ZERO]);
}

/// MB-34873: what it left out may have been stronger than what it shows.
#[test]
fn mb_34873_a_disk_snapshot_that_is_not_on_disk_is_one_also_after_a_promotion() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_disk(core, epoch, 0, &[prepared(4, "k"), mutation(9, "m")]);
    become_state(core, VbucketState::Active);
    let again = follow_again(core);
    assert_eq!(core.prepared_to_acknowledge(again), Ok(None));
    core.reconcile();
    let again = core.begin_stream().unwrap();
    assert_eq!(core.prepared_to_acknowledge(again), Ok(None));
    store_all(core);
    let acknowledged = core.prepared_to_acknowledge(again).unwrap();
    assert!(acknowledged >= Some(Seqno(4)), "{acknowledged:?}");
}

#[test]
fn a_disk_snapshot_completes_nothing_behind_what_came_of_it() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    let snapshot = ReplicaSnapshot::disk(Seqno(1), Seqno(21), Seqno(18));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, mutation(15, "k")).unwrap();
    core.apply_snapshot_end(epoch).unwrap();
    assert_eq!(store_all(core).completed_seqno, Seqno(15));
}

#[test]
fn aborts_of_a_disk_snapshot_leave_nothing_among_the_prepares() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[prepared(1, "x")]);
    let items = [aborted(4, "x", 1), aborted(5, "y", 2), mutation(9, "m")];
    from_disk(core, epoch, 2, &items);
    assert_eq!(core.prepares.newest(&key("x")), None);
    assert_eq!(core.prepares.newest(&key("y")), None);
    assert_eq!(core.durability_figures().prepares, 0);
}
