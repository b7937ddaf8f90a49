//! A durable write that was taken on is answered exactly once, never with "it failed": when it is committed, with the seqno
//! of the commit; when nobody can say, as ambiguous; when its collection is gone, with that.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use messages::compactor::PreparesErased;
use messages::vbucket::{SetVbucketState, Write};
use messages::{Busy, DownCause, Durability, ManifestChange, OperationError};
use piggin_actors::durability::NodeName;
use piggin_actors::vbucket::{DirtyVbuckets, VbucketCore, changed};
use storage::{
    CollectionId, CommitDurability, DocumentKey, DurabilityLevel, ErasedPrepare, Incarnation,
    KvStore, MemoryStore, Namespace, Operation, Outcome, RollbackEpoch, Seqno, VbucketState,
};
use support::durable::{
    MAJORITY, ON_ACTIVE, ON_DISKS, acknowledge, answer, chain, lead, leader, prepare,
};
use support::{
    Bench, Setup, batch, become_state, delete, flush_all, id, key, position, set, value,
};

const AMBIGUOUS: OperationError = OperationError::SyncWriteAmbiguous;

fn taken(core: &VbucketCore) -> Vec<Operation> {
    let take = core.take_for_flush(100, usize::MAX);
    let items = take.into_iter().flat_map(|take| take.items);
    items.map(|item| item.operation).collect()
}

/// MB-71990: older engines named the prepare.
#[test]
fn mb_71990_the_answer_names_the_commit() {
    let bench = leader(&["a", "b", "c"]);
    let core = &bench.core;
    let mut wait = prepare(core, "k", "1");
    core.set(set("other", "")).unwrap();
    bench.decide();
    assert_eq!(answer(&mut wait), None);
    acknowledge(core, "b", 1);
    assert_eq!(answer(&mut wait), None, "decided is not done");
    bench.decide();
    let mutated = answer(&mut wait).unwrap().unwrap();
    assert_eq!(mutated.token.seqno, Seqno(3));
    let meta = core.get_meta(&key("k")).unwrap();
    assert_eq!((meta.cas, meta.seqno), (mutated.cas, Seqno(3)));
    assert_eq!(value(core, "k").unwrap(), "1");
    let prepare_seqno = Seqno(1);
    assert_eq!(taken(core)[2], Operation::CommitMutation { prepare_seqno });
}

/// MB-34228: a chain without replicas is decided by the insert, and must not be carried out inside it.
#[test]
fn mb_34228_what_is_decided_at_once_is_done_later() {
    let bench = leader(&["a"]);
    let edge = Arc::new(DirtyVbuckets::new(8));
    bench.core.set_durability_edge(Arc::clone(&edge));
    while edge.take().is_some() {}
    let mut wait = prepare(&bench.core, "k", "1");
    assert_eq!(bench.core.high_seqno(), Seqno(1));
    assert_eq!(answer(&mut wait), None);
    assert_eq!(edge.take(), Some(id()), "somebody is told");
    bench.decide();
    assert!(answer(&mut wait).unwrap().is_ok());
}

#[test]
fn each_level_waits_for_what_it_says() {
    let rows = [(MAJORITY, false), (ON_ACTIVE, true), (ON_DISKS, true)];
    for (durability, needs_disk) in rows {
        let setup = Setup::default();
        let store = MemoryStore::new(8);
        store.create_vbucket(id(), &setup.record).unwrap();
        let bench = setup.warm();
        lead(&bench.core, &["a", "b"]);
        let write = Write::Set(set("k", "1"));
        let mut wait = bench.core.write_durably(write, durability).unwrap();
        acknowledge(&bench.core, "b", 1);
        bench.decide();
        assert_eq!(answer(&mut wait).is_none(), needs_disk, "{durability:?}");
        if needs_disk {
            flush_all(&bench.core, &store, 10);
            bench.decide();
            assert!(answer(&mut wait).unwrap().is_ok());
        }
    }
}

