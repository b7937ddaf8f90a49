//! How far a document and a branch of history are is told as it is, and never as further.
#![cfg(test)]

mod support;

use messages::OperationError;
use messages::vbucket::{FailedOver, Observe, ObserveVbucket, Observed, ObservedVbucket};
use piggin_actors::durability::NodeName;
use piggin_actors::vbucket::VbucketCore;
use storage::{
    CommitDurability, KvStore, MemoryStore, Seqno, VbucketState, VbucketStateRecord, VbucketUuid,
};
use support::{Setup, active, become_state, delete, id, key, set};

const FIRST: VbucketUuid = VbucketUuid(0xa11ce);

fn observed(core: &VbucketCore, name: &str) -> Observed {
    let key = key(name);
    core.observe(&Observe { key }).unwrap()
}

fn branch(core: &VbucketCore, uuid: VbucketUuid) -> Result<ObservedVbucket, OperationError> {
    let vbucket_uuid = uuid;
    core.observe_vbucket(&ObserveVbucket { vbucket_uuid })
}

#[test]
fn a_document_is_in_memory_then_on_disk() {
    let store = MemoryStore::new(8);
    let record = VbucketStateRecord::new(FIRST);
    store.create_vbucket(id(), &record).unwrap();
    let core = Setup::default().warm().core;
    assert_eq!(observed(&core, "a"), Observed::Missing);
    let cas = core.set(set("a", "1")).unwrap().cas;
    let mut is_persisted = false;
    assert_eq!(observed(&core, "a"), Observed::Found { cas, is_persisted });
    support::flush_all(&core, &store, 9);
    is_persisted = true;
    assert_eq!(observed(&core, "a"), Observed::Found { cas, is_persisted });
    let cas = core.delete(delete("a")).unwrap().cas;
    assert_eq!(observed(&core, "a"), Observed::Deleted { cas });
    support::flush_all(&core, &store, 9);
    assert_eq!(observed(&core, "a"), Observed::Missing);
    let now = branch(&core, FIRST).unwrap();
    assert_eq!(
        (now.persisted_seqno, now.current_seqno),
        (Seqno(2), Seqno(2))
    );
    core.set(set("a", "2")).unwrap();
    let now = branch(&core, FIRST).unwrap();
    assert_eq!(
        (now.persisted_seqno, now.current_seqno),
        (Seqno(2), Seqno(3))
    );
    assert_eq!((now.vbucket_uuid, now.failed_over), (FIRST, None));
    assert!(now.has(Seqno(3)) && !now.has(Seqno(4)));
}

/// A batch that is cut may hold what was written behind a change, and neither the change nor what replaced it.
#[test]
fn what_a_cut_batch_leaves_out_is_not_told_as_on_disk() {
    let store = MemoryStore::new(8);
    let record = VbucketStateRecord::new(FIRST);
    store.create_vbucket(id(), &record).unwrap();
    let core = Setup::default().warm().core;
    for name in ["k", "a", "b", "k"] {
        core.set(set(name, "v")).unwrap();
    }
    let take = core.take_for_flush(2, usize::MAX).unwrap();
    let seqnos: Vec<_> = take.items.iter().map(|item| item.seqno.0).collect();
    assert_eq!(seqnos, [2, 3], "the first version of k is gone");
    let group = [support::batch(take, &support::position(&store))];
    assert_eq!(store.commit(&group, CommitDurability::Synced), [Ok(())]);
    core.note_persisted(Seqno(3));
    assert_eq!(core.persisted_seqno(), Seqno(3));
    let on_disk = || branch(&core, FIRST).unwrap().persisted_seqno;
    assert_eq!(on_disk(), Seqno::ZERO);
    support::flush_all(&core, &store, 9);
    assert_eq!(on_disk(), Seqno(4));
    // What was told stays true while a newer version is on its way.
    core.set(set("k", "v")).unwrap();
    drop(core.take_for_flush(9, usize::MAX));
    assert_eq!(on_disk(), Seqno(4));
}

#[test]
fn a_branch_that_ended_says_where() {
    let core = active().core;
    for text in ["1", "2", "3"] {
        core.set(set("a", text)).unwrap();
    }
    become_state(&core, VbucketState::Replica);
    assert_eq!(branch(&core, FIRST).unwrap().failed_over, None);
    become_state(&core, VbucketState::Active);
    core.set(set("a", "4")).unwrap();
    let old = branch(&core, FIRST).unwrap();
    let over = FailedOver {
        vbucket_uuid: FIRST,
        last_seqno: Seqno(3),
    };
    assert_eq!(old.failed_over, Some(over));
    assert_ne!(old.vbucket_uuid, FIRST);
    assert!(old.has(Seqno(3)) && !old.has(Seqno(4)));
    let new = branch(&core, old.vbucket_uuid).unwrap();
    assert!(new.failed_over.is_none() && new.has(Seqno(4)));
    let vbucket_uuid = VbucketUuid(0xbad);
    let unknown = OperationError::UnknownHistory {
        vbucket: id(),
        vbucket_uuid,
    };
    assert_eq!(branch(&core, vbucket_uuid), Err(unknown));
}

#[test]
fn replicas_are_as_far_as_they_said_in_this_role() {
    let bench = active();
    support::durable::lead(&bench.core, &["a", "b"]);
    let core = &bench.core;
    assert!(branch(core, FIRST).unwrap().replicas.is_empty());
    drop(support::durable::prepare(core, "k", "v"));
    core.acknowledge_prepared(core.role(), &NodeName::new("b"), Seqno(1));
    let replicas = branch(core, FIRST).unwrap().replicas;
    let [replica] = &replicas[..] else {
        panic!("{replicas:?}");
    };
    assert_eq!(
        (replica.node.as_str(), replica.prepared_seqno),
        ("b", Seqno(1))
    );
    become_state(core, VbucketState::Replica);
    assert!(branch(core, FIRST).unwrap().replicas.is_empty());
}
