//! The streams that feed the replica vbuckets of one thread: begun, looked at when something changed, ended.
//!
//! Invariant: every look begins by taking back the wake-up, then reads shared state, so that what is changed later wakes
//! again (rule R18). No actix here. What is known here is known of the vbuckets and of [`Follows`] again after a panic.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::follows::Follows;
use super::live::{Asked, Links, Live, Looked};
use crate::environment::Environment;
use crate::rollback::Rollbacks;
use crate::vbucket::{DirtyVbuckets, VbucketSlot};
use messages::replication::ReplicaState;
use messages::stream::{StreamOpened, StreamRequestError};
use storage::VbucketId;

/// Vbuckets looked at before others of the thread have their turn.
const VBUCKETS_PER_LOOK: usize = 16;

/// What a consumer works with.
#[derive(Clone, Debug)]
pub struct ConsumerConfig {
    /// Its vbuckets.
    pub vbuckets: Vec<Arc<VbucketSlot>>,
    /// Where it is told that something changed.
    pub edge: Arc<DirtyVbuckets>,
    /// Who follows what.
    pub follows: Arc<Follows>,
    /// Who takes vbuckets back.
    pub rollbacks: Rollbacks,
    /// Time, randomness, failures.
    pub environment: Environment,
}

/// What a look left over.
#[derive(Debug, Default)]
pub struct Around {
    /// Requests to be sent.
    pub asked: Vec<Asked>,
    /// When there is something to do, if nothing happens before (monotonic).
    pub next: Option<Duration>,
}

/// The streams of one thread's replica vbuckets.
#[derive(Debug)]
pub struct Consumer {
    config: ConsumerConfig,
    links: Links,
    slots: BTreeMap<VbucketId, Arc<VbucketSlot>>,
    lives: BTreeMap<VbucketId, Live>,
    due: BTreeMap<VbucketId, Duration>,
}

impl Consumer {
    /// One that knows of nothing before its first look.
    #[must_use]
    pub fn new(config: ConsumerConfig) -> Consumer {
        let slots: BTreeMap<_, _> = config
            .vbuckets
            .iter()
            .map(|slot| (slot.id(), Arc::clone(slot)))
            .collect();
        for vbucket in config.follows.vbuckets() {
            if slots.contains_key(&vbucket) {
                config.edge.mark(vbucket);
            }
        }
        let links = Links {
            edge: Arc::clone(&config.edge),
            rollbacks: config.rollbacks.clone(),
            environment: config.environment.clone(),
            attempts: Arc::default(),
        };
        Consumer {
            config,
            links,
            slots,
            lives: BTreeMap::new(),
            due: BTreeMap::new(),
        }
    }

    /// Reads all shared state, and does a bounded piece of what there is to do; for the rest it is woken again.
    #[must_use]
    pub fn look(&mut self) -> Around {
        self.config.edge.clear_wake();
        let now = self.config.environment.clock.monotonic();
        let edge = &self.config.edge;
        self.due.retain(|vbucket, at| {
            let is_due = *at <= now;
            if is_due {
                edge.mark(*vbucket);
            }
            !is_due
        });
        let mut around = Around::default();
        for _ in 0..VBUCKETS_PER_LOOK {
            let Some(vbucket) = self.config.edge.take() else {
                break;
            };
            self.look_at(vbucket, &mut around.asked);
        }
        self.config.edge.wake_for_rest();
        around.next = self.due.values().min().copied();
        around
    }

    /// A source answered a request.
    pub fn answered(
        &mut self,
        vbucket: VbucketId,
        attempt: u64,
        answer: Result<StreamOpened, StreamRequestError>,
    ) {
        if let Some(live) = self.lives.get_mut(&vbucket) {
            live.answered(attempt, answer);
            self.config.edge.mark(vbucket);
        }
    }

    fn look_at(&mut self, vbucket: VbucketId, asked: &mut Vec<Asked>) {
        self.due.remove(&vbucket);
        let Some(live) = self.live(vbucket) else {
            return;
        };
        match live.look(asked) {
            Looked::Waits => {}
            Looked::More => self.config.edge.mark(vbucket),
            Looked::At(at) => drop(self.due.insert(vbucket, at)),
            Looked::Over => drop(self.lives.remove(&vbucket)),
        }
    }

    /// The stream of what the vbucket follows now, if it follows anything.
    fn live(&mut self, vbucket: VbucketId) -> Option<&mut Live> {
        let following = self.config.follows.of(vbucket);
        let known = self.lives.get(&vbucket);
        let is_same = following
            .as_ref()
            .is_some_and(|following| known.is_some_and(|live| live.is_of(following)));
        if !is_same {
            // What it held goes before another begins.
            drop(self.lives.remove(&vbucket));
            let following = following?;
            if matches!(following.status().state, ReplicaState::Over(_)) {
                return None;
            }
            let slot = Arc::clone(self.slots.get(&vbucket)?);
            let live = Live::new(following, slot, self.links.clone());
            self.lives.insert(vbucket, live);
        }
        self.lives.get_mut(&vbucket)
    }
}
