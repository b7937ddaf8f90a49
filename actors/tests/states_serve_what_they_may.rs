//! What a vbucket answers that is not active, warming, out of service, closed, or short of memory; and what its changes
//! of state do to its history.
#![cfg(test)]

mod support;

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use proptest::prelude::*;

use messages::vbucket::SetVbucketState;
use messages::{Busy, DownCause, OperationError};
use piggin_actors::vbucket::checkpoint::CheckpointLimits;
use storage::{
    Cas, DeleteSource, Document, FailoverEntry, Item, MemoryToken, Operation, Predecessor, Seqno,
    Topology, VbucketPosition, VbucketState, VbucketUuid,
};
use support::{Bench, Setup, active, become_state, delete, in_state, key, set, value};

fn stored(name: &str, seqno: u64) -> Arc<Item> {
    let document = Document::new(key(name), "stored", Cas(seqno << 16));
    Arc::new(Item::mutation(Seqno(seqno), document))
}

fn buried(name: &str, seqno: u64) -> Arc<Item> {
    Arc::new(Item {
        seqno: Seqno(seqno),
        operation: Operation::Deletion {
            deleted_at: 1,
            source: DeleteSource::Explicit,
        },
        predecessor: Predecessor::Unknown,
        document: Document::new(key(name), "", Cas(seqno << 16)),
        token: MemoryToken::default(),
    })
}

fn behind(high: u64) -> Setup {
    let mut setup = Setup::default();
    setup.position = VbucketPosition {
        high_seqno: Seqno(high),
        ..setup.position
    };
    setup
}

#[test]
fn only_an_active_vbucket_serves_clients() {
    for state in [VbucketState::Replica, VbucketState::Dead] {
        let Bench { core, .. } = in_state(state);
        let vbucket = support::id();
        let refused = OperationError::NotMyVbucket { vbucket, state };
        assert_eq!(core.get(&key("a")).err(), Some(refused.clone()));
        assert_eq!(core.exists(&key("a")).err(), Some(refused.clone()));
        assert_eq!(core.set(set("a", "1")).err(), Some(refused));
    }
    let Bench { core, .. } = in_state(VbucketState::Pending);
    let pending = OperationError::TemporaryFailure(Busy::Pending);
    assert_eq!(core.get(&key("a")).err(), Some(pending.clone()));
    assert_eq!(core.set(set("a", "1")).err(), Some(pending));
}

#[test]
fn a_topology_makes_no_vbucket_active() {
    let topology = Topology::of_chain(["a", "b"]);
    for state in [
        VbucketState::Replica,
        VbucketState::Pending,
        VbucketState::Dead,
    ] {
        let Bench { core, .. } = in_state(state);
        let before = core.state_record();
        let vbucket = support::id();
        let refused = Err(OperationError::NotMyVbucket { vbucket, state });
        assert_eq!(core.set_topology(&topology), refused);
        assert_eq!(core.state_record(), before);
    }
    let Bench { core, .. } = active();
    core.set_topology(&topology).unwrap();
    assert_eq!(core.state_record().identity.topology, topology);
    let empty = Topology {
        chains: vec![Vec::new()],
    };
    let refused = core.set_topology(&empty);
    assert!(matches!(refused, Err(OperationError::InvalidTopology(_))));
    assert_eq!(core.state_record().identity.topology, topology);
}

