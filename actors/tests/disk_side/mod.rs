//! What the tests of the disk's side share: time and randomness by hand, a vbucket that is only its log, a store on a
//! simulated disk, and workers driven step by step.
#![expect(dead_code, reason = "each test uses its part")]

pub(crate) mod cores;
pub(crate) mod panicking_disk;
pub(crate) mod readers;
pub(crate) mod rig;
pub(crate) mod table;
pub(crate) mod vbucket;
pub(crate) mod warming;
pub(crate) mod workers;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use messages::FailureId;
use piggin_actors::environment::{Clock, Environment, FailureReport, Random, ReportFailure};
use piggin_actors::executor::{Executor, StartError, WakeWorker, WorkerSpec};
use piggin_actors::hooks::Hooks;

/// Time that moves when told.
#[derive(Debug, Default)]
pub(crate) struct HandClock(AtomicU64);

impl HandClock {
    pub(crate) fn advance(&self, by: Duration) {
        let milliseconds = u64::try_from(by.as_millis()).unwrap();
        self.0.fetch_add(milliseconds.max(1), Ordering::SeqCst);
    }
}

impl Clock for HandClock {
    fn since_epoch(&self) -> Duration {
        self.monotonic() + Duration::from_secs(1_750_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::SeqCst))
    }
}

fn mix(mut mixed: u64) -> u64 {
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Numbers from a seed (splitmix64).
#[derive(Debug)]
pub(crate) struct Numbers(AtomicU64);

impl Numbers {
    pub(crate) fn new(seed: u64) -> Numbers {
        // Seeds a step apart would give one sequence, a number apart.
        Numbers(AtomicU64::new(mix(seed ^ 0x5eed)))
    }

    pub(crate) fn below(&self, limit: u64) -> u64 {
        self.next_u64() % limit
    }

    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

impl Random for Numbers {
    fn next_u64(&self) -> u64 {
        mix(self.0.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::SeqCst))
    }
}

/// Every failure told.
#[derive(Debug, Default)]
pub(crate) struct Told(pub(crate) Mutex<Vec<FailureReport>>);

impl ReportFailure for Told {
    fn report(&self, report: FailureReport) -> FailureId {
        let mut told = self.0.lock();
        told.push(report);
        FailureId(told.len() as u64)
    }
}

impl Told {
    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }

    pub(crate) fn take(&self) -> Vec<FailureReport> {
        std::mem::take(&mut self.0.lock())
    }
}

/// The tests drive workers themselves.
#[derive(Debug)]
struct NoExecutor;

impl Executor for NoExecutor {
    fn start(&self, spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        Err(StartError {
            name: spec.name,
            what: "driven by hand".into(),
        })
    }
}

/// Time, numbers and failures of one test.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) clock: Arc<HandClock>,
    pub(crate) numbers: Arc<Numbers>,
    pub(crate) told: Arc<Told>,
}

impl Ground {
    pub(crate) fn new(seed: u64) -> Ground {
        Ground {
            clock: Arc::default(),
            numbers: Arc::new(Numbers::new(seed)),
            told: Arc::default(),
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    pub(crate) fn environment(&self) -> Environment {
        Environment {
            clock: Arc::<HandClock>::clone(&self.clock),
            random: Arc::<Numbers>::clone(&self.numbers),
            failures: Arc::<Told>::clone(&self.told),
            executor: Arc::new(NoExecutor),
            hooks: Hooks::none(),
        }
    }
}
