//! The table of deduplication, row by row.

use super::*;

fn replaced(flush: FlushProgress, predecessor: Predecessor) -> Disposition {
    Disposition::Replaces { flush, predecessor }
}

#[test]
fn without_an_older_version_it_appends() {
    let every = [MUTATION, DELETION, PREPARE, ABORT, COMMIT, COMMIT_DELETION];
    for operation in every {
        let mut log = log_of(1);
        assert_eq!(put(&mut log, "k", operation, None), Disposition::Append);
        check(&log);
    }
}

#[test]
fn an_older_sync_write_stays() {
    for (older, newer) in [
        (PREPARE, PREPARE),
        (PREPARE, ABORT),
        (ABORT, PREPARE),
        (COMMIT, MUTATION),
        (COMMIT, DELETION),
        (COMMIT_DELETION, MUTATION),
        (COMMIT, COMMIT),
    ] {
        let mut log = log();
        put(&mut log, "k", older, None);
        let done = put(&mut log, "k", newer, Seqno(1));
        assert_eq!(done, Disposition::NewCheckpoint, "{older:?} {newer:?}");
        assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [1, 2]);
        check(&log);
    }
}

#[test]
fn a_commit_takes_no_place() {
    for newer in [COMMIT, COMMIT_DELETION] {
        let mut log = log_of(2);
        let done = put(&mut log, "key 2", newer, Seqno(2));
        assert_eq!(done, Disposition::NewCheckpoint);
        assert_eq!(log.figures().checkpoints, 2);
    }
}

#[test]
fn an_expelled_sync_write_counts_as_if_it_were_here() {
    for (older, newer) in [(PREPARE, PREPARE), (COMMIT, MUTATION)] {
        let mut log = log();
        put(&mut log, "k", older, None);
        append(&mut log, 2);
        flush(&mut log);
        assert_eq!(log.expel(1).items, 1);
        let done = put(&mut log, "k", newer, Seqno(1));
        assert_eq!(done, Disposition::NewCheckpoint);
        check(&log);
    }
}

#[test]
fn a_history_item_makes_a_new_checkpoint_on_either_side() {
    let with_history = |older| Replaces::from(older).keeping_history();
    let mut log = log();
    put(&mut log, "k", MUTATION, with_history(None));
    let done = put(&mut log, "k", MUTATION, Seqno(1));
    assert_eq!(done, Disposition::NewCheckpoint, "the older has history");
    let done = put(&mut log, "k", MUTATION, with_history(Some(Seqno(2))));
    assert_eq!(done, Disposition::NewCheckpoint, "the newer has history");
    assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [1, 2, 3]);
    check(&log);
}

#[test]
fn an_expelled_document_is_appended_to() {
    let mut log = log_of(3);
    flush(&mut log);
    assert_eq!(log.expel(2).items, 2);
    for (key, newer) in [("key 1", MUTATION), ("key 2", DELETION)] {
        let older = Seqno(if key == "key 1" { 1 } else { 2 });
        let done = put(&mut log, key, newer, older);
        assert_eq!(done, Disposition::Append);
        assert_eq!(
            done.predecessor(Some(older), Predecessor::Absent),
            Predecessor::At(older)
        );
    }
    assert_eq!(log.figures().checkpoints, 1);
    check(&log);
}

#[test]
fn an_expelled_document_makes_a_new_checkpoint_for_a_commit_or_history() {
    for is_history in [true, false] {
        let mut log = log_of(3);
        flush(&mut log);
        assert_eq!(log.expel(1).items, 1);
        let replaces = Replaces::from(Seqno(1));
        let done = if is_history {
            put(&mut log, "key 1", MUTATION, replaces.keeping_history())
        } else {
            put(&mut log, "key 1", COMMIT, replaces)
        };
        assert_eq!(done, Disposition::NewCheckpoint);
    }
}

#[test]
fn a_document_takes_the_place_of_one_not_yet_flushed_and_inherits_its_predecessor() {
    let mut log = log_of(3);
    let done = put(&mut log, "key 2", DELETION, Seqno(2));
    assert_eq!(done, replaced(FlushProgress::NotTaken, Predecessor::Absent));
    assert_eq!(log.remaining(CursorId::FLUSH), Ok(3));
    assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [1, 3, 4]);
    check(&log);
}

#[test]
fn of_a_document_under_way_to_the_store_nothing_is_known() {
    let mut log = log_of(3);
    assert_eq!(seqnos(&take_items(&mut log, CursorId::FLUSH, 2)), [1, 2]);
    let done = put(&mut log, "key 2", MUTATION, Seqno(2));
    assert_eq!(done, replaced(FlushProgress::Taken, Predecessor::Unknown));
    assert_eq!(log.remaining(CursorId::FLUSH), Ok(2), "one more to flush");
    check(&log);
}

