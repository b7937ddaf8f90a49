//! Changes of what a vbucket is, cut off by a panic: whoever repairs that goes on with all that follows from them.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::super::checkpoint::{CursorName, ReplicaSnapshot, SnapshotPiece, TakeLimits};
use super::super::{ChangeStep, VbucketCore};
use super::support::durable::{follower, from_memory, mutation, prepared};
use super::support::{self, Bench, become_state, set};
use storage::{Seqno, SnapshotKind, VbucketState};

/// It becomes that, which panics right behind the change, and is repaired.
fn become_by_repair(core: &VbucketCore, state: VbucketState) {
    core.panic_at(ChangeStep::Identified);
    let changed = catch_unwind(AssertUnwindSafe(|| become_state(core, state)));
    assert!(changed.is_err() && core.is_suspect());
    core.reconcile();
}

#[test]
fn a_panic_in_a_change_of_state_is_put_right() {
    use storage::VbucketState::{Active, Replica};
    for (before, after) in [(Active, Replica), (Replica, Active)] {
        let Bench { core, .. } = support::in_state(before);
        drop(core.take_for_flush(1, 1));
        become_by_repair(&core, after);
        assert_eq!(core.state(), after);
        assert_eq!(core.set(set("k0", "")).is_ok(), after == Active);
        let record = core.state_record();
        let stored = core.take_for_flush(9, 9).unwrap().identity;
        assert_eq!(stored, Some(record.identity));
    }
}

/// What a follower with everything up to 2 is sent by a vbucket that was promoted so, with half a snapshot from its source.
fn handed_on(kind: SnapshotKind, promote: impl FnOnce(&VbucketCore)) -> Vec<SnapshotPiece> {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[mutation(1, "a"), prepared(2, "open")]);
    let cut = ReplicaSnapshot {
        kind,
        high_completed: Some(Seqno(2)),
        ..ReplicaSnapshot::memory(Seqno(3), Seqno(40))
    };
    core.apply_marker(epoch, &cut, true).unwrap();
    core.apply_item(epoch, mutation(3, "b")).unwrap();
    promote(core);
    let (_, past) = core.stream_view().unwrap();
    let name = CursorName::new("c");
    let (cursor, _) = core.register_stream(&name, Seqno(2), past).unwrap();
    let taken = core.take_for_stream(&cursor, past, TakeLimits::NONE);
    taken.unwrap().pieces
}

/// Its source's snapshot ends where it was cut off: whoever follows waits for no end that never comes.
#[test]
fn a_promotion_that_panicked_hands_on_what_any_other_does() {
    for kind in [SnapshotKind::Memory, SnapshotKind::Disk] {
        let handed = |promote: fn(&VbucketCore, VbucketState)| {
            handed_on(kind, |core| promote(core, VbucketState::Active))
        };
        let pieces = handed(become_by_repair);
        assert_eq!(pieces, handed(become_state));
        assert!(pieces.iter().all(|piece| piece.completes), "{pieces:?}");
        assert_eq!(pieces.last().map(|piece| piece.end), Some(Seqno(3)));
    }
}