#[test]
fn a_warming_vbucket_serves_what_it_has_and_never_looks_empty() {
    let Bench { core, .. } = behind(9).warming();
    assert!(core.warm_insert(stored("a", 3)));
    assert!(!core.warm_insert(stored("a", 2)), "nothing is overwritten");
    assert_eq!(core.get_meta(&key("a")).unwrap().seqno, Seqno(3));
    assert!(!core.warm_insert(buried("b", 4)), "a tombstone is on disk");
    let warming = OperationError::TemporaryFailure(Busy::WarmingUp);
    assert_eq!(value(&core, "a").unwrap(), "stored");
    assert_eq!(core.get(&key("b")).err(), Some(warming.clone()));
    assert_eq!(core.exists(&key("c")).err(), Some(warming.clone()));
    assert_eq!(core.set(set("a", "1")).err(), Some(warming.clone()));
    assert_eq!(core.delete(delete("c")).err(), Some(warming));
    core.warm_done();
    assert_eq!(core.get(&key("b")).err(), Some(OperationError::KeyNotFound));
    let written = core.set(set("a", "1")).unwrap();
    assert_eq!(written.token.seqno, Seqno(10));
    assert!(written.cas > Cas(4 << 16));
    assert!(!core.warm_insert(stored("d", 5)), "too late");
    assert_eq!(core.exists(&key("d")), Ok(false));
}

#[test]
fn the_cas_goes_on_above_everything_that_was_loaded() {
    let Bench { core, .. } = behind(9).warming();
    let future = Cas(u64::MAX / 2);
    let mut item = Item::clone(&buried("a", 3));
    item.document.cas = future;
    core.warm_insert(Arc::new(item));
    core.warm_done();
    assert!(core.set(set("b", "1")).unwrap().cas > future);
}

#[test]
fn a_vbucket_out_of_service_says_why_and_comes_back_as_it_was() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    let mut waiting = core.wait_persisted(Seqno(1)).unwrap();
    let cause = DownCause::Escalated("gave up".into());
    core.take_down(cause.clone());
    let vbucket = support::id();
    let down = OperationError::VbucketDown { vbucket, cause };
    assert_eq!(core.get(&key("a")).err(), Some(down.clone()));
    assert_eq!(core.get(&key("missing")).err(), Some(down.clone()));
    assert_eq!(core.set(set("a", "2")).err(), Some(down.clone()));
    let poll = poll(&mut waiting);
    assert_eq!(poll, Poll::Ready(Err(down.clone())));
    assert_eq!(core.wait_persisted(Seqno(1)).err(), Some(down));
    assert!(core.take_for_flush(10, usize::MAX).is_none());
    assert!(core.describe().down.is_some());
    core.bring_up();
    assert_eq!(value(&core, "a").unwrap(), "1");
    assert_eq!(core.take_for_flush(10, usize::MAX).unwrap().items.len(), 1);
}

fn poll(waiting: &mut piggin_actors::vbucket::Persisted) -> Poll<Result<(), OperationError>> {
    std::pin::Pin::new(waiting).poll(&mut Context::from_waker(Waker::noop()))
}

#[test]
fn a_closed_gate_lets_nothing_in_and_everything_out() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    let (mut first, place) = (core.wait_persisted(Seqno(1)).unwrap(), core.reserve_wait());
    core.close_gate();
    assert_eq!(core.set(set("a", "2")).err(), Some(OperationError::Closed));
    assert_eq!(value(&core, "a").unwrap(), "1");
    assert_eq!(core.take_for_flush(10, usize::MAX).unwrap().items.len(), 1);
    core.note_persisted(Seqno(1));
    assert_eq!(poll(&mut first), Poll::Ready(Ok(())));
    let mut never = place.unwrap().wait_for(Seqno(9));
    assert_eq!(poll(&mut never), Poll::Pending);
    core.close();
    assert_eq!(poll(&mut never), Poll::Ready(Err(OperationError::Closed)));
    assert_eq!(
        core.wait_persisted(Seqno(9)).err(),
        Some(OperationError::Closed)
    );
}

