//! A replica takes the prepares of its source and how they ended, refuses what does not fit what came before, and acknowledges
//! a prepare once it holds it as strongly as it asks: never inside a snapshot, never before the disk it waits for.
#![cfg(test)]

mod support;

use std::sync::Arc;

use messages::OperationError;
use piggin_actors::vbucket::checkpoint::ReplicaSnapshot;
use piggin_actors::vbucket::{StreamEpoch, VbucketCore};
use storage::{DurabilityLevel, Item, KvStore, MemoryStore, Operation, Seqno, VbucketState};
use support::durable::{
    aborted, committed, follow_again, follower, from_disk, from_memory, mutation, one_by_one,
    prepared, prepared_as,
};
use support::{Bench, Setup, become_state, flush_all, id, value};

fn refuses(core: &VbucketCore, epoch: StreamEpoch, item: Arc<Item>) -> bool {
    let before = (core.high_seqno(), core.durability_figures());
    let answer = core.apply_item(epoch, item);
    assert_eq!((core.high_seqno(), core.durability_figures()), before);
    assert!(!core.is_suspect());
    matches!(answer, Err(OperationError::BadReplication(_)))
}

/// A marker of a snapshot that goes on for long.
fn begin(core: &VbucketCore, epoch: StreamEpoch, from: u64) {
    let snapshot = ReplicaSnapshot::memory(Seqno(from), Seqno(1000));
    core.apply_marker(epoch, &snapshot, true).unwrap();
}

#[test]
fn prepares_end_as_they_did_on_the_source() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    let items = [
        mutation(1, "x"),
        prepared(2, "x"),
        prepared(3, "y"),
        committed(4, "x", 2),
        aborted(5, "y", 3),
        prepared(6, "z"),
    ];
    one_by_one(core, epoch, &items);
    let figures = core.durability_figures();
    assert_eq!((figures.prepares, figures.maybe_visible), (1, 1));
    assert_eq!(figures.high_completed, Seqno(3));
    assert_eq!(core.figures().documents, 1);
    become_state(core, VbucketState::Active);
    assert_eq!(value(core, "x").unwrap(), "value 4");
    assert_eq!(value(core, "y"), Err(OperationError::KeyNotFound));
}

#[test]
fn from_memory_nothing_comes_out_of_turn() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    begin(core, epoch, 1);
    assert!(refuses(core, epoch, committed(1, "x", 1)), "never prepared");
    assert!(refuses(core, epoch, aborted(1, "x", 1)), "never prepared");
    core.apply_item(epoch, prepared(1, "x")).unwrap();
    core.apply_item(epoch, prepared(2, "y")).unwrap();
    assert!(refuses(core, epoch, prepared(3, "x")), "still prepared");
    assert!(refuses(core, epoch, mutation(3, "x")), "still prepared");
    assert!(refuses(core, epoch, committed(3, "y", 2)), "x is first");
    assert!(refuses(core, epoch, committed(3, "x", 2)), "another's");
    core.apply_item(epoch, committed(3, "x", 1)).unwrap();
    // One snapshot shows no slot of a key twice.
    assert!(refuses(core, epoch, aborted(4, "y", 2)));
    from_memory(core, epoch, &[aborted(4, "y", 2)]);
    assert_eq!(core.durability_figures().prepares, 0);
}

/// MB-35633: a peer may have the prepare, and must get the abort.
#[test]
fn mb_35633_an_abort_whose_prepare_never_came_is_stored_from_disk() {
    let (bench, epoch) = follower();
    let items = [mutation(1, "x"), aborted(4, "y", 2), mutation(5, "z")];
    from_disk(&bench.core, epoch, 2, &items);
    let taken = bench.core.take_for_flush(9, usize::MAX).unwrap();
    let aborts = taken.items.iter().filter(|item| {
        let prepare_seqno = Seqno(2);
        matches!(item.operation, Operation::Abort { prepare_seqno: of, .. } if of == prepare_seqno)
    });
    assert_eq!(aborts.count(), 1);
    assert_eq!(bench.core.durability_figures().prepares, 0);
}

/// MB-34946: a disk snapshot shows what was committed as the document it is.
#[test]
fn mb_34946_a_document_from_disk_ends_the_prepare_of_its_key() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[prepared(1, "x"), prepared(2, "y")]);
    // In any order.
    from_disk(core, epoch, 2, &[mutation(3, "y"), mutation(4, "x")]);
    let figures = core.durability_figures();
    assert_eq!((figures.prepares, figures.maybe_visible), (0, 0));
    assert_eq!(figures.high_completed, Seqno(2));
    become_state(core, VbucketState::Active);
    assert_eq!(value(core, "x").unwrap(), "value 4");
}

