//! The passive monitor, and what the field got wrong in its own.

use super::*;

fn disk_end(start: u64, end: u64, completed: u64) -> SnapshotEnd {
    SnapshotEnd::disk((Seqno(start), Seqno(end)), None, Seqno(completed)).unwrap()
}

fn memory_end(end: u64) -> SnapshotEnd {
    SnapshotEnd::memory(Seqno(end))
}

fn commit(passive: &mut PassiveMonitor, seqno: u64) -> Result<(), PassiveError> {
    let order = CompletionOrder::Ordered(Seqno(seqno));
    passive.complete(&key(&format!("key {seqno}")), Completion::Commit, order)
}

#[test]
fn nothing_of_half_a_snapshot_is_acknowledged() {
    let mut passive = passive();
    passive.prepare(prepare(1, Majority), None).unwrap();
    passive.note_persisted(Seqno(1));
    assert_eq!(passive.high_prepared(), Seqno::ZERO);
    passive.snapshot_end(memory_end(2));
    assert_eq!(passive.high_prepared(), Seqno(1));
}

#[test]
fn a_prepare_for_the_disk_waits_for_the_whole_snapshot_there() {
    let mut passive = passive();
    passive.prepare(prepare(1, Majority), None).unwrap();
    passive
        .prepare(prepare(2, MajorityAndPersistOnActive), None)
        .unwrap();
    passive
        .prepare(prepare(3, PersistToMajority), None)
        .unwrap();
    passive.prepare(prepare(4, Majority), None).unwrap();
    passive.snapshot_end(memory_end(5));
    assert_eq!(passive.high_prepared(), Seqno(2));
    passive.note_persisted(Seqno(4));
    assert_eq!(passive.high_prepared(), Seqno(2));
    passive.note_persisted(Seqno(5));
    assert_eq!(passive.high_prepared(), Seqno(4));
}

/// MB-34873: a disk snapshot shows the newest of each key; what it left out may have been stronger.
#[test]
fn mb_34873_nothing_of_an_unpersisted_disk_snapshot_is_acknowledged() {
    let mut passive = passive();
    passive.prepare(prepare(2, Majority), None).unwrap();
    passive.snapshot_end(disk_end(0, 4, 0));
    // Nor is anything behind it.
    passive.prepare(prepare(5, Majority), None).unwrap();
    passive.snapshot_end(memory_end(5));
    assert_eq!(passive.high_prepared(), Seqno::ZERO);
    passive.note_persisted(Seqno(4));
    assert_eq!(passive.high_prepared(), Seqno(5));
}

/// MB-51639: a disk snapshot without prepares is held like any other, and said to be.
#[test]
fn mb_51639_a_disk_snapshot_without_prepares_counts() {
    let mut passive = passive();
    passive.snapshot_end(disk_end(0, 7, 3));
    assert_eq!(passive.high_prepared(), Seqno::ZERO);
    passive.note_persisted(Seqno(7));
    assert_eq!(passive.high_prepared(), Seqno(7));
    // MB-65251: and what it says is over, is over; of less than is known nothing is taken.
    assert_eq!(passive.high_completed(), Seqno(3));
    passive.snapshot_end(disk_end(7, 9, 1));
    assert_eq!(passive.high_completed(), Seqno(3));
}

/// MB-67467: a marker may name more than its prepares say, or less than its start, which says nothing; more than its end
/// is a lie.
#[test]
fn mb_67467_a_marker_names_what_is_prepared() {
    let range = (Seqno(4), Seqno(9));
    let mut passive = passive();
    passive.prepare(prepare(5, Majority), None).unwrap();
    let end = SnapshotEnd::disk(range, Some(Seqno(3)), Seqno::ZERO).unwrap();
    passive.snapshot_end(end);
    passive.note_persisted(Seqno(9));
    assert_eq!(passive.high_prepared(), Seqno(9));
    let (end, named) = (Seqno(9), Seqno(10));
    let lie = SnapshotEnd::disk(range, Some(named), Seqno::ZERO);
    assert_eq!(lie, Err(SnapshotEndError { end, named }));
    // What it names is never taken for less than what was passed.
    let mut passive = super::passive();
    passive.prepare(prepare(8, Majority), None).unwrap();
    passive.snapshot_end(SnapshotEnd::disk(range, Some(Seqno(4)), Seqno::ZERO).unwrap());
    passive.note_persisted(Seqno(9));
    assert_eq!(passive.high_prepared(), Seqno(8));
}

