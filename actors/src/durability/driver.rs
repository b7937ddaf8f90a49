//! Who has decided durable writes done: commits and aborts written, deadlines noticed, replicas' consumers told that there
//! is something to acknowledge. One for each actor thread.
//!
//! Invariant: it holds nothing a vbucket could miss. What is decided lies in the vbucket, beside its map and its log, and
//! is done there under its lock (decision 0018); what is known here is when to look, and a new life looks at everything.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use messages::durability::LookAtPrepares;
use storage::{VbucketId, VbucketState};

use crate::environment::Environment;
use crate::shell::{Core, On, Reply, ShellContext, Task};
use crate::vbucket::{DirtyVbuckets, VbucketCore, VbucketSlot, WakeFlusher, WakeSent};

/// Vbuckets looked at before others of the thread have their turn.
const VBUCKETS_PER_LOOK: usize = 16;
/// Commits and aborts of a vbucket before others have their turn: each is an item in the log and one in the map.
const DECISIONS_PER_TURN: usize = 64;

/// What a driver works with.
#[derive(Clone, Debug)]
pub struct DriverConfig {
    /// Its vbuckets.
    pub vbuckets: Vec<Arc<VbucketSlot>>,
    /// Where they say that something is decided, or is to be acknowledged.
    pub edge: Arc<DirtyVbuckets>,
    /// The edge of the consumer of the same thread, which acknowledges for replicas.
    pub consumer: Arc<DirtyVbuckets>,
    /// The time.
    pub environment: Environment,
}

/// Drives the durable writes of one thread's vbuckets.
#[derive(Debug)]
pub struct Driver {
    config: DriverConfig,
    slots: BTreeMap<VbucketId, Arc<VbucketSlot>>,
    /// When (monotonic) there is something to do that nobody will say.
    due: BTreeMap<VbucketId, Duration>,
}

impl Driver {
    /// One that looks at every vbucket first: whoever was before it may have had one in hand.
    #[must_use]
    pub fn new(config: DriverConfig) -> Driver {
        let slots = config.vbuckets.iter();
        let slots: BTreeMap<_, _> = slots.map(|slot| (slot.id(), Arc::clone(slot))).collect();
        for vbucket in slots.keys() {
            config.edge.mark(*vbucket);
        }
        Driver {
            config,
            slots,
            due: BTreeMap::new(),
        }
    }

    /// Does a bounded piece of what there is to do; for the rest it is woken again. When (monotonic) there is something to
    /// do, if nothing happens before.
    #[must_use]
    pub fn look(&mut self) -> Option<Duration> {
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
        for _ in 0..VBUCKETS_PER_LOOK {
            let Some(vbucket) = self.config.edge.take() else {
                break;
            };
            self.look_at(vbucket, now);
        }
        self.config.edge.wake_for_rest();
        self.due.values().min().copied()
    }

    fn look_at(&mut self, vbucket: VbucketId, now: Duration) {
        self.due.remove(&vbucket);
        let slot = self.slots.get(&vbucket);
        // One that is not read yet marks the edge when it has something.
        let Some(Ok(core)) = slot.map(|slot| slot.core()) else {
            return;
        };
        let progress = core.do_durability(now, DECISIONS_PER_TURN);
        if progress.has_more {
            self.config.edge.mark(vbucket);
        } else if let Some(at) = progress.next_tick {
            self.due.insert(vbucket, at);
        }
        if is_replica(core) {
            self.config.consumer.mark(vbucket);
        }
    }
}

/// What it holds it acknowledges to its source.
fn is_replica(core: &VbucketCore) -> bool {
    match core.state() {
        VbucketState::Replica | VbucketState::Pending => true,
        VbucketState::Active | VbucketState::Dead => false,
    }
}

/// One life of a driver, as its shell sees it.
#[derive(Debug)]
pub struct DriverCore {
    driver: Driver,
    config: DriverConfig,
    timer: Option<(Duration, Task)>,
}

impl DriverCore {
    /// A new life.
    #[must_use]
    pub fn new(config: DriverConfig) -> DriverCore {
        DriverCore {
            driver: Driver::new(config.clone()),
            config,
            timer: None,
        }
    }

    fn look(&mut self, ctx: &mut ShellContext<'_, DriverCore>) {
        let next = self.driver.look();
        if self.timer.as_ref().map(|(at, _)| *at) == next {
            return;
        }
        if let Some((_, timer)) = self.timer.take() {
            timer.cancel();
        }
        if let Some(at) = next {
            let after = at.saturating_sub(self.config.environment.clock.monotonic());
            // A deadline has passed once it lies in the past, and timers have a grain of a millisecond.
            let after = after.saturating_add(Duration::from_millis(1));
            let timer = ctx.later(after, |core, ctx| {
                core.timer = None;
                core.look(ctx);
            });
            self.timer = Some((at, timer));
        }
    }
}

impl Core for DriverCore {
    fn started(&mut self, ctx: &mut ShellContext<'_, Self>) {
        let recipient = ctx.recipient::<LookAtPrepares>();
        let send = move || match recipient.try_send(LookAtPrepares) {
            Ok(()) => WakeSent::Delivered,
            Err(actix::prelude::SendError::Full(_)) => WakeSent::Full,
            Err(actix::prelude::SendError::Closed(_)) => WakeSent::Nobody,
        };
        self.config.edge.set_waker(WakeFlusher::new(send));
        self.look(ctx);
    }
}

impl On<LookAtPrepares> for DriverCore {
    fn on(&mut self, _: LookAtPrepares, ctx: &mut ShellContext<'_, Self>) -> Reply<Self, ()> {
        self.look(ctx);
        Reply::Now(())
    }
}