/// MB-37205: its end may have been left out.
#[test]
fn mb_37205_a_disk_snapshot_may_replace_what_came_before_it() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[prepared(1, "x")]);
    let snapshot = ReplicaSnapshot::disk(Seqno(2), Seqno(9), Seqno(1));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, prepared(5, "x")).unwrap();
    assert_eq!(core.durability_figures().prepares, 1);
    assert!(
        refuses(core, epoch, prepared(6, "x")),
        "of the same snapshot"
    );
    core.apply_item(epoch, mutation(9, "z")).unwrap();
    from_memory(core, epoch, &[committed(10, "x", 5)]);
    assert_eq!(core.durability_figures().prepares, 0);
}

#[test]
fn what_is_in_half_a_snapshot_is_not_acknowledged() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    let snapshot = ReplicaSnapshot::memory(Seqno(1), Seqno(3));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    core.apply_item(epoch, prepared(1, "x")).unwrap();
    core.apply_item(epoch, mutation(2, "y")).unwrap();
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(None));
    core.apply_item(epoch, mutation(3, "y2")).unwrap();
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(Some(Seqno(1))));
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(None), "once");
    from_memory(core, epoch, &[mutation(4, "z")]);
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(None));
    // MB-35361: what was said on a stream that ended may be lost.
    let again = core.begin_stream().unwrap();
    let of_the_one_before = core.prepared_to_acknowledge(epoch);
    assert_eq!(of_the_one_before, Err(OperationError::StaleStream));
    assert_eq!(core.prepared_to_acknowledge(again), Ok(Some(Seqno(1))));
}

fn with_store() -> (Bench, StreamEpoch, MemoryStore) {
    let setup = Setup::default();
    let store = MemoryStore::new(8);
    store.create_vbucket(id(), &setup.record).unwrap();
    let bench = setup.warm();
    let epoch = follow_again(&bench.core);
    (bench, epoch, store)
}

#[test]
fn what_must_be_on_disk_is_acknowledged_with_all_of_its_snapshot() {
    let (bench, epoch, store) = with_store();
    let core = &bench.core;
    let strong = prepared_as(2, "y", DurabilityLevel::PersistToMajority);
    let items = [prepared(1, "x"), strong, prepared(3, "z"), mutation(4, "m")];
    from_memory(core, epoch, &items);
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(Some(Seqno(1))));
    let take = core.take_for_flush(3, usize::MAX).unwrap();
    assert_eq!(take.watermarks.high_seqno, Seqno(3));
    let group = [support::batch(take, &support::position(&store))];
    for done in store.commit(&group, storage::CommitDurability::Synced) {
        done.unwrap();
    }
    core.note_persisted(Seqno(3));
    assert_eq!(
        core.prepared_to_acknowledge(epoch),
        Ok(None),
        "not all of it"
    );
    flush_all(core, &store, 9);
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(Some(Seqno(3))));
}

/// MB-34873: what it left out may have been stronger than what it shows.
#[test]
fn mb_34873_a_disk_snapshot_is_acknowledged_once_it_is_on_disk() {
    let (bench, epoch, store) = with_store();
    let core = &bench.core;
    from_disk(core, epoch, 0, &[prepared(1, "x"), mutation(7, "y")]);
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(None));
    flush_all(core, &store, 9);
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(Some(Seqno(7))));
}

/// MB-31869.
#[test]
fn mb_31869_nothing_of_it_is_refused_for_memory() {
    let setup = Setup {
        quota_bytes: 64,
        ..Setup::default()
    };
    let bench = setup.warm();
    let epoch = follow_again(&bench.core);
    let items = [
        prepared(1, "x"),
        prepared(2, "y"),
        committed(3, "x", 1),
        aborted(4, "y", 2),
    ];
    one_by_one(&bench.core, epoch, &items);
    assert_eq!(bench.core.high_seqno(), Seqno(4));
}

/// MB-51606: what was flushed while it was dead counts when it is a replica again.
#[test]
fn mb_51606_a_vbucket_that_was_dead_goes_on() {
    let (bench, epoch, store) = with_store();
    let core = &bench.core;
    let strong = prepared_as(1, "x", DurabilityLevel::PersistToMajority);
    from_memory(core, epoch, &[strong]);
    become_state(core, VbucketState::Dead);
    flush_all(core, &store, 9);
    assert_eq!(core.durability_figures().high_prepared, Seqno(0));
    let again = follow_again(core);
    assert_eq!(core.prepared_to_acknowledge(again), Ok(Some(Seqno(1))));
}

/// MB-36563: the new active's commit applies to what this one had prepared.
#[test]
fn one_that_was_active_takes_the_end_of_what_it_prepared() {
    let bench = support::durable::leader(&["a", "b"]);
    let core = &bench.core;
    let _wait = support::durable::prepare(core, "x", "mine");
    support::durable::acknowledge(core, "b", 1);
    let epoch = follow_again(core);
    assert_eq!(core.prepared_to_acknowledge(epoch), Ok(Some(Seqno(1))));
    from_memory(core, epoch, &[committed(2, "x", 1)]);
    assert_eq!(core.durability_figures().prepares, 0);
}
