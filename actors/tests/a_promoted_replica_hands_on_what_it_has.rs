//! A replica promoted in the middle of a snapshot hands on from memory what it got of it as a snapshot that can be taken: its
//! marker names nothing behind its end, and nothing as over that goes on here.
#![cfg(test)]

mod support;

use std::sync::Arc;

use piggin_actors::vbucket::checkpoint::{
    CursorName, ReplicaSnapshot, SnapshotPiece, TakeLimits, Taken,
};
use piggin_actors::vbucket::{StreamEpoch, VbucketCore};
use storage::{Item, KvStore, MemoryStore, Seqno, SnapshotKind, VbucketState};
use support::durable::{follow_again, follower, from_memory, mutation, one_by_one, prepared};
use support::{Setup, become_state, flush_all, id, position};

/// A marker that names all it may.
fn marker(kind: SnapshotKind, completed: u64) -> ReplicaSnapshot {
    let end = Seqno(40);
    ReplicaSnapshot {
        kind,
        visible_end: Some(end),
        high_completed: Some(Seqno(completed)),
        purge_seqno: Some(end),
        ..ReplicaSnapshot::memory(Seqno(21), end)
    }
}

/// Everything up to 20, in whole snapshots, with one prepare that goes on: 15.
fn whole(core: &VbucketCore, epoch: StreamEpoch) {
    let mutations = |from: u64, to: u64| -> Vec<Arc<Item>> {
        let numbers = from..=to;
        numbers.map(|n| mutation(n, &format!("key {n}"))).collect()
    };
    from_memory(core, epoch, &mutations(1, 14));
    one_by_one(core, epoch, &[prepared(15, "open")]);
    from_memory(core, epoch, &mutations(16, 20));
}

/// What a follower that holds everything up to 20 is sent from memory, of one that was promoted with 30 of `cut`.
fn sent(cut: &ReplicaSnapshot, end: impl FnOnce(&VbucketCore, StreamEpoch)) -> Taken {
    let (bench, epoch) = follower();
    let core = &bench.core;
    whole(core, epoch);
    core.apply_marker(epoch, cut, true).unwrap();
    for seqno in 21..=30 {
        let item = mutation(seqno, &format!("key {seqno}"));
        core.apply_item(epoch, item).unwrap();
    }
    end(core, epoch);
    become_state(core, VbucketState::Active);
    let (_, past) = core.stream_view().unwrap();
    let name = CursorName::new("c");
    let (cursor, registered) = core.register_stream(&name, Seqno(20), past).unwrap();
    assert!(!registered.backfill_needed);
    core.take_for_stream(&cursor, past, TakeLimits::NONE)
        .unwrap()
}

/// The marker of a piece, as it comes to a follower.
fn as_sent(piece: &SnapshotPiece) -> ReplicaSnapshot {
    ReplicaSnapshot {
        start: piece.start,
        end: piece.end,
        kind: if piece.kind.is_disk() {
            SnapshotKind::Disk
        } else {
            SnapshotKind::Memory
        },
        history: piece.history,
        visible_end: piece.visible_end,
        high_completed: piece.high_completed,
        high_prepared: Some(piece.high_prepared),
        purge_seqno: piece.purge_seqno,
    }
}

/// A follower with everything up to 20 takes it; what its store knows as over then, and the prepares found there.
fn taken_over(taken: &Taken) -> (Seqno, Seqno) {
    let setup = Setup::default();
    let store = MemoryStore::new(8);
    store.create_vbucket(id(), &setup.record).unwrap();
    let bench = setup.warm();
    let core = &bench.core;
    let epoch = follow_again(core);
    whole(core, epoch);
    for piece in &taken.pieces {
        core.apply_marker(epoch, &as_sent(piece), true).unwrap();
        for item in &taken.items[piece.items.clone()] {
            core.apply_item(epoch, Arc::clone(item)).unwrap();
        }
        assert!(piece.completes);
    }
    assert_eq!(core.high_seqno(), Seqno(30));
    assert_eq!(core.durability_figures().prepares, 1);
    flush_all(core, &store, 9);
    assert_eq!(position(&store).high_seqno, Seqno(30));
    let marks = store.state(id()).unwrap().watermarks;
    (marks.completed_seqno, marks.prepared_seqno)
}

#[test]
fn of_a_snapshot_from_memory() {
    let taken = sent(&marker(SnapshotKind::Memory, 40), |_, _| {});
    let piece = &taken.pieces[0];
    assert_eq!((piece.start, piece.end), (Seqno(21), Seqno(30)));
    assert_eq!(piece.visible_end, Some(Seqno(30)));
    assert_eq!(piece.purge_seqno, Some(Seqno(30)));
    assert_eq!(taken_over(&taken), (Seqno(0), Seqno(15)));
}

/// What ended the prepare lies in the part that never came: were it taken for over, nobody would find it after a restart.
#[test]
fn of_a_snapshot_from_disk_nothing_is_over_that_goes_on() {
    for completed in [15, 35] {
        let taken = sent(&marker(SnapshotKind::Disk, completed), |_, _| {});
        let piece = &taken.pieces[0];
        assert!(piece.kind.is_disk());
        // All before it is over, as the promoted one told its own store.
        assert_eq!(taken_over(&taken), (Seqno(14), Seqno(15)));
    }
}

/// Whoever reads from its disk is told of an end that comes: what was cut ends where it was.
#[test]
fn its_disk_names_no_end_that_never_comes() {
    let setup = Setup::default();
    let store = MemoryStore::new(8);
    store.create_vbucket(id(), &setup.record).unwrap();
    let bench = setup.warm();
    let core = &bench.core;
    let epoch = follow_again(core);
    whole(core, epoch);
    let cut = marker(SnapshotKind::Disk, 12);
    core.apply_marker(epoch, &cut, true).unwrap();
    for seqno in 21..=30 {
        let item = mutation(seqno, &format!("key {seqno}"));
        core.apply_item(epoch, item).unwrap();
    }
    flush_all(core, &store, 9);
    let snapshot = || store.state(id()).unwrap().watermarks.snapshot;
    assert_eq!((snapshot().start, snapshot().end), (Seqno(20), Seqno(40)));
    become_state(core, VbucketState::Active);
    // Nothing is written; what it became is stored.
    flush_all(core, &store, 9);
    assert_eq!((snapshot().start, snapshot().end), (Seqno(20), Seqno(30)));
}

/// One that came whole, though its end is no item, says what it said.
#[test]
fn of_a_snapshot_that_came_whole_it_stays_as_it_was() {
    let taken = sent(&marker(SnapshotKind::Disk, 12), |core, epoch| {
        core.apply_snapshot_end(epoch).unwrap();
    });
    let piece = &taken.pieces[0];
    assert_eq!(
        (piece.end, piece.high_completed),
        (Seqno(30), Some(Seqno(12)))
    );
    assert_eq!(taken_over(&taken), (Seqno(12), Seqno(15)));
}