/// The store was opened anew, and has what was on its way.
#[test]
fn what_a_store_is_found_to_hold_counts() {
    let setup = Setup::default();
    let store = MemoryStore::new(8);
    store.create_vbucket(id(), &setup.record).unwrap();
    let bench = setup.warm();
    lead(&bench.core, &["a"]);
    let write = Write::Set(set("k", "1"));
    let mut wait = bench.core.write_durably(write, ON_ACTIVE).unwrap();
    let take = bench.core.take_for_flush(9, usize::MAX).unwrap();
    let group = [batch(take, &position(&store))];
    for done in store.commit(&group, CommitDurability::Synced) {
        done.unwrap();
    }
    bench.decide();
    assert_eq!(answer(&mut wait), None);
    bench.core.resync(Seqno(1));
    bench.decide();
    assert!(answer(&mut wait).unwrap().is_ok());
}

/// MB-34628: whoever is heard first, the first prepare is committed first.
#[test]
fn mb_34628_commits_come_in_the_order_of_their_prepares() {
    let bench = leader(&["a", "b", "c"]);
    let core = &bench.core;
    let mut waits: Vec<_> = ["x", "y", "z"]
        .map(|name| prepare(core, name, ""))
        .into_iter()
        .collect();
    acknowledge(core, "c", 2);
    acknowledge(core, "b", 1);
    acknowledge(core, "b", 3);
    bench.decide();
    let seqnos: Vec<_> = waits
        .iter_mut()
        .map(|wait| answer(wait).unwrap().unwrap().token.seqno.0)
        .collect();
    assert_eq!(seqnos, [4, 5, 6]);
}

#[test]
fn a_durable_deletion_leaves_a_tombstone() {
    let bench = leader(&["a"]);
    let core = &bench.core;
    core.set(set("k", "1")).unwrap();
    let write = Write::Delete(delete("k"));
    let mut wait = core.write_durably(write, MAJORITY).unwrap();
    assert_eq!(value(core, "k").unwrap(), "1", "until it is committed");
    bench.decide();
    let mutated = answer(&mut wait).unwrap().unwrap();
    assert_eq!(core.get(&key("k")), Err(OperationError::KeyNotFound));
    let meta = core.get_meta(&key("k")).unwrap();
    assert!(meta.is_deleted && meta.cas == mutated.cas);
    assert_eq!(core.figures().documents, 0);
    core.set(set("k", "2")).unwrap();
}

#[test]
fn what_takes_too_long_is_given_up() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    core.set(set("k", "before")).unwrap();
    let mut wait = prepare(core, "k", "1");
    let progress = core.do_durability(bench.now(), 9);
    let at = progress.next_tick.unwrap();
    assert!(at > bench.now() + Durability::TIMEOUT && !progress.has_more);
    bench.clock.advance(Durability::TIMEOUT);
    bench.decide();
    assert_eq!(answer(&mut wait), None, "not before it passed");
    bench.clock.advance(Duration::from_nanos(1));
    bench.decide();
    assert_eq!(answer(&mut wait), Some(Err(AMBIGUOUS)));
    assert_eq!(value(core, "k").unwrap(), "before");
    let operations = taken(core);
    let is_abort = matches!(operations[2], Operation::Abort { prepare_seqno, .. } if prepare_seqno == Seqno(2));
    assert!(is_abort, "{operations:?}");
    // Late, and of nothing that goes on.
    acknowledge(core, "b", 3);
    bench.decide();
    assert_eq!(core.high_seqno(), Seqno(3));
    core.set(set("k", "after")).unwrap();
}

/// MB-34812: one that is overdue behind one that is not is answered, and stays.
#[test]
fn who_waited_long_enough_is_answered_though_nothing_is_decided() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    let mut first = prepare(core, "x", "");
    let brief = Durability {
        level: DurabilityLevel::Majority,
        timeout: Some(Duration::from_millis(5)),
    };
    let write = Write::Set(set("y", "kept"));
    let mut second = core.write_durably(write, brief).unwrap();
    bench.clock.advance(Duration::from_millis(6));
    bench.decide();
    assert_eq!(answer(&mut second), Some(Err(AMBIGUOUS)));
    assert_eq!(core.high_seqno(), Seqno(2));
    acknowledge(core, "b", 2);
    bench.decide();
    assert!(answer(&mut first).unwrap().is_ok());
    assert_eq!(value(core, "y").unwrap(), "kept");
}

#[test]
fn what_became_impossible_is_given_up() {
    let bench = leader(&["a", "b"]);
    let mut wait = prepare(&bench.core, "k", "");
    lead(&bench.core, &["a", ""]);
    bench.decide();
    assert_eq!(answer(&mut wait), Some(Err(AMBIGUOUS)));
    assert_eq!(bench.core.durability_figures().prepares, 0);
}

