//! Slices, snapshots as streams are told them, what is settled for the flusher, and the flush cursor's reset.

use super::*;

#[test]
fn a_slice_is_bounded_but_never_empty() {
    let mut log = log_of(5);
    let limits = TakeLimits {
        items_max: 10,
        bytes_max: 1,
    };
    let taken = log.take(CursorId::FLUSH, limits).unwrap();
    assert_eq!((seqnos(&taken), taken.more), (vec![1], true));
    let taken = take_items(&mut log, CursorId::FLUSH, 3);
    assert_eq!((seqnos(&taken), taken.more), (vec![2, 3, 4], true));
    let taken = take_items(&mut log, CursorId::FLUSH, 3);
    assert_eq!((seqnos(&taken), taken.more), (vec![5], false));
    let taken = take_all(&mut log, CursorId::FLUSH);
    assert!(taken.items.is_empty() && taken.pieces.is_empty() && !taken.more);
}

/// A change of a manifest of many names goes to the store as a whole, and through a stream in slices like all else.
#[test]
fn a_run_of_system_events_is_cut_for_streams_and_for_the_store_is_not() {
    let mut log = log_of(1);
    let cursor = register(&mut log, "stream", 0).cursor;
    for number in 0..2000 {
        put(&mut log, &format!("event {number}"), EVENT, None);
    }
    append(&mut log, 1);
    let counts = |log: &mut CheckpointLog, cursor: CursorId| {
        let mut counts = Vec::new();
        loop {
            let taken = take_items(log, cursor, 512);
            counts.push(taken.items.len());
            if !taken.more {
                return counts;
            }
        }
    };
    assert_eq!(counts(&mut log, cursor), [512, 512, 512, 466]);
    assert_eq!(counts(&mut log, CursorId::FLUSH), [2001, 1]);
    check(&log);
}

#[test]
fn a_snapshot_is_told_whole_and_kept_over_slices() {
    let mut log = log_of(5);
    let cursor = register(&mut log, "stream", 0).cursor;
    let told = |taken: &Taken| {
        let piece = &taken.pieces[0];
        (piece.opening, piece.start.0, piece.end.0, piece.completes)
    };
    let first = take_items(&mut log, cursor, 3);
    assert_eq!(told(&first), (Opening::Checkpoint, 1, 5, false));
    append(&mut log, 2);
    let second = take_items(&mut log, cursor, 1);
    assert_eq!(told(&second), (Opening::Continues, 1, 5, false));
    let third = take_items(&mut log, cursor, 1);
    assert_eq!(told(&third), (Opening::Continues, 1, 5, true));
    let fourth = take_all(&mut log, cursor);
    assert_eq!(told(&fourth), (Opening::Snapshot, 6, 7, true));
}

#[test]
fn mb_24244_a_snapshot_has_each_key_once() {
    // Wherever the slice ends behind which the key is written again.
    for taken_before in 0..4 {
        let mut log = log();
        let cursor = register(&mut log, "stream", 0).cursor;
        for (seqno, name) in [(1, "a"), (2, "b"), (3, "c")] {
            let done = put(&mut log, name, Operation::Mutation, None);
            assert_eq!(
                (done, log.last_seqno()),
                (Disposition::Append, Seqno(seqno))
            );
        }
        let mut snapshots: Vec<Vec<Arc<Item>>> = Vec::new();
        let mut add = |taken: &Taken| {
            for piece in &taken.pieces {
                if piece.opening != Opening::Continues {
                    snapshots.push(Vec::new());
                }
                let items = taken.items[piece.items.clone()].iter();
                snapshots.last_mut().unwrap().extend(items.cloned());
            }
        };
        if taken_before > 0 {
            add(&take_items(&mut log, cursor, taken_before));
        }
        put(&mut log, "a", Operation::Mutation, Seqno(1));
        add(&take_all(&mut log, cursor));
        for snapshot in snapshots {
            let mut keys: Vec<_> = snapshot.iter().map(|item| &item.document.key).collect();
            let count = keys.len();
            keys.sort_unstable();
            keys.dedup();
            assert_eq!(keys.len(), count, "{taken_before}: {snapshot:?}");
        }
    }
}

#[test]
fn every_checkpoint_is_a_snapshot_of_its_own() {
    let mut log = log_of(2);
    let cursor = register(&mut log, "stream", 0).cursor;
    log.open_checkpoint();
    append(&mut log, 2);
    log.open_checkpoint();
    let taken = take_all(&mut log, cursor);
    let told = |piece: &SnapshotPiece| (piece.opening, piece.items.clone(), piece.end.0);
    let told: Vec<_> = taken.pieces.iter().map(told).collect();
    let opening = Opening::Checkpoint;
    assert_eq!(told, [(opening, 0..2, 2), (opening, 2..4, 4)]);
    // The third has no item yet; its beginning is not lost.
    append(&mut log, 1);
    let taken = take_all(&mut log, cursor);
    assert_eq!(taken.pieces[0].opening, Opening::Checkpoint);
    assert_eq!(taken.pieces[0].start, Seqno(5));
    check(&log);
}

#[test]
fn a_change_of_identity_reaches_the_flusher_only_and_moves_nothing() {
    let mut log = log();
    let cursor = register(&mut log, "stream", 0).cursor;
    log.queue_identity(identity(1));
    assert_eq!(log.last_seqno(), Seqno::ZERO);
    assert_eq!(log.remaining(cursor), Ok(0));
    assert!(log.has_unflushed());
    let for_stream = take_all(&mut log, cursor);
    assert!(for_stream.items.is_empty() && for_stream.pieces.is_empty());
    let for_flusher = take_all(&mut log, CursorId::FLUSH);
    assert_eq!(for_flusher.identity, Some(identity(1)));
    assert!(for_flusher.pieces.is_empty());
    assert!(!log.has_unflushed());
    append(&mut log, 1);
    let for_stream = take_all(&mut log, cursor);
    assert_eq!(for_stream.pieces[0].opening, Opening::Checkpoint);
    check(&log);
}

