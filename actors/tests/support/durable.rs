//! Durable writes of a core alone: whoever acknowledges and decides is the test.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;

use messages::vbucket::{Mutated, SetVbucketState, Write};
use messages::{Durability, OperationError};
use piggin_actors::durability::NodeName;
use piggin_actors::vbucket::checkpoint::ReplicaSnapshot;
use piggin_actors::vbucket::{DurableWait, StreamEpoch, VbucketCore};
use storage::{Cas, Document, DurabilityLevel, Item, Operation, Seqno, Topology, VbucketState};

use super::{Bench, Setup, become_state, in_state, key, set};

pub(crate) const MAJORITY: Durability = Durability::of(DurabilityLevel::Majority);
pub(crate) const ON_ACTIVE: Durability =
    Durability::of(DurabilityLevel::MajorityAndPersistOnActive);
pub(crate) const ON_DISKS: Durability = Durability::of(DurabilityLevel::PersistToMajority);

/// One chain of these nodes; an empty name is a place that is not filled.
pub(crate) fn chain(nodes: &[&str]) -> Topology {
    let place = |name: &&str| (!name.is_empty()).then(|| (*name).to_owned());
    Topology {
        chains: vec![nodes.iter().map(place).collect()],
    }
}

pub(crate) fn lead(core: &VbucketCore, nodes: &[&str]) {
    core.set_state(SetVbucketState {
        state: VbucketState::Active,
        topology: Some(chain(nodes)),
        is_takeover: false,
    })
    .unwrap();
}

/// An active vbucket whose chain is this.
pub(crate) fn leader(nodes: &[&str]) -> Bench {
    let bench = Setup::default().warm();
    lead(&bench.core, nodes);
    bench
}

pub(crate) fn prepare(core: &VbucketCore, name: &str, value: &str) -> DurableWait {
    core.write_durably(Write::Set(set(name, value)), MAJORITY)
        .unwrap()
}

/// The answer, if there is one.
pub(crate) fn answer(wait: &mut DurableWait) -> Option<Result<Mutated, OperationError>> {
    wait.now_or_never()
}

/// A node says that it holds everything up to `seqno`.
pub(crate) fn acknowledge(core: &VbucketCore, node: &str, seqno: u64) {
    core.acknowledge_prepared(core.role(), &NodeName::new(node), Seqno(seqno));
}

impl Bench {
    /// Does all that is decided by now.
    pub(crate) fn decide(&self) {
        while self.core.do_durability(self.now(), 3).has_more {}
    }

    pub(crate) fn now(&self) -> Duration {
        use piggin_actors::environment::Clock;
        self.clock.monotonic()
    }
}

fn with(seqno: u64, name: &str, operation: Operation) -> Arc<Item> {
    let document = Document::new(key(name), format!("value {seqno}"), Cas(seqno << 20));
    let mut item = Item::mutation(Seqno(seqno), document);
    item.operation = operation;
    Arc::new(item)
}

pub(crate) fn mutation(seqno: u64, name: &str) -> Arc<Item> {
    with(seqno, name, Operation::Mutation)
}

pub(crate) fn prepared_as(seqno: u64, name: &str, level: DurabilityLevel) -> Arc<Item> {
    let is_deletion = false;
    with(seqno, name, Operation::Prepare { level, is_deletion })
}

pub(crate) fn prepared(seqno: u64, name: &str) -> Arc<Item> {
    prepared_as(seqno, name, DurabilityLevel::Majority)
}

pub(crate) fn committed(seqno: u64, name: &str, prepare: u64) -> Arc<Item> {
    let prepare_seqno = Seqno(prepare);
    with(seqno, name, Operation::CommitMutation { prepare_seqno })
}

pub(crate) fn aborted(seqno: u64, name: &str, prepare: u64) -> Arc<Item> {
    let prepare_seqno = Seqno(prepare);
    let deleted_at = 1;
    let operation = Operation::Abort {
        prepare_seqno,
        deleted_at,
    };
    let mut item = Item::clone(&with(seqno, name, operation));
    item.document.value.clear();
    Arc::new(item)
}

/// A replica whose stream has begun.
pub(crate) fn follower() -> (Bench, StreamEpoch) {
    let bench = in_state(VbucketState::Replica);
    let epoch = bench.core.begin_stream().unwrap();
    (bench, epoch)
}

pub(crate) fn follow_again(core: &VbucketCore) -> StreamEpoch {
    become_state(core, VbucketState::Replica);
    core.begin_stream().unwrap()
}

/// A snapshot from memory of these items, from the first's seqno to the last's.
pub(crate) fn from_memory(core: &VbucketCore, epoch: StreamEpoch, items: &[Arc<Item>]) {
    let (first, last) = (items.first().unwrap().seqno, items.last().unwrap().seqno);
    let snapshot = ReplicaSnapshot::memory(first, last);
    core.apply_marker(epoch, &snapshot, true).unwrap();
    for item in items {
        core.apply_item(epoch, Arc::clone(item)).unwrap();
    }
}

/// Each of these items as a snapshot of its own, as a source sends versions of one key.
pub(crate) fn one_by_one(core: &VbucketCore, epoch: StreamEpoch, items: &[Arc<Item>]) {
    for item in items {
        from_memory(core, epoch, std::slice::from_ref(item));
    }
}

/// A snapshot from disk, where prepares up to `completed` are over.
pub(crate) fn from_disk(
    core: &VbucketCore,
    epoch: StreamEpoch,
    completed: u64,
    items: &[Arc<Item>],
) {
    let (first, last) = (items.first().unwrap().seqno, items.last().unwrap().seqno);
    let snapshot = ReplicaSnapshot::disk(first, last, Seqno(completed));
    core.apply_marker(epoch, &snapshot, true).unwrap();
    for item in items {
        core.apply_item(epoch, Arc::clone(item)).unwrap();
    }
}
