//! The harness as the engine sees it: faults are looked up, taps told, and everything goes into the trace.
//!
//! Invariant: the order is trace, taps, faults, so that a message whose handling is made to panic was seen before.

use std::sync::Arc;

use parking_lot::Mutex;

use actors::environment::Clock;
use actors::hooks::{Delivery, FaultPoint, Hook, Passing};
use actors::simulation::{SimulatedClock, SimulatedRandom, Trace};
use messages::{ChildName, FailureCause, Generation};

use crate::testing::fault::FaultPlan;
use crate::testing::tap::Tap;

/// What a bucket in a world is handed as its hook.
#[derive(Debug)]
pub struct Harness {
    clock: SimulatedClock,
    trace: Trace,
    plan: FaultPlan,
    taps: Mutex<Vec<Arc<dyn Tap>>>,
    delays: SimulatedRandom,
    /// Messages in a thousand that are delivered late.
    late_permille: u64,
}

/// Most a message is held up to perturb the order of deliveries, in milliseconds.
const LATE_MS_MAX: u64 = 5;

impl Harness {
    pub(crate) fn new(
        clock: SimulatedClock,
        trace: Trace,
        delays: SimulatedRandom,
        late_permille: u64,
    ) -> Harness {
        Harness {
            clock,
            trace,
            plan: FaultPlan::new(),
            taps: Mutex::default(),
            delays,
            late_permille,
        }
    }

    /// The faults that wait.
    #[must_use]
    pub fn plan(&self) -> &FaultPlan {
        &self.plan
    }

    /// Adds a tap.
    pub fn tap(&self, tap: Arc<dyn Tap>) {
        self.taps.lock().push(tap);
    }

    fn told(&self, what: &'static str, delivery: Delivery) -> Delivery {
        match &delivery {
            Delivery::Handle => {}
            Delivery::After(time) => {
                let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                self.trace.event("held up", what, &[millis]);
            }
            Delivery::Panic(text) => self.trace.event("made to panic", text, &[]),
        }
        delivery
    }
}

impl Hook for Harness {
    fn message(&self, passing: &Passing<'_>) -> Delivery {
        self.trace.event(
            "message",
            &format!("{} {}", passing.child, passing.type_name),
            &[passing.generation.0],
        );
        let at = self.clock.monotonic();
        let taps = self.taps.lock().clone();
        for tap in taps {
            tap.saw(at, passing);
        }
        let mut delivery = self.plan.on_message(passing);
        if delivery == Delivery::Handle && self.delays.chance(self.late_permille) {
            let late = self.delays.between(0..=LATE_MS_MAX);
            delivery = Delivery::After(std::time::Duration::from_millis(late));
        }
        self.told("message", delivery)
    }

    fn step(&self, worker: &ChildName, _: Generation) -> Delivery {
        self.told("step", self.plan.on_step(worker))
    }

    fn fault(&self, point: FaultPoint) -> Option<FailureCause> {
        let cause = self.plan.at(point)?;
        self.trace.event("fault", &cause.to_string(), &[]);
        Some(cause)
    }
}
