//! The table of registering a cursor, row by row, and what re-registering keeps and frees.

use super::*;

/// `(backfill_needed, next)` of a reader that holds everything up to `held`, and what it then reads.
fn outcome(log: &mut CheckpointLog, held: u64) -> (bool, u64, Vec<u64>) {
    let registered = register(log, "reader", held);
    let mut read = Vec::new();
    loop {
        let taken = take_all(log, registered.cursor);
        read.extend(seqnos(&taken));
        if !taken.more {
            break;
        }
    }
    (registered.backfill_needed, registered.next.0, read)
}

/// Checkpoints 11..=13 and 14..=16, kept by a cursor, behind a store that holds 10.
fn two_checkpoints() -> CheckpointLog {
    let mut log = CheckpointLog::new(Seqno(10), ROOMY);
    let _registered = register(&mut log, "keeper", 10);
    append(&mut log, 3);
    log.open_checkpoint();
    append(&mut log, 3);
    log
}

#[test]
fn below_what_is_here_a_backfill_is_needed() {
    let mut log = two_checkpoints();
    assert_eq!(
        outcome(&mut log, 0),
        (true, 11, vec![11, 12, 13, 14, 15, 16])
    );
    assert_eq!(
        outcome(&mut log, 9),
        (true, 11, vec![11, 12, 13, 14, 15, 16])
    );
}

/// MB-53616, MB-58961.
#[test]
fn just_below_what_is_here_none_is() {
    let mut log = two_checkpoints();
    assert_eq!(
        outcome(&mut log, 10),
        (false, 11, vec![11, 12, 13, 14, 15, 16])
    );
}

#[test]
fn inside_a_checkpoint_reading_goes_on_behind_what_is_held() {
    let mut log = two_checkpoints();
    assert_eq!(outcome(&mut log, 11), (false, 12, vec![12, 13, 14, 15, 16]));
    assert_eq!(outcome(&mut log, 15), (false, 16, vec![16]));
}

#[test]
fn at_the_end_of_a_closed_checkpoint_the_next_begins() {
    let mut log = two_checkpoints();
    assert_eq!(outcome(&mut log, 13), (false, 14, vec![14, 15, 16]));
}

#[test]
fn at_the_last_seqno_there_is_nothing_to_read_yet() {
    let mut log = two_checkpoints();
    assert_eq!(outcome(&mut log, 16), (false, 17, vec![]));
    log.queue_identity(identity(1));
    assert_eq!(outcome(&mut log, 16), (false, 17, vec![]));
    append(&mut log, 1);
    assert_eq!(outcome(&mut log, 16), (false, 17, vec![17]));
}

#[test]
fn above_the_last_seqno_it_is_refused() {
    let mut log = two_checkpoints();
    let refused = log.register(CursorName::new("reader"), Seqno(17), STREAM);
    let (seqno, last) = (Seqno(17), Seqno(16));
    assert_eq!(refused, Err(CursorError::Ahead { seqno, last }));
}

#[test]
fn an_empty_log_begins_behind_the_store() {
    let mut log = CheckpointLog::new(Seqno(10), ROOMY);
    assert_eq!(outcome(&mut log, 10), (false, 11, vec![]));
    assert_eq!(outcome(&mut log, 4), (true, 11, vec![]));
}

#[test]
fn an_empty_open_checkpoint_is_begun() {
    let mut log = two_checkpoints();
    log.open_checkpoint();
    assert_eq!(outcome(&mut log, 16), (false, 17, vec![]));
}

#[test]
fn gaps_of_deduplication_ask_for_no_backfill() {
    let mut log = log_of(4);
    put(&mut log, "key 1", MUTATION, Seqno(1));
    put(&mut log, "key 3", MUTATION, Seqno(3));
    assert_eq!(outcome(&mut log, 0), (false, 1, vec![2, 4, 5, 6]));
    assert_eq!(outcome(&mut log, 2), (false, 4, vec![4, 5, 6]));
    assert_eq!(outcome(&mut log, 3), (false, 4, vec![4, 5, 6]));
}