#[test]
fn above_the_quota_a_write_is_refused_with_nothing_applied() {
    let setup = Setup {
        quota_bytes: 20_000,
        ..Setup::default()
    };
    let Bench { core, memory, .. } = setup.warm();
    let large = "x".repeat(5000);
    let mut written = 0;
    let refused = loop {
        match core.set(set(&format!("k{written}"), &large)) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(written, 3);
    assert_eq!(refused, OperationError::TemporaryFailure(Busy::Memory));
    assert_eq!(core.high_seqno(), Seqno(3));
    assert_eq!(core.exists(&key("k3")), Ok(false));
    let held = memory.held_bytes();
    assert_eq!(
        core.figures().bytes,
        held,
        "nothing is held for what was refused"
    );
    core.delete(delete("k0")).unwrap();
    assert!(
        memory.held_bytes() < held,
        "its value was freed with its item"
    );
    core.set(set("k3", &large)).unwrap();
}

#[test]
fn an_item_in_map_log_and_flush_is_charged_once() {
    let Bench { core, memory, .. } = active();
    core.set(set("a", &"x".repeat(1000))).unwrap();
    let taken = core.take_for_flush(10, usize::MAX).unwrap();
    let held = memory.held_bytes();
    assert!((1000..1400).contains(&held), "{held}");
    assert!(core.checkpoint_bytes() >= 1000);
    core.set(set("a", "")).unwrap();
    assert!(memory.held_bytes() > held, "the flush still holds it");
    drop(taken);
    core.note_persisted(Seqno(1));
    assert!(memory.held_bytes() < 400);
}

#[test]
fn promotion_begins_a_branch_at_the_last_whole_snapshot_and_takeover_none() {
    let entries = |core: &piggin_actors::vbucket::VbucketCore| {
        let table = core.state_record().identity.failover_table.clone();
        table.entries().to_vec()
    };
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    become_state(&core, VbucketState::Replica);
    become_state(&core, VbucketState::Active);
    let first = FailoverEntry {
        uuid: VbucketUuid(0xa11ce),
        seqno: Seqno::ZERO,
    };
    let branched = entries(&core);
    assert_eq!(branched.len(), 2);
    assert_eq!((branched[0].seqno, branched[1]), (Seqno(1), first));
    let written = core.set(set("b", "1")).unwrap();
    assert_eq!(written.token.vbucket_uuid, branched[0].uuid);
    become_state(&core, VbucketState::Pending);
    core.set_state(SetVbucketState {
        state: VbucketState::Active,
        topology: None,
        is_takeover: true,
    })
    .unwrap();
    assert_eq!(entries(&core), branched);
    become_state(&core, VbucketState::Active);
    assert_eq!(entries(&core), branched, "no change, no branch");
}

#[test]
fn a_change_of_state_is_flushed_alone_and_again_when_it_may_be_lost() {
    let Bench { core, dirty, .. } = active();
    assert!(core.take_for_flush(10, usize::MAX).is_none());
    let topology = Topology {
        chains: vec![vec![Some("n1".into())]],
    };
    core.set_state(SetVbucketState {
        state: VbucketState::Active,
        topology: Some(topology.clone()),
        is_takeover: false,
    })
    .unwrap();
    assert_eq!(dirty.take(), Some(support::id()));
    assert!(core.has_unflushed());
    let take = core.take_for_flush(10, usize::MAX).unwrap();
    assert!(take.items.is_empty());
    assert_eq!(take.watermarks.high_seqno, Seqno::ZERO);
    assert_eq!(take.identity.unwrap().topology, topology);
    assert!(!core.has_unflushed());
    core.resync(Seqno::ZERO);
    assert!(core.has_unflushed());
    let again = core.take_for_flush(10, usize::MAX).unwrap();
    assert_eq!(again.identity.unwrap().topology, topology);
}

#[test]
fn an_identity_is_flushed_behind_what_was_written_before_it() {
    let Bench { core, .. } = active();
    for name in ["a", "b", "c"] {
        core.set(set(name, "1")).unwrap();
    }
    become_state(&core, VbucketState::Dead);
    let first = core.take_for_flush(2, usize::MAX).unwrap();
    assert!(first.identity.is_none() && first.has_more);
    let second = core.take_for_flush(2, usize::MAX).unwrap();
    assert_eq!(second.identity.unwrap().state, VbucketState::Dead);
}

#[test]
fn a_tombstone_leaves_memory_once_it_is_on_disk_and_its_checkpoint_is_closed() {
    let setup = Setup {
        checkpoints: CheckpointLimits {
            items_max: 3,
            ..CheckpointLimits::default()
        },
        ..Setup::default()
    };
    let Bench { core, .. } = setup.warm();
    core.set(set("a", "1")).unwrap();
    core.delete(delete("a")).unwrap();
    let taken = core.take_for_flush(10, usize::MAX).unwrap();
    core.note_persisted(taken.watermarks.high_seqno);
    assert!(
        core.get_meta(&key("a")).unwrap().is_deleted,
        "it may still be replaced"
    );
    for name in ["b", "c", "d"] {
        core.set(set(name, "1")).unwrap();
    }
    assert!(core.get_meta(&key("a")).is_ok());
    let taken = core.take_for_flush(10, usize::MAX).unwrap();
    core.note_persisted(taken.watermarks.high_seqno);
    assert_eq!(
        core.get_meta(&key("a")).err(),
        Some(OperationError::KeyNotFound)
    );
    assert_eq!(
        (core.figures().tombstones, core.figures().documents),
        (0, 3)
    );
    core.set(set("a", "2")).unwrap();
    core.set(set("e", "2")).unwrap();
    let taken = core.take_for_flush(10, usize::MAX).unwrap();
    let hints: Vec<_> = taken.items.iter().map(|item| item.predecessor).collect();
    assert_eq!(
        hints,
        [Predecessor::Unknown; 2],
        "memory no longer knows every key"
    );
}

#[test]
fn a_rollback_forgets_everything_and_loads_anew() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    core.set(set("b", "1")).unwrap();
    let mut waiting = core.wait_persisted(Seqno(2)).unwrap();
    become_state(&core, VbucketState::Replica);
    let mut record = core.state_record();
    record.watermarks.high_seqno = Seqno(1);
    record.watermarks.snapshot.start = Seqno(1);
    record.watermarks.snapshot.end = Seqno(1);
    core.reset(&record);
    assert!(matches!(
        poll(&mut waiting),
        Poll::Ready(Err(OperationError::NotMyVbucket { .. }))
    ));
    assert_eq!(
        (core.high_seqno(), core.persisted_seqno()),
        (Seqno(1), Seqno(1))
    );
    assert_eq!(core.figures().documents, 0);
    assert!(core.is_warming());
    let take = core.take_for_flush(10, usize::MAX).unwrap();
    assert!(take.items.is_empty() && take.identity.is_some());
    core.warm_insert(stored("a", 1));
    core.warm_done();
    become_state(&core, VbucketState::Active);
    assert_eq!(value(&core, "a").unwrap(), "stored");
    assert_eq!(core.set(set("b", "2")).unwrap().token.seqno, Seqno(2));
}

