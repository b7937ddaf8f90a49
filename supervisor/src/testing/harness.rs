//! What the engine sees of a harness: taps to tell, faults to carry out, the trace of a world.
//!
//! Invariant: the order is trace, taps, faults, so that a message whose handling is made to panic was seen before.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use actors::environment::Clock;
use actors::executor::WakeWorker;
use actors::hooks::{Delivery, FaultPoint, HoldPoint, Hook, Hooks, Judged, Passing};
use actors::simulation::{SimulatedRandom, Trace};
use actors::system::SystemClock;
use messages::{ChildName, FailureCause, Generation};
use storage::VbucketId;

use crate::testing::fault::{DiskFault, Fault, FaultPlan};
use crate::testing::hold::{Hold, Holds};
use crate::testing::tap::Tap;

/// Taps and faults of a bucket. A world has one for all that runs in it; a bucket on threads takes the
/// [`hooks`](Harness::hooks) of one in its configuration. A clone is the same harness.
#[derive(Clone)]
pub struct Harness {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    plan: FaultPlan,
    holds: Holds,
    taps: Mutex<Vec<Arc<dyn Tap>>>,
    /// How often each invariant was looked at, by its number.
    judged: Mutex<BTreeMap<u8, u64>>,
    world: Option<InWorld>,
}

/// What a world adds.
pub(crate) struct InWorld {
    pub(crate) trace: Trace,
    pub(crate) delays: SimulatedRandom,
    /// Messages in a thousand that are delivered late.
    pub(crate) late_permille: u64,
}

/// Most a message is held up to perturb the order of deliveries, in milliseconds.
const LATE_MS_MAX: u64 = 5;

impl Harness {
    /// A harness for a bucket on threads: taps are told real time since now.
    #[must_use]
    pub fn new() -> Harness {
        Harness::with(Arc::new(SystemClock::new()), None)
    }

    pub(crate) fn in_world(clock: Arc<dyn Clock>, world: InWorld) -> Harness {
        Harness::with(clock, Some(world))
    }

    fn with(clock: Arc<dyn Clock>, world: Option<InWorld>) -> Harness {
        let shared = Arc::new(Shared {
            clock,
            plan: FaultPlan::new(),
            holds: Holds::default(),
            taps: Mutex::default(),
            judged: Mutex::default(),
            world,
        });
        Harness { shared }
    }

    /// What goes into an `Environment`, or into a bucket's configuration.
    #[must_use]
    pub fn hooks(&self) -> Hooks {
        Hooks::new(Arc::new(self.clone()))
    }

    /// Asks for a fault. One of the disk is given back: it is the disk's matter, see [`DiskFault::to_simulated`].
    pub fn inject(&self, fault: Fault) -> Result<(), DiskFault> {
        self.shared.plan.add(fault)
    }

    /// How many faults have not struck, those of the disk aside.
    #[must_use]
    pub fn faults_waiting(&self) -> usize {
        self.shared.plan.waiting()
    }

    /// Those that have struck, oldest first, the disk's aside.
    #[must_use]
    pub fn faults_struck(&self) -> Vec<Fault> {
        self.shared.plan.struck()
    }

    /// Takes all faults away, those that have not struck and the memory of those that have.
    pub fn clear_faults(&self) {
        self.shared.plan.clear();
    }

    /// Has the next compaction that comes to that place stand still there, until what is returned is released or
    /// dropped.
    #[must_use = "dropped, it holds nobody"]
    pub fn hold(&self, place: HoldPoint) -> Hold {
        self.hold_behind(place, 0)
    }

    /// As [`Harness::hold`], once so many steps of compactions passed that place.
    #[must_use = "dropped, it holds nobody"]
    pub fn hold_behind(&self, place: HoldPoint, steps: usize) -> Hold {
        self.shared.holds.add(place, steps)
    }

    /// Has all messages seen by `tap`.
    pub fn tap(&self, tap: impl Tap) {
        self.shared.taps.lock().push(Arc::new(tap));
    }

    /// How often each invariant of durable writes was looked at and found to hold, by its number.
    #[must_use]
    pub fn judged(&self) -> BTreeMap<u8, u64> {
        self.shared.judged.lock().clone()
    }

    fn trace(&self, what: &'static str, who: &str, figures: &[u64]) {
        if let Some(world) = &self.shared.world {
            world.trace.event(what, who, figures);
        }
    }

    fn told(&self, what: &str, delivery: Delivery) -> Delivery {
        match &delivery {
            Delivery::Handle => {}
            Delivery::After(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                self.trace("held up", what, &[millis]);
            }
            Delivery::Panic(text) => self.trace("made to panic", text, &[]),
        }
        delivery
    }

    /// In a world some messages are late without anybody asking.
    fn maybe_late(&self) -> Delivery {
        match &self.shared.world {
            Some(world) if world.delays.chance(world.late_permille) => {
                let late = world.delays.between(0..=LATE_MS_MAX);
                Delivery::After(Duration::from_millis(late))
            }
            Some(_) | None => Delivery::Handle,
        }
    }
}

impl Default for Harness {
    fn default() -> Harness {
        Harness::new()
    }
}

impl fmt::Debug for Harness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Harness")
            .field("plan", &self.shared.plan)
            .finish_non_exhaustive()
    }
}

impl Hook for Harness {
    fn message(&self, passing: &Passing<'_>) -> Delivery {
        if self.shared.world.is_some() {
            let what = format!("{} {}", passing.child, passing.type_name);
            self.trace("message", &what, &[passing.generation.0]);
        }
        let at = self.shared.clock.monotonic();
        let taps = self.shared.taps.lock().clone();
        for tap in taps {
            tap.saw(at, passing);
        }
        let mut delivery = self.shared.plan.on_message(passing);
        if delivery == Delivery::Handle {
            delivery = self.maybe_late();
        }
        self.told(passing.child.as_str(), delivery)
    }

    fn step(&self, worker: &ChildName, _: Generation) -> Delivery {
        self.told(worker.as_str(), self.shared.plan.on_step(worker))
    }

    fn hold(&self, place: HoldPoint, wake: &dyn Fn() -> WakeWorker) -> bool {
        let (is_held, is_new) = self.shared.holds.reached(place, wake);
        if is_new {
            let who = format!("{:?}", place.stage);
            self.trace("held", &who, &[u64::from(place.vbucket.get())]);
        }
        is_held
    }

    fn judged(&self, vbucket: VbucketId, judged: &Judged) -> bool {
        {
            let mut counts = self.shared.judged.lock();
            for id in &judged.looked_at {
                let count = counts.entry(*id).or_default();
                *count = count.saturating_add(1);
            }
        }
        let Some(world) = &self.shared.world else {
            return false;
        };
        for (id, what) in &judged.broken {
            let what = format!("invariant {id} of vbucket {vbucket}: {what}");
            world.trace.finding(what);
        }
        true
    }

    fn fault(&self, point: FaultPoint) -> Option<FailureCause> {
        let cause = self.shared.plan.at(point)?;
        self.trace("fault", &cause.to_string(), &[]);
        Some(cause)
    }
}