/// MB-58261.
#[test]
fn below_what_was_expelled_a_backfill_is_needed() {
    let mut log = log_of(6);
    flush(&mut log);
    assert_eq!(log.expel(3).items, 3);
    assert_eq!(outcome(&mut log, 0), (true, 4, vec![4, 5, 6]));
    assert_eq!(outcome(&mut log, 2), (true, 4, vec![4, 5, 6]));
    assert_eq!(outcome(&mut log, 3), (false, 4, vec![4, 5, 6]));
    assert_eq!(outcome(&mut log, 4), (false, 5, vec![5, 6]));
}

#[test]
fn with_all_expelled_only_the_last_seqno_needs_no_backfill() {
    let mut log = log_of(6);
    flush(&mut log);
    assert_eq!(log.expel(usize::MAX).items, 6);
    assert_eq!(outcome(&mut log, 0), (true, 7, vec![]));
    assert_eq!(outcome(&mut log, 5), (true, 7, vec![]));
    assert_eq!(outcome(&mut log, 6), (false, 7, vec![]));
    let refused = log.register(CursorName::new("reader"), Seqno(7), STREAM);
    assert!(matches!(refused, Err(CursorError::Ahead { .. })));
}

#[test]
fn a_closed_checkpoint_with_all_expelled_is_passed_over() {
    let mut log = CheckpointLog::new(Seqno(10), ROOMY);
    append(&mut log, 3);
    // Behind item 13, so no persisted seqno tells that the store has it: it keeps the checkpoint.
    log.queue_identity(identity(1));
    assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [11, 12, 13]);
    log.note_persisted(Seqno(13));
    log.open_checkpoint();
    assert_eq!(log.expel(usize::MAX).items, 3);
    append(&mut log, 2);
    assert_eq!(log.figures().checkpoints, 2);
    assert_eq!(outcome(&mut log, 12), (true, 14, vec![14, 15]));
    assert_eq!(outcome(&mut log, 13), (false, 14, vec![14, 15]));
}

#[test]
fn a_name_is_there_once_and_the_older_cursor_is_gone() {
    let mut log = log_of(3);
    let first = register(&mut log, "stream", 0).cursor;
    let second = register(&mut log, "stream", 1).cursor;
    assert_ne!(first, second);
    assert_eq!(log.figures().cursors, 2);
    let gone = log.take(first, TakeLimits::NONE).unwrap_err();
    assert_eq!(gone, CursorError::Gone(first));
    assert_eq!(seqnos(&take_all(&mut log, second)), [2, 3]);
}

/// MB-58692.
#[test]
fn registering_anew_in_the_same_checkpoint_keeps_it() {
    let mut log = two_checkpoints();
    flush(&mut log);
    assert_eq!(log.figures().checkpoints, 2, "the keeper keeps it");
    let _registered = register(&mut log, "keeper", 11);
    assert_eq!(log.figures().checkpoints, 2);
    assert_eq!(
        outcome(&mut log, 10),
        (false, 11, vec![11, 12, 13, 14, 15, 16])
    );
}

/// MB-58463.
#[test]
fn registering_anew_further_on_frees_what_is_behind_at_once() {
    let mut log = two_checkpoints();
    flush(&mut log);
    let again = register(&mut log, "keeper", 13);
    assert_eq!((again.backfill_needed, again.next), (false, Seqno(14)));
    assert_eq!(log.figures().checkpoints, 1);
    assert!(!log.take_garbage().is_empty());
    check(&log);
}

#[test]
fn the_flush_cursor_is_not_registered_nor_removed() {
    let mut log = log_of(1);
    let name = CursorName::new("flush");
    let refused = log.register(name, Seqno(0), STREAM);
    assert_eq!(refused, Err(CursorError::FlushCursor));
    let name = CursorName::new("another");
    let refused = log.register(name, Seqno(0), CursorKind::Flush);
    assert_eq!(refused, Err(CursorError::FlushCursor));
    assert!(!log.remove_cursor(CursorId::FLUSH));
    assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [1]);
}
