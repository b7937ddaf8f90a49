//! The stream of a replica that has its source's snapshot in part: its end is told once all of it is there, or never.

use super::*;

/// A replica that has everything up to `high` of a disk snapshot of its source, up to `end`.
fn in_part(high: u64, end: u64) -> Watermarks {
    Watermarks {
        snapshot: SnapshotRange {
            start: Seqno::ZERO,
            end: Seqno(end),
        },
        snapshot_kind: SnapshotKind::Disk,
        ..at(high)
    }
}

fn source_snapshot(start: u64, end: u64) -> ReplicaSnapshot {
    ReplicaSnapshot::disk(Seqno(start), Seqno(end), Seqno::ZERO)
}

/// The stream of a replica whose disk has 1 to 3 of the source's snapshot 1 to 6, and its log.
fn read_in_part(admitted: Admitted) -> (StreamState, CheckpointLog, CursorId) {
    let mut log = log(0);
    log.begin_snapshot(&source_snapshot(1, 6)).expect("begun");
    for seqno in 1..=3 {
        let queued = log.queue_replica(item(seqno), None);
        queued.map(drop).expect("queued");
    }
    let mut state = StreamState::new(admitted);
    state.registered(registered(true, 4));
    state.scheduled();
    let registered = register(&mut log, Seqno(3));
    state.opened(&in_part(3, 6), Some(registered));
    backfilled(&mut state, [item(1), item(3)], Seqno(3), Skipped::default());
    state.backfill_ended(BackfillEnd::Complete(Seqno(3)));
    (state, log, registered.cursor)
}

/// MB-71914, MB-39027.
#[test]
fn what_a_replica_has_in_part_is_whole_with_the_rest_from_memory() {
    let (mut state, mut log, cursor) = read_in_part(admitted(0, u64::MAX));
    assert_eq!(said(&mut state), ["disk+ 0-6", "set 1", "set 3"]);
    assert_eq!(state.want(), Want::Log);
    assert!(!state.may_drop_cursor());
    for seqno in [5, 6] {
        let queued = log.queue_replica(item(seqno), None);
        queued.map(drop).expect("queued");
        take(&mut state, &mut log, cursor, 10);
    }
    assert_eq!(said(&mut state), ["set 5", "set 6"]);
    // What follows is told as what it is.
    log.begin_snapshot(&ReplicaSnapshot::memory(Seqno(7), Seqno(7)))
        .expect("begun");
    log.queue_replica(item(7), None).map(drop).expect("queued");
    take(&mut state, &mut log, cursor, 10);
    assert_eq!(said(&mut state), ["memory+ 7-7", "set 7"]);
}

#[test]
fn an_end_inside_of_what_is_in_part_waits_for_the_whole() {
    let (mut state, mut log, cursor) = read_in_part(admitted(0, 3));
    assert_eq!(said(&mut state), ["disk+ 0-6", "set 1", "set 3"]);
    let queued = log.queue_replica(item(6), None);
    queued.map(drop).expect("queued");
    take(&mut state, &mut log, cursor, 10);
    assert_eq!(said(&mut state), ["set 6", "ok"]);
    // The disk alone ends where the disk does.
    let wanted = Admitted {
        is_disk_only: true,
        ..admitted(0, 3)
    };
    let mut state = StreamState::new(wanted);
    state.scheduled();
    state.opened(&in_part(3, 6), None);
    backfilled(&mut state, [item(3)], Seqno(3), Skipped::default());
    state.backfill_ended(BackfillEnd::Complete(Seqno(3)));
    assert_eq!(said(&mut state), ["disk+ 0-3", "set 3", "ok"]);
}

#[test]
fn a_source_that_gives_up_what_is_in_part_ends_the_stream() {
    let (mut state, mut log, cursor) = read_in_part(admitted(0, u64::MAX));
    log.begin_snapshot(&source_snapshot(4, 9)).expect("begun");
    let queued = log.queue_replica(item(9), None);
    queued.map(drop).expect("queued");
    take(&mut state, &mut log, cursor, 10);
    assert_eq!(said(&mut state), ["state_changed"]);
    // So does the loss of its place, of which another backfill could not deliver that end.
    let (mut state, _, _) = read_in_part(admitted(0, u64::MAX));
    state.cursor_dropped();
    assert_eq!(said(&mut state), ["state_changed"]);
}