/// MB-36372, MB-36563, MB-36102: answered, and kept, whatever was decided.
#[test]
fn who_waits_when_the_vbucket_ceases_to_be_active_is_answered() {
    for state in [
        VbucketState::Replica,
        VbucketState::Pending,
        VbucketState::Dead,
    ] {
        let bench = leader(&["a", "b"]);
        let core = &bench.core;
        let mut decided = prepare(core, "x", "");
        let mut waiting = prepare(core, "y", "");
        acknowledge(core, "b", 1);
        let before = core.role();
        become_state(core, state);
        assert_eq!(answer(&mut decided), Some(Err(AMBIGUOUS)));
        assert_eq!(answer(&mut waiting), Some(Err(AMBIGUOUS)));
        assert!(core.role() > before);
        let figures = core.durability_figures();
        assert_eq!((figures.prepares, figures.waiting), (2, 0));
        // Said in another role.
        core.acknowledge_prepared(before, &NodeName::new("b"), Seqno(2));
        bench.decide();
        assert_eq!(core.high_seqno(), Seqno(2));
    }
}

/// MB-46272: what was decided is not thrown away, nor done out of turn.
#[test]
fn mb_46272_a_shutdown_answers_and_changes_nothing() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    let mut decided = prepare(core, "x", "");
    let mut waiting = prepare(core, "y", "");
    acknowledge(core, "b", 1);
    core.close_gate();
    assert_eq!(answer(&mut decided), Some(Err(AMBIGUOUS)));
    assert_eq!(answer(&mut waiting), Some(Err(AMBIGUOUS)));
    bench.decide();
    assert_eq!(core.high_seqno(), Seqno(2), "nothing is written any more");
    let figures = core.durability_figures();
    assert_eq!((figures.prepares, figures.waiting), (2, 0));
    core.close();
}

#[test]
fn a_vbucket_that_goes_down_answers_and_goes_on_later() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    let mut wait = prepare(core, "x", "1");
    core.take_down(DownCause::Escalated("for a test".to_owned()));
    assert_eq!(answer(&mut wait), Some(Err(AMBIGUOUS)));
    acknowledge(core, "b", 1);
    bench.decide();
    assert_eq!(core.high_seqno(), Seqno(1));
    core.bring_up();
    bench.decide();
    assert_eq!(value(core, "x").unwrap(), "1");
}

#[test]
fn whoever_goes_away_takes_nothing_back() {
    let bench = leader(&["a", "b"]);
    drop(prepare(&bench.core, "x", "1"));
    acknowledge(&bench.core, "b", 1);
    bench.decide();
    assert_eq!(value(&bench.core, "x").unwrap(), "1");
    assert_eq!(bench.core.durability_figures().waiting, 0);
}

fn create(bench: &Bench, name: &str) -> CollectionId {
    let change = ManifestChange::CreateCollection {
        scope: "_default".to_owned(),
        collection: name.to_owned(),
        max_ttl_s: 0,
    };
    let next = changed(&bench.manifest.current(), &change.into()).unwrap();
    bench.manifest.set(Arc::new(next.clone()));
    bench.core.follow_manifest().unwrap();
    next.collection("_default", name).unwrap()
}

fn drop_collection(bench: &Bench, name: &str) {
    let change = ManifestChange::DropCollection {
        scope: "_default".to_owned(),
        collection: name.to_owned(),
    };
    let next = changed(&bench.manifest.current(), &change.into()).unwrap();
    bench.manifest.set(Arc::new(next));
}

fn durable_in(bench: &Bench, collection: CollectionId) -> piggin_actors::vbucket::DurableWait {
    let mut write = set("k", "1");
    write.key = DocumentKey::new(collection, b"k").unwrap();
    write.value = Bytes::from_static(b"in a collection");
    let waits = bench.core.write_durably(Write::Set(write), MAJORITY);
    waits.unwrap()
}

