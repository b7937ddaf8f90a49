//! A key whose durable write may have been committed elsewhere is read only once that write is over here: no reader sees a
//! value older than one a client was told of. It is never given up here either, whatever becomes of the topology.
#![cfg(test)]

mod support;

use std::time::Duration;

use messages::OperationError;
use messages::vbucket::Write;
use storage::{KvStore, MemoryStore, Namespace, Seqno, VbucketState};
use support::durable::{
    MAJORITY, aborted, acknowledge, answer, follower, from_memory, lead, leader, mutation,
    one_by_one, prepare, prepared,
};
use support::{Bench, Setup, become_state, flush_all, id, key, set, value};

const HIDDEN: OperationError = OperationError::SyncWriteReCommitInProgress;

fn is_hidden(bench: &Bench, name: &str) -> bool {
    let (core, key) = (&bench.core, key(name));
    let answers = [
        core.get(&key).map(drop),
        core.get_meta(&key).map(drop),
        core.exists(&key).map(drop),
        core.get_many(std::slice::from_ref(&key))[0]
            .as_ref()
            .map(drop)
            .map_err(OperationError::clone),
    ];
    let hidden = answers.iter().filter(|answer| **answer == Err(HIDDEN));
    let count = hidden.count();
    assert!(count == 0 || count == answers.len(), "{answers:?}");
    count > 0
}

#[test]
fn mb_36103_what_was_prepared_before_another_was_active_is_hidden() {
    let bench = leader(&["a", "b"]);
    let core = &bench.core;
    core.set(set("k", "before")).unwrap();
    core.set(set("other", "readable")).unwrap();
    let mut wait = prepare(core, "k", "after");
    assert_eq!(value(core, "k").unwrap(), "before", "only this one decides");
    become_state(core, VbucketState::Replica);
    assert_eq!(
        answer(&mut wait),
        Some(Err(OperationError::SyncWriteAmbiguous))
    );
    become_state(core, VbucketState::Active);
    assert!(is_hidden(&bench, "k"));
    assert_eq!(value(core, "other").unwrap(), "readable");
    assert_eq!(
        core.set(set("k", "")),
        Err(OperationError::SyncWriteInProgress)
    );
    assert_eq!(core.durability_figures().maybe_visible, 1);
    lead(core, &["a"]);
    bench.decide();
    assert_eq!(value(core, "k").unwrap(), "after");
    assert_eq!(core.durability_figures().maybe_visible, 0);
}

#[test]
fn mb_33951_a_promoted_replica_does_not_show_what_was_before() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[mutation(1, "k"), prepared(2, "k")]);
    become_state(core, VbucketState::Active);
    assert!(is_hidden(&bench, "k"));
    lead(core, &["a", "b"]);
    bench.decide();
    assert!(is_hidden(&bench, "k"), "the other has said nothing yet");
    acknowledge(core, "b", 2);
    bench.decide();
    assert_eq!(value(core, "k").unwrap(), "value 2");
    let meta = core.get_meta(&key("k")).unwrap();
    assert_eq!(meta.seqno, Seqno(3));
}

#[test]
fn mb_36484_another_topology_hides_nothing() {
    let bench = leader(&["a", "b"]);
    bench.core.set(set("k", "before")).unwrap();
    let _wait = prepare(&bench.core, "k", "after");
    lead(&bench.core, &["a", "b", "c"]);
    assert!(!is_hidden(&bench, "k"));
}

/// MB-34996, MB-35768: it waits for a topology that can commit it, however long that takes.
#[test]
fn mb_34996_what_was_inherited_is_never_given_up() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    from_memory(core, epoch, &[prepared(1, "k")]);
    become_state(core, VbucketState::Active);
    lead(core, &["a", ""]);
    bench.clock.advance(Duration::from_secs(1_000_000));
    bench.decide();
    assert!(is_hidden(&bench, "k"));
    assert_eq!(core.high_seqno(), Seqno(1));
    lead(core, &["a", "b"]);
    acknowledge(core, "b", 1);
    bench.decide();
    assert_eq!(value(core, "k").unwrap(), "value 1");
}

#[test]
fn what_was_given_up_elsewhere_hides_nothing() {
    let (bench, epoch) = follower();
    let core = &bench.core;
    let items = [mutation(1, "k"), prepared(2, "k"), aborted(3, "k", 2)];
    one_by_one(core, epoch, &items);
    become_state(core, VbucketState::Active);
    assert_eq!(value(core, "k").unwrap(), "value 1");
}

/// What a takeover begins with: nothing new is taken on before there is a topology (MB-70387).
#[test]
fn a_promoted_vbucket_takes_nothing_on_before_it_has_a_topology() {
    let (bench, epoch) = follower();
    from_memory(&bench.core, epoch, &[mutation(1, "k")]);
    become_state(&bench.core, VbucketState::Active);
    let refused = bench
        .core
        .write_durably(Write::Set(set("k", "")), MAJORITY)
        .unwrap_err();
    assert!(matches!(refused, OperationError::TemporaryFailure(_)));
    lead(&bench.core, &["a"]);
    let mut wait = prepare(&bench.core, "k", "new");
    bench.decide();
    assert!(answer(&mut wait).unwrap().is_ok());
}

/// MB-37186: nothing of the commit is only in the prepare.
#[test]
fn mb_37186_a_commit_is_found_again_when_the_log_let_go_of_it() {
    let setup = Setup::default();
    let store = MemoryStore::new(8);
    store.create_vbucket(id(), &setup.record).unwrap();
    let bench = setup.warm();
    lead(&bench.core, &["a"]);
    bench.core.set(set("k", "before")).unwrap();
    flush_all(&bench.core, &store, 9);
    let mut wait = prepare(&bench.core, "k", "after");
    bench.decide();
    let seqno = answer(&mut wait).unwrap().unwrap().token.seqno;
    flush_all(&bench.core, &store, 9);
    let _freed = bench.core.shrink_log();
    assert_eq!(value(&bench.core, "k").unwrap(), "after");
    let stored = store.get(id(), Namespace::Committed, &key("k"));
    let stored = stored.unwrap().unwrap();
    assert_eq!(
        (stored.seqno, &stored.document.value[..]),
        (seqno, &b"after"[..])
    );
}
