//! What a test harness may see and do inside the engine: watch messages pass, and ask for faults by name.
//!
//! Invariant: production code asks at few named places and does nothing else for tests; without a harness
//! ([`Hooks::none`]) each of them is one comparison. A hook never changes a message or an answer: it lets pass, holds
//! up, makes the work fail or panic, which is what reality may do too.

use std::any::{Any, type_name};
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use messages::failure::{CompactionStage, ScanPurpose};
use messages::{ChildName, FailureCause, Generation};
use storage::VbucketId;

use crate::executor::WakeWorker;

/// A harness, as the engine sees it. Called on any thread, under no lock of the engine; must not block.
pub trait Hook: Debug + Send + Sync + 'static {
    /// A message is about to be handled. Called once for each message, in the order they are handled; not again after
    /// a delay.
    fn message(&self, passing: &Passing<'_>) -> Delivery {
        let _ = passing;
        Delivery::Handle
    }

    /// A worker is about to do a step.
    fn step(&self, worker: &ChildName, generation: Generation) -> Delivery {
        let _ = (worker, generation);
        Delivery::Handle
    }

    /// Work is about to begin what it does at this place: whether it shall stand still before it. If so it is asked
    /// again whenever it is woken; the second argument makes what wakes it.
    fn hold(&self, place: HoldPoint, _wake: &dyn Fn() -> WakeWorker) -> bool {
        let _ = place;
        false
    }

    /// The invariants of a vbucket's durable writes were looked at. Whether that is taken note of; else what is broken is told
    /// as failures.
    fn judged(&self, vbucket: VbucketId, judged: &Judged) -> bool {
        let _ = (vbucket, judged);
        false
    }

    /// A named place was reached: why it shall fail, if it shall.
    fn fault(&self, point: FaultPoint) -> Option<FailureCause> {
        let _ = point;
        None
    }
}

/// What came of a look at the invariants of a vbucket, each named by its number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// Those that hold, and had something to look at.
    pub looked_at: Vec<u8>,
    /// Those that do not, and how that shows.
    pub broken: Vec<(u8, String)>,
}

/// A message on its way into a child.
#[derive(Debug)]
pub struct Passing<'a> {
    /// Who gets it.
    pub child: &'a ChildName,
    /// Which life of that child.
    pub generation: Generation,
    /// The type of the message, as [`std::any::type_name`] gives it.
    pub type_name: &'static str,
    /// The message.
    pub message: &'a dyn Any,
}

/// What becomes of a message, or of a worker's step.
#[must_use = "a fault that is not carried out proves nothing"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// It is handled.
    Handle,
    /// It is handled after this time, and nothing else of this child before it.
    After(Duration),
    /// Its handling panics with this text, under the guard that every entry has.
    Panic(String),
}

/// A place in the engine where a fault can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FaultPoint {
    /// Before a step of a scan.
    Scan {
        /// For whom it is read.
        purpose: ScanPurpose,
    },
    /// Before a document that is not in memory is read.
    Fetch,
    /// Before a pass of a compaction.
    Compaction {
        /// Which pass.
        stage: CompactionStage,
    },
    /// Before a group of batches is handed to the store.
    FlushCommit,
}

/// A place in the engine where work can be made to stand still, for as long as a test likes: it is no stall, for whoever
/// is held does nothing meanwhile and owes no sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HoldPoint {
    /// Whose compaction.
    pub vbucket: VbucketId,
    /// Before its next step, which works on this.
    pub stage: CompactionStage,
}

/// The harness of a bucket, or none.
#[derive(Clone, Debug, Default)]
pub struct Hooks(Option<Arc<dyn Hook>>);

impl Hooks {
    /// No harness: everything passes.
    #[must_use]
    pub const fn none() -> Hooks {
        Hooks(None)
    }

    /// This harness.
    #[must_use]
    pub fn new(hook: Arc<dyn Hook>) -> Hooks {
        Hooks(Some(hook))
    }

    /// A shell asks this for each message before it handles it (not again when a delay is over).
    pub fn message<M: 'static>(
        &self,
        child: &ChildName,
        generation: Generation,
        message: &M,
    ) -> Delivery {
        self.0.as_ref().map_or(Delivery::Handle, |hook| {
            hook.message(&Passing {
                child,
                generation,
                type_name: type_name::<M>(),
                message,
            })
        })
    }

    /// An executor asks this before each step of a worker.
    pub fn step(&self, worker: &ChildName, generation: Generation) -> Delivery {
        let hook = self.0.as_ref();
        hook.map_or(Delivery::Handle, |hook| hook.step(worker, generation))
    }

    /// Work that can be held asks this before it begins what it does at that place, and comes back when it is woken.
    #[must_use]
    pub fn hold(&self, place: HoldPoint, wake: impl Fn() -> WakeWorker) -> bool {
        let hook = self.0.as_ref();
        hook.is_some_and(|hook| hook.hold(place, &wake))
    }

    /// Whoever looked at the invariants of a vbucket tells it here; whether there was somebody to be told.
    pub(crate) fn judged(&self, vbucket: VbucketId, judged: &Judged) -> bool {
        let hook = self.0.as_ref();
        hook.is_some_and(|hook| hook.judged(vbucket, judged))
    }

    /// Work that reaches a named place asks this, and fails with the cause it gets.
    pub fn fault(&self, point: FaultPoint) -> Result<(), FailureCause> {
        let cause = self.0.as_ref().and_then(|hook| hook.fault(point));
        cause.map_or(Ok(()), Err)
    }
}