proptest! {
    /// Whatever states a vbucket goes through, its table stays one, and its newest branch is that of the answers.
    #[test]
    fn failover_tables_stay_sound(steps in prop::collection::vec((0u8..5, any::<bool>()), 0..60)) {
        let Bench { core, .. } = active();
        for (step, is_takeover) in steps {
            let state = match step {
                0 => VbucketState::Active,
                1 => VbucketState::Replica,
                2 => VbucketState::Pending,
                3 => VbucketState::Dead,
                _ => {
                    if let Ok(written) = core.set(set("a", "1")) {
                        prop_assert_eq!(written.token.vbucket_uuid, core.describe().vbucket_uuid);
                    }
                    continue;
                }
            };
            let request = SetVbucketState { state, topology: None, is_takeover };
            let described = core.set_state(request).unwrap();
            prop_assert_eq!(described.state, state);
            let entries = core.state_record().identity.failover_table.entries().to_vec();
            let sound = storage::FailoverTable::try_from(entries.clone());
            prop_assert!(sound.is_ok());
            prop_assert_eq!(entries[0].uuid, described.vbucket_uuid);
            prop_assert!(entries[0].seqno <= core.high_seqno());
        }
    }
}

#[test]
fn a_topology_nobody_can_have_is_refused_before_anything_changes() {
    let Bench { core, .. } = active();
    let before = core.state_record();
    let malformed = Topology {
        chains: vec![vec![Some("a".to_owned()), Some("a".to_owned())]],
    };
    let refused = core.set_state(SetVbucketState {
        state: VbucketState::Dead,
        topology: Some(malformed),
        is_takeover: false,
    });
    let error = refused.unwrap_err();
    assert!(
        matches!(error, OperationError::InvalidTopology(_)),
        "{error}"
    );
    assert_eq!(error.advice(), storage::Advice::FixRequest);
    assert_eq!(core.state_record(), before);
    core.set(set("a", "1")).unwrap();
}