#[test]
fn a_persisted_document_is_the_predecessor() {
    let mut log = log_of(3);
    assert_eq!(seqnos(&take_items(&mut log, CursorId::FLUSH, 2)), [1, 2]);
    log.note_persisted(Seqno(2));
    let done = put(&mut log, "key 2", MUTATION, Seqno(2));
    let predecessor = Predecessor::At(Seqno(2));
    assert_eq!(done, replaced(FlushProgress::Persisted, predecessor));
}

#[test]
fn an_older_version_in_a_closed_checkpoint_stays() {
    let mut log = log_of(3);
    log.open_checkpoint();
    let done = put(&mut log, "key 2", MUTATION, Seqno(2));
    assert_eq!(done, Disposition::Append);
    assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [1, 2, 3, 4]);
}

#[test]
fn what_a_stream_was_told_of_stays_until_it_has_read_it() {
    let mut log = log_of(4);
    let cursor = register(&mut log, "stream", 0).cursor;
    assert_eq!(seqnos(&take_items(&mut log, cursor, 2)), [1, 2]);
    let done = put(&mut log, "key 3", MUTATION, Seqno(3));
    assert_eq!(done, Disposition::NewCheckpoint, "told of 1 to 4");
    let rest = take_all(&mut log, cursor);
    assert_eq!(seqnos(&rest), [3, 4, 5]);
    assert_eq!(rest.pieces[0].opening, Opening::Continues);
    assert!(rest.pieces[0].completes);
    check(&log);
}

#[test]
fn what_a_stream_read_or_was_not_told_of_gives_way() {
    let mut log = log_of(4);
    let cursor = register(&mut log, "stream", 0).cursor;
    assert_eq!(seqnos(&take_items(&mut log, cursor, 2)), [1, 2]);
    let done = put(&mut log, "key 1", MUTATION, Seqno(1));
    assert!(matches!(done, Disposition::Replaces { .. }), "read already");
    let done = put(&mut log, "key 1", MUTATION, Seqno(5));
    assert!(matches!(done, Disposition::Replaces { .. }), "not told of");
    let rest = take_all(&mut log, cursor);
    let ends: Vec<_> = rest.pieces.iter().map(|piece| piece.end.0).collect();
    assert_eq!((seqnos(&rest), ends), (vec![3, 4, 6], vec![4, 6]));
    check(&log);
}

#[test]
fn an_item_is_found_behind_changes_of_identity_and_gaps() {
    let mut log = log();
    append(&mut log, 2);
    log.queue_identity(identity(1));
    append(&mut log, 2);
    log.queue_identity(identity(2));
    log.queue_identity(identity(3));
    append(&mut log, 2);
    for older in 1..=6 {
        let done = put(&mut log, &format!("key {older}"), MUTATION, Seqno(older));
        assert!(matches!(done, Disposition::Replaces { .. }), "{older}");
    }
    let taken = take_all(&mut log, CursorId::FLUSH);
    assert_eq!(seqnos(&taken), [7, 8, 9, 10, 11, 12]);
    assert_eq!(taken.identity, Some(identity(3)));
    check(&log);
}

#[test]
fn a_full_checkpoint_is_closed_before_the_next_item() {
    let limits = CheckpointLimits {
        items_max: 3,
        ..ROOMY
    };
    let mut log = CheckpointLog::new(Seqno(10), limits);
    append(&mut log, 3);
    let done = put(&mut log, "key 13", MUTATION, Seqno(13));
    assert_eq!(done, Disposition::NewCheckpoint);
    assert_eq!(log.open_start(), Seqno(14));
    let limits = CheckpointLimits {
        bytes_max: 1,
        ..ROOMY
    };
    let mut log = CheckpointLog::new(Seqno::ZERO, limits);
    log.queue_identity(identity(1));
    assert_eq!(put(&mut log, "a", MUTATION, None), Disposition::Append);
    assert_eq!(
        put(&mut log, "b", MUTATION, None),
        Disposition::NewCheckpoint
    );
}

#[test]
fn an_active_vbucket_leaves_no_seqno_out() {
    let mut log = log_of(2);
    for seqno in [2, 4] {
        let refused = log.queue(item(seqno, "k", MUTATION), None);
        let (seqno, last) = (Seqno(seqno), Seqno(2));
        assert_eq!(refused, Err(QueueError::OutOfOrder { seqno, last }));
    }
    assert_eq!(log.last_seqno(), Seqno(2));
}