#[test]
fn in_memory_writes_end_in_the_order_they_were_prepared() {
    let mut passive = passive();
    for seqno in 1..=3 {
        passive.prepare(prepare(seqno, Majority), None).unwrap();
    }
    let (seqno, next) = (Seqno(2), Seqno(1));
    let early = commit(&mut passive, 2);
    assert_eq!(
        early,
        Err(PassiveError::CompletedOutOfOrder { seqno, next })
    );
    commit(&mut passive, 1).unwrap();
    commit(&mut passive, 2).unwrap();
    commit(&mut passive, 3).unwrap();
    assert_eq!(passive.high_completed(), Seqno(3));
    assert_eq!(commit(&mut passive, 4), Err(PassiveError::NothingPrepared));
}

/// MB-34151: what is over is kept while the high prepared seqno has yet to pass it.
#[test]
fn mb_34151_what_is_over_is_a_stepping_stone() {
    let mut passive = passive();
    passive
        .prepare(prepare(1, PersistToMajority), None)
        .unwrap();
    passive.snapshot_end(memory_end(1));
    commit(&mut passive, 1).unwrap();
    assert_eq!(passive.high_prepared(), Seqno::ZERO);
    passive.note_persisted(Seqno(2));
    assert_eq!(passive.high_prepared(), Seqno(1));
    assert!(passive.tracked_seqnos().is_empty());
}

/// MB-36262: in a disk snapshot, what is over goes; what is not stays, wherever the high seqnos are.
#[test]
fn mb_36262_nothing_incomplete_is_removed() {
    let mut passive = passive();
    for seqno in 1..=3 {
        passive.prepare(prepare(seqno, Majority), None).unwrap();
    }
    let unordered = CompletionOrder::Unordered;
    passive
        .complete(&key("key 3"), Completion::Commit, unordered)
        .unwrap();
    passive.snapshot_end(disk_end(0, 5, 0));
    passive.note_persisted(Seqno(5));
    assert_eq!(passive.high_completed(), Seqno(3));
    assert_eq!(incomplete(&passive), [1, 2]);
    assert_eq!(passive.tracked_seqnos(), [1, 2, 3]);
}

/// MB-36735: an abort in a disk snapshot whose prepare was left out is legal, also while another of its key that is over
/// is kept; a commit of what the vbucket holds and this does not is not.
#[test]
fn mb_36735_an_abort_without_its_prepare_is_legal_from_disk() {
    let mut passive = passive();
    let unordered = CompletionOrder::Unordered;
    passive
        .prepare(prepare(1, PersistToMajority), None)
        .unwrap();
    passive.snapshot_end(memory_end(1));
    commit(&mut passive, 1).unwrap();
    assert_eq!(
        passive.complete(&key("key 1"), Completion::Abort, unordered),
        Ok(())
    );
    assert_eq!(passive.tracked_seqnos(), [1]);
    assert_eq!(
        passive.complete(&key("key 1"), Completion::Commit, unordered),
        Err(PassiveError::NothingPrepared)
    );
}

/// MB-37205, MB-35135, MB-37063: a disk snapshot may bring a newer prepare of a key whose older one ended unseen; then
/// the one that is not over is what ends.
#[test]
fn mb_37205_mb_35135_mb_37063_a_prepare_may_take_the_place_of_one_that_ended_unseen() {
    let mut passive = passive();
    passive
        .prepare(prepare_of("x", 1, PersistToMajority), None)
        .unwrap();
    let (seqno, before) = (Seqno(3), Seqno(1));
    let unnamed = passive.prepare(prepare_of("x", 3, Majority), None);
    assert_eq!(unnamed, Err(PassiveError::StillPrepared { seqno, before }));
    passive
        .prepare(prepare_of("x", 3, Majority), Some(before))
        .unwrap();
    assert_eq!(incomplete(&passive), [3]);
    passive.snapshot_end(disk_end(0, 3, 1));
    // Kept, being above the high prepared seqno, it is not what the next end of that key is about.
    let unordered = CompletionOrder::Unordered;
    passive
        .complete(&key("x"), Completion::Commit, unordered)
        .unwrap();
    passive.prepare(prepare_of("x", 5, Majority), None).unwrap();
    passive
        .complete(&key("x"), Completion::Abort, unordered)
        .unwrap();
    assert_eq!(incomplete(&passive), [0; 0]);
    assert_eq!(passive.tracked_seqnos(), [3, 5]);
}

