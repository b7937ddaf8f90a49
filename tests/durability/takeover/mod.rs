//! A vbucket goes from one bucket to another under writes: what was acknowledged is there, each durable write is decided once,
//! and whatever fails on the way there is one active vbucket, or none and a way to have one, never two.

mod moves;
mod soak;
mod undone;

use std::panic::{AssertUnwindSafe, catch_unwind};

use tokio::time::timeout;

use piggin::actors::vbucket::{ChangeStep, VbucketCore};
use piggin::messages::vbucket::SetVbucketState;
use piggin::storage::disk::{DiskErrorKind, Verb};
use piggin::storage::{Topology, VbucketId, VbucketState};
use piggin::{Bucket, TakeOverError, TakenOver};
use supervisor::testing::{DiskFault, Fault, World};

use crate::common::PATIENCE;

const VBUCKET: VbucketId = VbucketId::FIRST;

type TookOver = Result<TakenOver, TakeOverError>;

fn alone(bucket: &Bucket) -> Topology {
    Topology::of_chain([bucket.node_name()])
}

/// What the vbucket is, also to whoever cannot use it.
fn state(bucket: &Bucket) -> VbucketState {
    bucket.vbucket_core(VBUCKET).expect("it").identity().state
}

/// A key of the vbucket.
fn key_of(bucket: &Bucket, number: usize) -> String {
    let mut keys = (0..).map(|attempt| format!("client {number} {attempt}"));
    let is_there = |key: &String| bucket.vbucket_of(key.as_bytes()) == VBUCKET;
    keys.find(is_there).expect("one of them")
}

async fn become_replica(bucket: &Bucket) {
    let replica = SetVbucketState {
        state: VbucketState::Replica,
        topology: None,
        is_takeover: false,
    };
    let core = bucket.vbucket_core(VBUCKET).expect("it");
    core.set_state(replica).expect("a replica");
    let stored = core.stored_as(VbucketState::Replica).await;
    stored.expect("its disk says so");
}

async fn take_over(from: &Bucket, to: &Bucket) -> TookOver {
    let topology = alone(to);
    let taken = timeout(PATIENCE, to.take_over(from, VBUCKET, &topology));
    taken.await.expect("it comes to an end")
}

/// The disk takes nothing any more, until faults are cleared.
fn fill_disk(world: &World) {
    let mut full = DiskFault::fail(Verb::Write, "", 1, DiskErrorKind::Full);
    full.is_lasting = true;
    world.inject(Fault::Disk(full));
}

fn by_hand(bucket: &Bucket, state: VbucketState) {
    let core = bucket.vbucket_core(VBUCKET).expect("it");
    let change = SetVbucketState {
        state,
        topology: None,
        is_takeover: true,
    };
    core.set_state(change).expect("its new role");
}

/// A panic left it half changed; nobody repaired it yet.
fn leave_suspect(core: &VbucketCore) {
    core.panic_at(ChangeStep::Repairing);
    let panicked = catch_unwind(AssertUnwindSafe(|| core.reconcile()));
    assert!(panicked.is_err() && core.is_suspect());
}
