//! Where failures go while no bucket with a failure bus stands: into a list and the trace.
//!
//! Invariant: ids rise by one, as on the bus.

use std::sync::Arc;

use parking_lot::Mutex;

use actors::environment::{Clock, FailureReport, ReportFailure};
use actors::simulation::{SimulatedClock, Trace};
use messages::{Failure, FailureId};

/// All failures that were reported.
#[derive(Clone, Debug)]
pub struct FailureLog {
    clock: SimulatedClock,
    trace: Trace,
    failures: Arc<Mutex<Vec<Failure>>>,
}

impl FailureLog {
    pub(crate) fn new(clock: SimulatedClock, trace: Trace) -> FailureLog {
        FailureLog {
            clock,
            trace,
            failures: Arc::default(),
        }
    }

    /// Those reported so far, oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Failure> {
        self.failures.lock().clone()
    }
}

impl ReportFailure for FailureLog {
    fn report(&self, report: FailureReport) -> FailureId {
        let mut failures = self.failures.lock();
        let id = FailureId((failures.len() as u64).saturating_add(1));
        let what = report.kind.counter();
        let who = format!("{}: {}", report.child, report.cause);
        self.trace.event(what, &who, &[report.generation.0]);
        let at_ms = self.clock.since_epoch().as_millis();
        failures.push(Failure {
            id,
            at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
            child: report.child,
            generation: report.generation,
            vbucket: report.vbucket,
            kind: report.kind,
            cause: report.cause,
            next: report.next,
        });
        id
    }
}