#[test]
fn a_topology_ends_with_the_role_it_was_set_for() {
    let Bench { core, .. } = active();
    let topology = Topology {
        chains: vec![vec![Some("a".to_owned())]],
    };
    let become_it = |state, topology| {
        let request = SetVbucketState {
            state,
            topology,
            is_takeover: false,
        };
        core.set_state(request).unwrap();
        core.state_record().identity.topology.clone()
    };
    let set = become_it(VbucketState::Active, Some(topology.clone()));
    assert_eq!(set, topology);
    assert_eq!(become_it(VbucketState::Active, None), topology);
    assert_eq!(become_it(VbucketState::Replica, None), Topology::default());
    // A replica may be told of one; whoever promotes it says which it is then.
    assert_eq!(
        become_it(VbucketState::Replica, Some(topology.clone())),
        topology
    );
    assert_eq!(become_it(VbucketState::Active, None), Topology::default());
}

#[test]
fn every_change_marks_the_vbucket_dirty() {
    let Bench { core, dirty, .. } = active();
    assert!(dirty.is_empty());
    core.set(set("a", "1")).unwrap();
    assert_eq!(dirty.take(), Some(support::id()));
    core.delete(delete("a")).unwrap();
    assert_eq!(dirty.take(), Some(support::id()));
    assert!(core.delete(delete("a")).is_err());
    assert_eq!(dirty.take(), None, "nothing was changed");
    core.resync(Seqno::ZERO);
    assert_eq!(dirty.take(), Some(support::id()));
}

#[test]
fn a_batch_that_failed_is_forgotten_when_it_is_taken_anew() {
    let Bench { core, .. } = active();
    for name in ["a", "b", "c", "d"] {
        core.set(set(name, "1")).unwrap();
    }
    assert_eq!(core.take_for_flush(3, usize::MAX).unwrap().items.len(), 3);
    core.resync(Seqno::ZERO);
    assert_eq!(core.take_for_flush(2, usize::MAX).unwrap().items.len(), 2);
    let mut waiting = core.wait_persisted(Seqno(2)).unwrap();
    core.note_persisted(Seqno(2));
    assert_eq!(poll(&mut waiting), Poll::Ready(Ok(())));
    assert_eq!(core.state_record().watermarks.max_visible_seqno, Seqno(2));
}

#[test]
fn a_note_of_more_than_was_taken_promises_nothing() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    let mut waiting = core.wait_persisted(Seqno(1)).unwrap();
    core.note_persisted(Seqno(1));
    assert_eq!(core.persisted_seqno(), Seqno::ZERO);
    assert_eq!(poll(&mut waiting), Poll::Pending);
}

#[test]
fn memory_that_fell_behind_the_store_takes_the_vbucket_down() {
    let Bench { core, .. } = active();
    core.set(set("a", "1")).unwrap();
    core.resync(Seqno(7));
    let down = core.get(&key("a")).err();
    assert!(
        matches!(down, Some(OperationError::VbucketDown { .. })),
        "{down:?}"
    );
}
