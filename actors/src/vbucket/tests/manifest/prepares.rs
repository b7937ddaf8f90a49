//! Prepares of a collection that ended: nobody ends them, and they are in nobody's way when it begins anew (MB-43176).

use std::sync::Arc;

use super::super::super::VbucketCore;
use super::super::super::checkpoint::ReplicaSnapshot;
use super::super::durable;
use super::super::support::durable::lead;
use super::super::support::{active, become_state, in_state};
use super::{begin_of, create, document_item, end_of, event_item, follow, get, set_in, write};
use messages::vbucket::Write;
use messages::{Durability, ManifestChange, OperationError};
use storage::{DurabilityLevel, Item, Operation, Outcome, Seqno, VbucketState};

fn with(item: &Item, operation: Operation) -> Arc<Item> {
    let mut item = item.clone();
    item.operation = operation;
    Arc::new(item)
}

fn prepared(seqno: u64, name: &str) -> Arc<Item> {
    prepared_in(seqno, 8, name)
}

fn prepared_in(seqno: u64, collection: u32, name: &str) -> Arc<Item> {
    let (level, is_deletion) = (DurabilityLevel::Majority, false);
    with(
        &document_item(seqno, collection, name),
        Operation::Prepare { level, is_deletion },
    )
}

/// Each item as a snapshot of its own.
fn feed(core: &VbucketCore, items: Vec<Arc<Item>>) {
    let epoch = core.begin_stream().unwrap();
    for item in items {
        let snapshot = ReplicaSnapshot::memory(item.seqno, item.seqno);
        core.apply_marker(epoch, &snapshot, true).unwrap();
        core.apply_item(epoch, item).unwrap();
    }
}

#[test]
fn one_of_the_life_before_is_in_nobody_s_way() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    let prepare_seqno = Seqno(6);
    feed(
        core,
        vec![
            event_item(1, &begin_of(1, 8, "a")),
            prepared(2, "k"),
            prepared(3, "other"),
            event_item(4, &end_of(2, 8, 1)),
            event_item(5, &begin_of(3, 8, "a")),
            prepared(6, "k"),
            // The first that goes on.
            with(
                &document_item(7, 8, "k"),
                Operation::CommitMutation { prepare_seqno },
            ),
        ],
    );
    bench.manifest.set(core.collections_manifest());
    become_state(core, VbucketState::Active);
    assert_eq!(get(core, 8, "k"), Ok(()));
    // Not hidden, not prepared: absent.
    assert_eq!(get(core, 8, "other"), Err(OperationError::KeyNotFound));
    write(core, 8, "other").unwrap();
    lead(core, &["a"]);
    bench.decide();
    durable::check(core);
    assert_eq!(core.high_seqno(), Seqno(8), "nothing of it is committed");
}

/// The same after a panic: whoever makes the monitor anew knows which are over.
#[test]
fn what_ended_with_its_collection_is_not_tracked_by_the_next_monitor() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    feed(
        core,
        vec![
            event_item(1, &begin_of(1, 8, "a")),
            prepared(2, "k"),
            event_item(3, &end_of(2, 8, 1)),
            event_item(4, &begin_of(3, 8, "a")),
            prepared(5, "other"),
        ],
    );
    core.reconcile();
    let prepare_seqno = Seqno(5);
    feed(
        core,
        vec![with(
            &document_item(6, 8, "other"),
            Operation::CommitMutation { prepare_seqno },
        )],
    );
    bench.manifest.set(core.collections_manifest());
    become_state(core, VbucketState::Active);
    lead(core, &["a"]);
    bench.decide();
    assert_eq!(core.high_seqno(), Seqno(6));
    write(core, 8, "k").unwrap();
}

/// The store tells of what it erases only above what it knows to be over: nobody else would.
#[test]
fn whoever_erases_what_ended_erases_its_prepares() {
    let bench = in_state(VbucketState::Replica);
    let core = &bench.core;
    feed(
        core,
        vec![
            event_item(1, &begin_of(1, 8, "a")),
            event_item(2, &begin_of(2, 9, "b")),
            prepared(3, "k"),
            prepared(4, "other"),
            event_item(5, &end_of(3, 8, 1)),
            prepared_in(6, 9, "k"),
            prepared_in(7, 9, "l"),
        ],
    );
    assert_eq!(core.durability_figures().prepares, 4);
    while core.erase_ended() == Outcome::Yielded {}
    let figures = core.durability_figures();
    assert_eq!((figures.prepares, figures.maybe_visible), (2, 2));
    durable::check(core);
    core.reconcile();
    durable::check(core);
    let prepare_seqno = Seqno(6);
    let commit = Operation::CommitMutation { prepare_seqno };
    feed(core, vec![with(&document_item(8, 9, "k"), commit)]);
    bench.manifest.set(core.collections_manifest());
    become_state(core, VbucketState::Active);
    lead(core, &["a"]);
    bench.decide();
    durable::check(core);
    assert_eq!(core.high_seqno(), Seqno(9), "the one that went on");
    assert_eq!(core.durability_figures().prepares, 0);
}

/// What an active vbucket had yet to decide of them nobody decides any more once it is none.
#[test]
fn one_that_is_active_no_more_has_them_erased() {
    let bench = active();
    let core = &bench.core;
    follow(&bench, create("_default", "c"));
    lead(core, &["a", "b"]);
    let request = set_in(8, "k");
    let durability = Durability::of(DurabilityLevel::Majority);
    let _wait = core.write_durably(Write::Set(request), durability).unwrap();
    let drop_collection = ManifestChange::DropCollection {
        scope: "_default".to_owned(),
        collection: "c".to_owned(),
    };
    follow(&bench, drop_collection);
    while core.erase_ended() == Outcome::Yielded {}
    let prepares = || core.durability_figures().prepares;
    assert_eq!((core.has_ended(), prepares()), (false, 1), "to be decided");
    become_state(core, VbucketState::Dead);
    assert!(core.has_ended(), "somebody has to erase it");
    while core.erase_ended() == Outcome::Yielded {}
    assert_eq!(prepares(), 0);
}
