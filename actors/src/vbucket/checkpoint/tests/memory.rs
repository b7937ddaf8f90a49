//! Giving memory back: freeing, expelling, dropping cursors, clearing.

use super::*;

#[test]
fn closed_checkpoints_go_when_the_last_cursor_leaves() {
    let mut log = log_of(3);
    let cursor = register(&mut log, "stream", 0).cursor;
    log.open_checkpoint();
    append(&mut log, 2);
    drop(take_all(&mut log, CursorId::FLUSH));
    drop(take_all(&mut log, cursor));
    assert_eq!(log.figures().items, 5, "not known to be persisted");
    log.note_persisted(Seqno(3));
    assert_eq!(log.figures().items, 2);
    assert_eq!(log.figures().checkpoints, 1);
    assert!(!log.take_garbage().is_empty());
    assert!(log.take_garbage().is_empty());
    check(&log);
}

#[test]
fn expelling_stops_at_the_lowest_cursor() {
    let mut log = log_of(6);
    let cursor = register(&mut log, "stream", 0).cursor;
    flush(&mut log);
    assert_eq!(log.expel(usize::MAX), Expelled::default());
    drop(take_items(&mut log, cursor, 4));
    let before = log.figures().bytes;
    let first = log.expel(1);
    assert_eq!((first.items, first.more), (1, true));
    let second = log.expel(usize::MAX);
    assert_eq!((second.items, second.more), (3, false));
    assert_eq!(log.figures().bytes, before - first.bytes - second.bytes);
    assert_eq!(seqnos(&take_all(&mut log, cursor)), [5, 6]);
    check(&log);
}

#[test]
fn expelling_touches_the_oldest_checkpoint_only() {
    let mut log = log_of(2);
    let _registered = register(&mut log, "stream", 1);
    log.open_checkpoint();
    append(&mut log, 2);
    flush(&mut log);
    assert_eq!(log.expel(usize::MAX).items, 1);
    assert_eq!(log.expel(usize::MAX).items, 0);
    check(&log);
}

#[test]
fn cursors_before_the_flush_cursor_are_dropped_if_their_clients_allow_it() {
    let mut log = log_of(3);
    let slow = register(&mut log, "slow", 0).cursor;
    let kept = log.register(
        CursorName::new("kept"),
        Seqno(0),
        CursorKind::Stream { droppable: false },
    );
    let kept = kept.unwrap().cursor;
    let name = CursorName::new("durability monitor");
    let monitor = log.register(name, Seqno(0), CursorKind::DurabilityMonitor);
    let monitor = monitor.unwrap().cursor;
    log.open_checkpoint();
    append(&mut log, 1);
    let quick = register(&mut log, "quick", 3).cursor;
    drop(take_all(&mut log, CursorId::FLUSH));
    assert_eq!(log.drop_cursors(), [], "nothing is persisted yet");
    assert_eq!(log.kept_for_readers(), 0);
    log.note_persisted(Seqno(4));
    let kept_bytes = log.figures().bytes - log.chain.open.bytes;
    assert_eq!(log.kept_for_readers(), kept_bytes);
    assert_eq!(log.drop_cursors(), [(slow, CursorName::new("slow"))]);
    let gone = log.take(slow, TakeLimits::NONE).unwrap_err();
    assert_eq!(gone, CursorError::Gone(slow));
    assert_eq!(log.figures().checkpoints, 2, "others still need it");
    assert_eq!(log.kept_for_readers(), kept_bytes);
    assert!(log.remove_cursor(kept) && log.remove_cursor(monitor));
    assert_eq!((log.figures().checkpoints, log.kept_for_readers()), (1, 0));
    assert_eq!(seqnos(&take_all(&mut log, quick)), [4]);
    check(&log);
}

#[test]
fn a_cleared_log_begins_anew_behind_the_rollback() {
    let mut log = log_of(3);
    let cursor = register(&mut log, "stream", 1).cursor;
    log.open_checkpoint();
    append(&mut log, 3);
    drop(take_items(&mut log, cursor, 1));
    flush(&mut log);
    assert_eq!(log.expel(1).items, 1);
    let before = log.open_snapshot().0;
    log.clear(Seqno(2));
    let (id, start, _, kind) = log.open_snapshot();
    assert_eq!(
        (id, start, kind),
        (before.next(), Seqno(3), CheckpointKind::Memory)
    );
    let figures = log.figures();
    assert_eq!(
        (figures.items, figures.checkpoints, figures.cursors),
        (0, 1, 2)
    );
    assert_eq!((log.last_seqno(), log.complete_seqno()), (Seqno(2), None));
    assert!(!log.has_unflushed());
    assert_eq!(log.expel(usize::MAX), Expelled::default());
    append(&mut log, 2);
    assert_eq!(seqnos(&take_all(&mut log, cursor)), [3, 4]);
    assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [3, 4]);
    log.reset_flush_cursor(Seqno(2)).unwrap();
    assert_eq!(log.remaining(CursorId::FLUSH), Ok(2));
    check(&log);
}
