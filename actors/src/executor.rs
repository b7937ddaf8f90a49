//! Workers: work that blocks (the disk), run beside the actors.
//!
//! Invariant: a worker does its work in steps with at most one sync each (rule R23), so that a simulation can
//! interleave them with everything else; a wake-up given before a worker idles is not lost. In production each worker
//! is a thread of its own ([`threads`]), in a simulation a task on the one thread.

pub mod blocking;
pub(crate) mod life;
pub(crate) mod roll;
pub mod threads;

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use messages::{ChildName, Generation};

use crate::guardian::Guardian;

/// What a step of a worker came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// There is more to do at once.
    Again,
    /// Nothing to do until somebody wakes it.
    Idle,
    /// Nothing to do until somebody wakes it, or this much time went by.
    IdleFor(Duration),
    /// The worker's work is done. Its guardian is asked as for any end, with [`ExitCause::Finished`].
    ///
    /// [`ExitCause::Finished`]: crate::guardian::ExitCause::Finished
    Ended,
}

/// Work in steps. A step may block on the disk, never on an actor.
pub trait Worker: Send {
    /// Does the next piece of work.
    fn step(&mut self) -> Step;
    /// Whether it gives way on the processor to all others: for work that nobody waits for. The same for every life.
    fn gives_way(&self) -> bool {
        false
    }
}

/// Wakes a worker; cheap, from any thread, never blocks. Wake-ups before the worker looks count once.
#[derive(Clone)]
pub struct WakeWorker(Arc<dyn Fn() + Send + Sync>);

impl WakeWorker {
    /// A waker that calls `wake`.
    pub fn new(wake: impl Fn() + Send + Sync + 'static) -> WakeWorker {
        WakeWorker(Arc::new(wake))
    }

    /// Wakes it.
    pub fn wake(&self) {
        (self.0)();
    }
}

impl Debug for WakeWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WakeWorker")
    }
}

/// Makes a worker, for each generation anew.
pub type MakeWorker = Box<dyn FnMut(Generation) -> Box<dyn Worker> + Send>;

/// A worker to start.
pub struct WorkerSpec {
    /// Its name in the tree.
    pub name: ChildName,
    /// Makes it.
    pub make: MakeWorker,
    /// Who decides when it panics, or is done.
    pub guardian: Arc<dyn Guardian>,
}

impl Debug for WorkerSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkerSpec")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Runs workers.
pub trait Executor: Debug + Send + Sync + 'static {
    /// Starts a worker. When it panics, its guardian is asked, and a new one is made.
    fn start(&self, spec: WorkerSpec) -> Result<WakeWorker, StartError>;
}

/// An executor as its owner sees it: the bucket stops its workers one by one, in the order of its tree, by telling
/// each through its own state; this ends whoever is left.
pub trait StopWorkers: Executor {
    /// Lets every worker end after its current step; wakes those that idle or wait for a restart. Starts none from
    /// now on. Returns at once.
    fn stop(&self);
    /// Who has not ended, in the order they were started.
    fn running(&self) -> Vec<ChildName>;
    /// Comes to an end once nobody is running. Needs no particular runtime; put a timeout around it.
    fn all_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send>>;
}

/// What a stop came to.
#[must_use = "a worker that did not stop still works on the disk"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StopReport {
    /// Who had not ended at the deadline.
    pub still_running: Vec<ChildName>,
}

impl StopReport {
    /// Whether all had ended.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.still_running.is_empty()
    }
}

/// A worker could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {name} could not be started: {what}")]
pub struct StartError {
    /// Which.
    pub name: ChildName,
    /// What the system said.
    pub what: String,
}
