//! What a stream says of durable writes: everything to a replica, to others what is committed.

use storage::{DurabilityLevel, Operation};

use super::*;
use crate::durability::NodeName;

fn with(operation: Operation, seqno: u64, key: &str) -> Arc<Item> {
    let mut item = item_of(CollectionId::DEFAULT, seqno, key);
    Arc::make_mut(&mut item).operation = operation;
    item
}

fn prepared(seqno: u64, key: &str) -> Arc<Item> {
    let level = DurabilityLevel::Majority;
    let is_deletion = false;
    with(Operation::Prepare { level, is_deletion }, seqno, key)
}

fn committed(seqno: u64, prepare: u64, key: &str) -> Arc<Item> {
    let prepare_seqno = Seqno(prepare);
    with(Operation::CommitMutation { prepare_seqno }, seqno, key)
}

fn aborted(seqno: u64, prepare: u64, key: &str) -> Arc<Item> {
    let abort = Operation::Abort {
        prepare_seqno: Seqno(prepare),
        deleted_at: 1,
    };
    with(abort, seqno, key)
}

/// A stream to a replica.
fn to_replica(start: u64) -> Admitted {
    let usual = admitted(start, u64::MAX);
    Admitted {
        filter: usual.filter.clone().synchronous(true),
        node: Some(NodeName::new("b")),
        ..usual
    }
}

/// A history of three durable writes, the last of which goes on.
fn history(log: &mut CheckpointLog) {
    for item in [
        prepared(1, "one"),
        committed(2, 1, "one"),
        prepared(3, "two"),
        aborted(4, 3, "two"),
        prepared(5, "three"),
    ] {
        queue(log, item);
    }
}

/// What a stream says of that history, from memory.
fn told(admitted: Admitted) -> Vec<String> {
    let (mut log, mut state) = (log(0), StreamState::new(admitted));
    let registered = register(&mut log, Seqno::ZERO);
    state.registered(registered);
    history(&mut log);
    // A prepare and its end may lie in two checkpoints.
    for _ in 0..8 {
        take(&mut state, &mut log, registered.cursor, 10);
    }
    let said = said(&mut state);
    said.into_iter()
        .filter(|one| !one.starts_with("memory"))
        .collect()
}

#[test]
fn a_replica_is_told_of_every_prepare_and_how_it_ended() {
    let expected = ["prepare 1", "commit 2", "prepare 3", "abort 4", "prepare 5"];
    assert_eq!(told(to_replica(0)), expected);
}

#[test]
fn others_are_told_of_what_is_committed_and_where_the_snapshot_ends() {
    let said = told(admitted(0, u64::MAX));
    let is_shown = |one: &&String| !one.starts_with("advanced");
    assert_eq!(said.iter().filter(is_shown).collect::<Vec<_>>(), ["set 2"]);
    assert_eq!(said.last().map(String::as_str), Some("advanced 5"));
}

/// What a snapshot from disk left out is missing until its end: a replica that stood in one may not be told the rest of
/// its source's memory, where a prepare ends that it never got.
#[test]
fn a_replica_in_a_disk_snapshot_is_read_the_rest_from_disk() {
    let wanted = Admitted {
        snapshot: SnapshotRange {
            start: Seqno(1),
            end: Seqno(9),
        },
        disk_up_to: Some(Seqno(9)),
        ..to_replica(4)
    };
    let mut state = StreamState::new(wanted);
    // Without asking whether it lies in memory, too.
    let range = BackfillRange {
        first: Seqno(5),
        last: Seqno(9),
    };
    assert_eq!(state.want(), Want::Backfill(range));
    state.scheduled();
    state.opened(&at(10), Some(registered(false, 11)));
    backfilled(
        &mut state,
        [prepared(10, "k")],
        Seqno(10),
        Skipped::default(),
    );
    state.backfill_ended(BackfillEnd::Complete(Seqno(10)));
    assert_eq!(said(&mut state), ["disk+ 1-10", "prepare 10"]);
    assert_eq!(state.want(), Want::Log);
}
