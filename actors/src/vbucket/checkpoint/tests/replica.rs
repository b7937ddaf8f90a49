//! A replica's snapshots: what is refused, extended, broken off, and how readers see it.

use super::*;

fn begin(log: &mut CheckpointLog, start: u64, end: u64) {
    let snapshot = ReplicaSnapshot::memory(Seqno(start), Seqno(end));
    log.begin_snapshot(&snapshot).unwrap();
}

fn receive(log: &mut CheckpointLog, seqno: u64) -> Queued {
    let item = item(seqno, &format!("key {seqno}"), MUTATION);
    log.queue_replica(item, None).unwrap()
}

#[test]
fn items_outside_the_snapshot_are_refused() {
    let mut log = log();
    let refused = log.queue_replica(item(1, "k", MUTATION), None);
    assert_eq!(refused, Err(QueueError::NoSnapshot { seqno: Seqno(1) }));
    begin(&mut log, 5, 9);
    for seqno in [4, 10] {
        let refused = log.queue_replica(item(seqno, "k", MUTATION), None);
        let (seqno, start, end) = (Seqno(seqno), Seqno(5), Seqno(9));
        let expected = QueueError::OutsideSnapshot { seqno, start, end };
        assert_eq!(refused, Err(expected));
    }
    assert!(!receive(&mut log, 6).completes_snapshot);
    let refused = log.queue_replica(item(6, "k", MUTATION), None);
    let (seqno, last) = (Seqno(6), Seqno(6));
    assert_eq!(refused, Err(QueueError::OutOfOrder { seqno, last }));
    assert_eq!(log.complete_seqno(), None);
    assert!(receive(&mut log, 9).completes_snapshot);
    assert_eq!(log.complete_seqno(), Some(Seqno(9)));
}

#[test]
fn bad_markers_are_refused() {
    let mut log = log_of(5);
    let memory = |start, end| ReplicaSnapshot::memory(Seqno(start), Seqno(end));
    let (start, end, last) = (Seqno(9), Seqno(8), Seqno(5));
    assert_eq!(
        log.begin_snapshot(&memory(9, 8)),
        Err(SnapshotError::Inverted { start, end })
    );
    for (start, end) in [(1, 4), (4, 5), (4, 4)] {
        let refused = log.begin_snapshot(&memory(start, end));
        let end = Seqno(end);
        assert_eq!(refused, Err(SnapshotError::Stale { end, last }));
    }
    let mut disk = ReplicaSnapshot::disk(Seqno(6), Seqno(8), Seqno(0));
    disk.high_completed = None;
    let refused = log.begin_snapshot(&disk);
    assert_eq!(refused, Err(SnapshotError::CompletedSeqnoMissing));
    let watermark = Seqno(9);
    let disk = ReplicaSnapshot::disk(Seqno(6), end, watermark);
    assert_eq!(
        log.begin_snapshot(&disk),
        Err(SnapshotError::WatermarkAboveEnd { watermark, end })
    );
    assert_eq!(log.figures().checkpoints, 1, "refusals change nothing");
    log.begin_snapshot(&memory(4, 6)).unwrap();
}

#[test]
fn the_first_disk_snapshot_is_initial() {
    let mut log = log();
    let disk = ReplicaSnapshot::disk(Seqno(0), Seqno(2), Seqno(0));
    log.begin_snapshot(&disk).unwrap();
    assert_eq!(log.open_snapshot().3, CheckpointKind::InitialDisk);
    let _queued = receive(&mut log, 2);
    let disk = ReplicaSnapshot::disk(Seqno(3), Seqno(4), Seqno(0));
    log.begin_snapshot(&disk).unwrap();
    assert_eq!(log.open_snapshot().3, CheckpointKind::Disk);
}

#[test]
fn disk_checkpoints_never_deduplicate_and_are_read_alone() {
    let mut log = log();
    let cursor = register(&mut log, "stream", 0).cursor;
    let mut disk = ReplicaSnapshot::disk(Seqno(1), Seqno(3), Seqno(2));
    disk.high_prepared = Some(Seqno(2));
    log.begin_snapshot(&disk).unwrap();
    let _first = log.queue_replica(item(1, "k", PREPARE), None).unwrap();
    let again = log.queue_replica(item(3, "k", PREPARE), Seqno(1)).unwrap();
    assert_eq!(again.disposition, Disposition::Append);
    log.begin_snapshot(&ReplicaSnapshot::disk(Seqno(4), Seqno(4), Seqno(2)))
        .unwrap();
    let _queued = receive(&mut log, 4);
    begin(&mut log, 5, 5);
    let _queued = receive(&mut log, 5);
    let mut read = Vec::new();
    for _ in 0..3 {
        let taken = take_all(&mut log, cursor);
        let piece = &taken.pieces[0];
        read.push((seqnos(&taken), piece.kind, piece.high_prepared.0));
    }
    let (initial, disk, memory) = (
        CheckpointKind::InitialDisk,
        CheckpointKind::Disk,
        CheckpointKind::Memory,
    );
    assert_eq!(
        read,
        [
            (vec![1, 3], initial, 2),
            (vec![4], disk, 4),
            (vec![5], memory, 4)
        ]
    );
    check(&log);
}

#[test]
fn reading_stops_where_history_begins() {
    let mut log = log();
    let cursor = register(&mut log, "stream", 0).cursor;
    begin(&mut log, 1, 1);
    let _queued = receive(&mut log, 1);
    let mut with_history = ReplicaSnapshot::memory(Seqno(2), Seqno(2));
    with_history.history = true;
    log.begin_snapshot(&with_history).unwrap();
    let _queued = receive(&mut log, 2);
    let taken = take_all(&mut log, cursor);
    assert_eq!((seqnos(&taken), taken.more), (vec![1], true));
    let taken = take_all(&mut log, cursor);
    assert!(taken.pieces[0].history);
}