#[test]
fn two_full_checkpoints_are_far_behind_whatever_their_items_weigh() {
    let by = |bytes_max, items_max| {
        let limits = CheckpointLimits {
            bytes_max,
            items_max,
        };
        let mut log = CheckpointLog::new(Seqno::ZERO, limits);
        let cursor = register(&mut log, "stream", 0).cursor;
        let mut items = 0;
        while !log.is_far_behind(cursor) && items < 1_000 {
            append(&mut log, 1);
            items += 1;
        }
        items
    };
    assert_eq!(by(1 << 20, 10), 21);
    let by_bytes = by(1_000, 10_000);
    assert!((2..1_000).contains(&by_bytes), "{by_bytes}");
}

#[test]
fn a_slice_with_a_replaced_item_behind_it_is_not_settled() {
    let mut log = log_of(4);
    put(&mut log, "key 2", MUTATION, Seqno(2));
    let taken = take_items(&mut log, CursorId::FLUSH, 2);
    assert_eq!(seqnos(&taken), [1, 3]);
    assert_eq!(taken.settled, Seqno(1), "item 2 lives on as 5");
    let taken = take_all(&mut log, CursorId::FLUSH);
    assert_eq!((seqnos(&taken), taken.settled), (vec![4, 5], Seqno(5)));
}

#[test]
fn a_replaced_item_that_was_persisted_unsettles_nothing() {
    let mut log = log_of(3);
    drop(take_items(&mut log, CursorId::FLUSH, 1));
    log.note_persisted(Seqno(1));
    put(&mut log, "key 1", MUTATION, Seqno(1));
    let taken = take_items(&mut log, CursorId::FLUSH, 1);
    assert_eq!((seqnos(&taken), taken.settled), (vec![2], Seqno(2)));
}

#[test]
fn after_a_reset_a_replaced_item_unsettles_again() {
    let mut log = log_of(3);
    drop(take_items(&mut log, CursorId::FLUSH, 2));
    log.note_persisted(Seqno(2));
    put(&mut log, "key 2", MUTATION, Seqno(2));
    log.reset_flush_cursor(Seqno(1)).unwrap();
    let taken = take_items(&mut log, CursorId::FLUSH, 1);
    assert_eq!((seqnos(&taken), taken.settled), (vec![3], Seqno(1)));
}

#[test]
fn a_reset_flush_cursor_reads_again_what_the_store_lost() {
    let mut log = log_of(3);
    log.open_checkpoint();
    append(&mut log, 3);
    log.queue_identity(identity(1));
    let taken = take_all(&mut log, CursorId::FLUSH);
    assert_eq!(taken.identity, Some(identity(1)));
    assert_eq!(log.figures().checkpoints, 2, "kept until it is persisted");
    log.reset_flush_cursor(Seqno(2)).unwrap();
    assert_eq!(log.remaining(CursorId::FLUSH), Ok(4));
    let taken = take_all(&mut log, CursorId::FLUSH);
    assert_eq!(seqnos(&taken), [3, 4, 5, 6]);
    assert_eq!(taken.identity, Some(identity(1)));
    log.note_persisted(Seqno(6));
    assert_eq!(log.figures().checkpoints, 1);
    log.reset_flush_cursor(Seqno(6)).unwrap();
    let taken = take_all(&mut log, CursorId::FLUSH);
    assert!(taken.items.is_empty());
    assert_eq!(
        taken.identity,
        Some(identity(1)),
        "it lies above item 6, so it may be lost"
    );
    check(&log);
}

#[test]
fn a_reset_goes_no_further_back_than_what_is_here() {
    let mut log = log_of(6);
    flush(&mut log);
    assert_eq!(log.expel(3).items, 3);
    log.reset_flush_cursor(Seqno(3)).unwrap();
    let refused = log.reset_flush_cursor(Seqno(2));
    let (seqno, first_held) = (Seqno(2), Seqno(4));
    assert_eq!(
        refused,
        Err(CursorError::NoLongerHeld { seqno, first_held })
    );
    let (seqno, last) = (Seqno(7), Seqno(6));
    let refused = log.reset_flush_cursor(seqno);
    assert_eq!(refused, Err(CursorError::Ahead { seqno, last }));
    check(&log);
}

#[test]
fn what_was_not_taken_is_not_persisted() {
    let mut log = log_of(4);
    drop(take_items(&mut log, CursorId::FLUSH, 2));
    log.note_persisted(Seqno(4));
    assert_eq!(log.expel(usize::MAX).items, 2);
    log.note_persisted(Seqno(1));
    assert_eq!(seqnos(&take_all(&mut log, CursorId::FLUSH)), [3, 4]);
    check(&log);
}

#[test]
fn a_monitor_reads_prepares_in_their_order() {
    let mut log = log();
    let name = CursorName::new("durability monitor");
    let kind = CursorKind::DurabilityMonitor;
    let monitor = log.register(name, Seqno(0), kind).unwrap().cursor;
    put(&mut log, "a", PREPARE, None);
    append(&mut log, 1);
    put(&mut log, "b", PREPARE, None);
    put(&mut log, "a", COMMIT, None);
    put(&mut log, "a", PREPARE, Seqno(1));
    let taken = take_all(&mut log, monitor);
    assert_eq!(seqnos(&taken), [1, 2, 3, 4, 5]);
    assert_eq!(log.remaining(monitor), Ok(0));
}