/// MB-51805, MB-35361: the end of the first snapshot on a stream moves the high prepared seqno though nothing in it does,
/// and a stream that was just accepted is told what was reached before it.
#[test]
fn mb_51805_mb_35361_a_new_stream_hears_what_was_reached() {
    let outstanding = Outstanding {
        prepares: vec![prepare(3, Majority)],
        ..Outstanding::default()
    };
    let ledger = Ledger::<()>::default();
    let replica = VbucketState::Replica;
    // Restarted in the middle of a snapshot.
    let monitor = Monitor::rebuild(replica, None, outstanding, &view(3, 3), &ledger);
    let mut passive = passive_of(monitor);
    let mut stream = Acknowledger::default();
    assert_eq!(stream.due(passive.high_prepared()), None);
    passive.snapshot_end(memory_end(4));
    assert_eq!(stream.due(passive.high_prepared()), Some(Seqno(3)));
    assert_eq!(stream.due(passive.high_prepared()), None);
    let mut stream = Acknowledger::default();
    assert_eq!(stream.due(passive.high_prepared()), Some(Seqno(3)));
}

/// MB-43176, and MB-50060 on a replica: nobody ends a prepare of a dropped collection; the next to end is the one behind
/// it, and a collection that began anew under the same number is not held up.
#[test]
fn mb_43176_mb_50060_a_dropped_collection_holds_nobody_up() {
    let dropped = CollectionId(8);
    let of = |seqno| Prepare {
        key: DocumentKey::new(dropped, b"x").unwrap(),
        ..prepare(seqno, Majority)
    };
    let mut passive = passive();
    passive.prepare(of(1), None).unwrap();
    passive.prepare(prepare(2, Majority), None).unwrap();
    passive.note_collection_dropped(dropped, Seqno(3));
    passive.prepare(of(4), None).unwrap();
    commit(&mut passive, 2).unwrap();
    assert_eq!(passive.tracked_seqnos(), [1, 2, 4]);
    passive.snapshot_end(memory_end(4));
    assert_eq!(passive.tracked_seqnos(), [4]);
    // The new life's own is not dropped with the old one.
    let order = CompletionOrder::Ordered(Seqno(4));
    passive
        .complete(&of(4).key, Completion::Commit, order)
        .unwrap();
}

#[test]
fn an_erased_prepare_moves_nothing() {
    let mut passive = passive();
    passive.prepare(prepare(1, Majority), None).unwrap();
    passive.prepare(prepare(2, Majority), None).unwrap();
    passive.snapshot_end(memory_end(2));
    assert!(!passive.erase(&key("key 1"), Seqno(2)));
    assert!(passive.erase(&key("key 2"), Seqno(2)));
    assert!(!passive.erase(&key("key 2"), Seqno(2)));
    assert_eq!(passive.high_prepared(), Seqno(2));
    assert_eq!(incomplete(&passive), [1]);
}

/// A disk snapshot that shows a collection only in its last life takes a document of that for the end of a prepare of the
/// first; what goes on before it is still the next to end.
#[test]
fn the_next_to_end_is_the_first_that_goes_on() {
    let mut passive = passive();
    passive.prepare(prepare(1, Majority), None).unwrap();
    passive.prepare(prepare(2, Majority), None).unwrap();
    passive.prepare(prepare(3, Majority), None).unwrap();
    let unordered = CompletionOrder::Unordered;
    passive
        .complete(&key("key 2"), Completion::Commit, unordered)
        .unwrap();
    assert_eq!(passive.high_completed(), Seqno(2));
    commit(&mut passive, 1).unwrap();
    commit(&mut passive, 3).unwrap();
    assert_eq!(incomplete(&passive), [0; 0]);
}
