//! What the outside gives every worker: the time, randomness, and where failures are told. Nothing here is global.
//!
//! Invariant: nothing in this crate reads a clock, draws a number or logs a failure but through an
//! [`Environment`]; so one seed gives one run.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use messages::{ChildName, FailureCause, FailureId, FailureKind, Generation, NextStep};
use storage::VbucketId;

use crate::executor::Executor;
use crate::hooks::Hooks;

/// The time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall-clock time since the Unix epoch; may jump.
    fn since_epoch(&self) -> Duration;
    /// Time since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// Randomness for identities and jitter.
pub trait Random: Debug + Send + Sync + 'static {
    /// The next number.
    fn next_u64(&self) -> u64;
}

/// A failure as its finder tells it; the failure bus adds number and time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureReport {
    /// Who failed, or whose job it was.
    pub child: ChildName,
    /// Which life of that child.
    pub generation: Generation,
    /// The vbucket concerned.
    pub vbucket: Option<VbucketId>,
    /// What failed.
    pub kind: FailureKind,
    /// Why.
    pub cause: FailureCause,
    /// What is done about it.
    pub next: NextStep,
}

/// Where failures are told: counts, logs, keeps and publishes each. Callable from any thread; never blocks on an
/// actor.
pub trait ReportFailure: Debug + Send + Sync + 'static {
    /// Tells of one failure. Whoever asked for the work is answered by the caller.
    fn report(&self, report: FailureReport) -> FailureId;
    /// Tells subscribers that were slow what they missed, if they have room now. Called now and then by the
    /// supervisor's watch.
    fn catch_up(&self) {}
}

/// All of it, handed to every worker.
#[derive(Clone, Debug)]
pub struct Environment {
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Where failures are told.
    pub failures: Arc<dyn ReportFailure>,
    /// Who runs work that blocks.
    pub executor: Arc<dyn Executor>,
    /// What a test harness may see and do; [`Hooks::none`] in production.
    pub hooks: Hooks,
}