#[test]
fn a_snapshot_that_came_in_part_is_told_whole() {
    let mut log = log();
    let cursor = register(&mut log, "stream", 0).cursor;
    begin(&mut log, 1, 9);
    let _queued = receive(&mut log, 4);
    let taken = take_all(&mut log, cursor);
    let piece = &taken.pieces[0];
    assert_eq!((piece.start.0, piece.end.0), (1, 9));
    assert!(!piece.completes && !taken.more);
    let _queued = receive(&mut log, 9);
    let taken = take_all(&mut log, cursor);
    assert_eq!(taken.pieces[0].opening, Opening::Continues);
    assert!(taken.pieces[0].completes);
}

#[test]
fn a_memory_snapshot_extends_another_unless_a_stream_reads_here() {
    let mut log = log();
    begin(&mut log, 1, 2);
    let _queued = receive(&mut log, 2);
    let more = ReplicaSnapshot::memory(Seqno(3), Seqno(4));
    assert_eq!(log.extend_snapshot(&more), Ok(Applied::Extended));
    let _queued = receive(&mut log, 3);
    let newer = log.queue_replica(item(4, "key 2", MUTATION), Seqno(2));
    let disposition = newer.unwrap().disposition;
    assert!(matches!(disposition, Disposition::Replaces { .. }));

    let _registered = register(&mut log, "stream", 0);
    let more = ReplicaSnapshot::memory(Seqno(5), Seqno(6));
    assert_eq!(log.extend_snapshot(&more), Ok(Applied::Began));
    let disk = ReplicaSnapshot::disk(Seqno(5), Seqno(7), Seqno(0));
    assert_eq!(log.extend_snapshot(&disk), Ok(Applied::Began));
    let more = ReplicaSnapshot::memory(Seqno(8), Seqno(9));
    assert_eq!(log.extend_snapshot(&more), Ok(Applied::Began));
    check(&log);
}

#[test]
fn a_replica_cannot_part_a_snapshot() {
    let mut log = log();
    begin(&mut log, 1, 9);
    let _first = log.queue_replica(item(1, "k", PREPARE), None).unwrap();
    let said = log.disposition_of_replica(&PREPARE, Seqno(1));
    assert_eq!(said, Disposition::NewCheckpoint);
    let refused = log.queue_replica(item(2, "k", PREPARE), Seqno(1));
    let (seqno, replaces) = (Seqno(2), Seqno(1));
    let expected = QueueError::DuplicateInSnapshot { seqno, replaces };
    assert_eq!(refused, Err(expected));
    assert_eq!(log.last_seqno(), Seqno(1));
}

#[test]
fn a_promoted_vbucket_goes_on_in_its_own_checkpoint() {
    let mut log = log();
    let cursor = register(&mut log, "stream", 0).cursor;
    begin(&mut log, 1, 9);
    let _queued = receive(&mut log, 4);
    let before = log.open_snapshot().0;
    assert_eq!(log.open_checkpoint(), before.next());
    let (_, start, _, kind) = log.open_snapshot();
    assert_eq!((start, kind), (Seqno(5), CheckpointKind::Memory));
    append(&mut log, 1);
    let taken = take_all(&mut log, cursor);
    let told = |piece: &SnapshotPiece| (piece.start.0, piece.end.0, piece.completes);
    let told: Vec<_> = taken.pieces.iter().map(told).collect();
    assert_eq!(told, [(1, 4, true), (5, 5, true)]);
}

#[test]
fn an_active_item_after_a_snapshot_opens_a_checkpoint_by_itself() {
    let mut log = log();
    begin(&mut log, 1, 9);
    let _queued = receive(&mut log, 4);
    let done = put(&mut log, "k", MUTATION, None);
    assert_eq!(done, Disposition::NewCheckpoint);
    assert_eq!(log.last_seqno(), Seqno(5));
}

#[test]
fn a_stream_told_of_a_snapshot_that_was_given_up_learns_it() {
    let mut log = log();
    let cursor = register(&mut log, "stream", 0).cursor;
    begin(&mut log, 1, 9);
    let _queued = receive(&mut log, 4);
    drop(take_all(&mut log, cursor));
    begin(&mut log, 3, 7);
    let _queued = receive(&mut log, 6);
    let taken = take_all(&mut log, cursor);
    let piece = &taken.pieces[0];
    assert_eq!(piece.opening, Opening::AfterCut);
    assert_eq!((piece.start.0, piece.end.0), (5, 7));
    let _queued = receive(&mut log, 7);
    let taken = take_all(&mut log, cursor);
    assert_eq!(taken.pieces[0].opening, Opening::Continues);
    check(&log);
}

#[test]
fn snapshots_taken_as_one_are_told_when_they_are_whole() {
    let mut log = log();
    begin(&mut log, 1, 2);
    let _queued = receive(&mut log, 2);
    let more = ReplicaSnapshot::memory(Seqno(3), Seqno(4));
    assert_eq!(log.extend_snapshot(&more), Ok(Applied::Extended));
    let cursor = register(&mut log, "stream", 0).cursor;
    let taken = take_all(&mut log, cursor);
    assert!(taken.items.is_empty() && !taken.more);
    assert_eq!(log.remaining(cursor), Ok(1));
    let newer = log.queue_replica(item(4, "key 2", MUTATION), Seqno(2));
    assert!(newer.unwrap().completes_snapshot);
    let taken = take_all(&mut log, cursor);
    assert_eq!((seqnos(&taken), taken.pieces[0].end), (vec![4], Seqno(4)));
    assert!(taken.pieces[0].completes);
}
