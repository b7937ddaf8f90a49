//! One worker's life, free of threads and time: it is made, stepped, and made anew when it panicked and its guardian
//! says so.
//!
//! Invariant: no panic of the worker, of its maker, of its drop or of its guardian leaves this module; each is told to
//! the guardian, and a guardian that panics itself means the worker stays down. Every worker made has a higher
//! generation than the one before.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use messages::{ChildName, Generation};

use crate::executor::{Step, Worker, WorkerSpec};
use crate::guardian::{ExitCause, Verdict};

/// A worker and what is needed to make the next one.
pub(crate) struct Life {
    spec: WorkerSpec,
    generation: Generation,
    worker: Option<Box<dyn Worker>>,
}

/// What comes next in a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It was made, or did a step.
    Stepped(Step),
    /// It panicked; the next turn, after this time, makes a new one.
    RestartAfter(Duration),
    /// It panicked and stays down.
    Down,
}

impl Life {
    pub(crate) fn new(spec: WorkerSpec) -> Life {
        Life {
            spec,
            generation: Generation::default(),
            worker: None,
        }
    }

    pub(crate) fn name(&self) -> &ChildName {
        &self.spec.name
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether the next turn is a step of a worker that was made.
    #[cfg(any(test, feature = "testing"))]
    pub(crate) fn is_made(&self) -> bool {
        self.worker.is_some()
    }

    /// Makes the worker or, if there is one, does its next step.
    pub(crate) fn turn(&mut self) -> Turn {
        self.turn_after(|| {})
    }

    /// As [`Life::turn`], with `before` done first under the same guard: its panic is the worker's.
    pub(crate) fn turn_after(&mut self, before: impl FnOnce()) -> Turn {
        let Some(worker) = &mut self.worker else {
            return self.make();
        };
        let step = guarded(|| {
            before();
            worker.step()
        });
        match step {
            Ok(Step::Ended) => self
                .end()
                .map_or_else(|panic| self.fell(panic), |()| Turn::Stepped(Step::Ended)),
            Ok(step @ (Step::Again | Step::Idle | Step::IdleFor(_))) => Turn::Stepped(step),
            Err(panic) => {
                // What its drop says after that is no news.
                drop(self.end());
                self.fell(panic)
            }
        }
    }

    /// Drops the worker, if there is one; what a panic of its drop said.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let worker = self.worker.take();
        guarded(|| drop(worker))
    }

    fn make(&mut self) -> Turn {
        self.generation = Generation(self.generation.0.saturating_add(1));
        let generation = self.generation;
        match guarded(|| (self.spec.make)(generation)) {
            Ok(worker) => self.worker = Some(worker),
            Err(panic) => return self.fell(panic),
        }
        let guardian = &self.spec.guardian;
        match guarded(|| guardian.child_up(&self.spec.name, generation)) {
            Ok(()) => Turn::Stepped(Step::Again),
            Err(_) => Turn::Down,
        }
    }

    fn fell(&self, panic: String) -> Turn {
        let cause = ExitCause::Panicked(panic);
        let guardian = &self.spec.guardian;
        match guarded(|| guardian.child_down(&self.spec.name, self.generation, cause)) {
            Ok(Verdict::RestartAfter(delay)) => Turn::RestartAfter(delay),
            Ok(Verdict::StayDown) | Err(_) => Turn::Down,
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        drop(self.end());
    }
}

/// Runs `work`; a panic becomes its text. Whatever `work` left half done must be dropped by the caller.
fn guarded<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|payload| panic_text(payload.as_ref()))
}

/// What a panic said.
pub(crate) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("a value that is no text").to_owned()
}