/// MB-72478; MB-43176: nothing of a collection that is gone is written.
#[test]
fn mb_72478_who_prepared_in_a_collection_that_is_dropped_is_told() {
    for (is_committed, is_erased) in [(true, false), (true, true), (false, false), (false, true)] {
        let bench = leader(&["a", "b"]);
        let fruit = create(&bench, "fruit");
        let mut wait = durable_in(&bench, fruit);
        // Whether this vbucket was told yet or not.
        drop_collection(&bench, "fruit");
        if is_erased {
            bench.core.follow_manifest().unwrap();
            while bench.core.erase_ended() == Outcome::Yielded {}
        }
        if is_committed {
            acknowledge(&bench.core, "b", bench.core.high_seqno().0);
        } else {
            bench.clock.advance(Duration::from_secs(31));
        }
        bench.decide();
        let told = answer(&mut wait).unwrap().unwrap_err();
        assert!(matches!(told, OperationError::UnknownCollection { .. }));
        let completions = taken(&bench.core).into_iter().filter(|operation| {
            !matches!(
                operation,
                Operation::Prepare { .. } | Operation::SystemEventBegin | Operation::SystemEventEnd
            )
        });
        assert_eq!(completions.count(), 0);
        assert_eq!(bench.core.durability_figures().high_completed, Seqno(0));
    }
}

/// MB-44167: nobody else would ever answer.
#[test]
fn who_waits_for_what_a_compaction_erased_is_answered() {
    let bench = leader(&["a", "b"]);
    let fruit = create(&bench, "fruit");
    let mut wait = durable_in(&bench, fruit);
    drop_collection(&bench, "fruit");
    bench.core.follow_manifest().unwrap();
    let erased = PreparesErased {
        vbucket: id(),
        incarnation: Incarnation(1),
        epoch: RollbackEpoch(0),
        prepares: vec![ErasedPrepare {
            key: DocumentKey::new(fruit, b"k").unwrap(),
            seqno: Seqno(2),
        }],
    };
    for of_another_past in [
        PreparesErased {
            incarnation: Incarnation(2),
            ..erased.clone()
        },
        PreparesErased {
            epoch: RollbackEpoch(1),
            ..erased.clone()
        },
    ] {
        bench.core.forget_erased(&of_another_past);
        assert_eq!(answer(&mut wait), None);
    }
    bench.core.forget_erased(&erased);
    assert_eq!(answer(&mut wait), Some(Err(AMBIGUOUS)));
    bench.core.forget_erased(&erased);
    let figures = bench.core.durability_figures();
    assert_eq!((figures.prepares, figures.waiting), (0, 0));
    acknowledge(&bench.core, "b", 3);
    bench.decide();
    assert_eq!(bench.core.high_seqno(), Seqno(3));
}

#[test]
fn more_than_may_wait_are_refused_before_anything_is_written() {
    let bench = leader(&["a", "b"]);
    let places: Vec<_> = (1..piggin_actors::vbucket::WAITERS_MAX)
        .map(|_| bench.core.reserve_wait().unwrap())
        .collect();
    let mut wait = prepare(&bench.core, "x", "");
    let write = Write::Set(set("y", ""));
    let refused = bench.core.write_durably(write, MAJORITY);
    let busy = OperationError::TemporaryFailure(Busy::Queue);
    assert_eq!(refused.unwrap_err(), busy);
    assert_eq!(bench.core.high_seqno(), Seqno(1));
    // An answer gives its place back, whether it is taken or not.
    acknowledge(&bench.core, "b", 1);
    bench.decide();
    assert_eq!(bench.core.high_seqno(), Seqno(2));
    assert!(bench.core.reserve_wait().is_ok());
    assert!(answer(&mut wait).unwrap().is_ok());
    drop(places);
}

#[test]
fn everything_charged_for_it_is_given_back() {
    let setup = Setup::default();
    let store = MemoryStore::new(8);
    store.create_vbucket(id(), &setup.record).unwrap();
    let bench = setup.warm();
    bench
        .core
        .set_state(SetVbucketState {
            state: VbucketState::Active,
            topology: Some(chain(&["a"])),
            is_takeover: false,
        })
        .unwrap();
    for round in 0..50 {
        let _wait = prepare(&bench.core, "k", &format!("{round}"));
        assert!(bench.core.durability_figures().bytes > 0);
        bench.decide();
        flush_all(&bench.core, &store, 7);
    }
    assert_eq!(bench.core.durability_figures().bytes, 0);
    let stored = store.get(id(), Namespace::Committed, &key("k"));
    assert_eq!(stored.unwrap().unwrap().document.value, "49");
    let Bench { core, memory, .. } = bench;
    drop((core, store));
    assert_eq!(memory.held_bytes(), 0);
}
