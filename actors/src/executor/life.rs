//! One worker's life, free of threads and time: it is made, stepped, and made anew when it panicked and its guardian
//! says so.
//!
//! Invariant: no panic of the worker, of its maker, of its drop or of its guardian leaves this module; each is told to
//! the guardian, and a guardian that panics itself means the worker stays down. Every worker made has a higher
//! generation than the one before.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use messages::{ChildName, Generation};

use crate::executor::{Step, WakeWorker, Worker, WorkerSpec};
use crate::guardian::{ExitCause, Verdict};
use crate::panics::panic_text;
use crate::tether::Tether;
use storage::waiting::{WatchWaits, watched};

/// A worker and what is needed to make the next one.
pub(crate) struct Life {
    spec: WorkerSpec,
    tether: Arc<Tether>,
    /// The tether, told when a step waits for another thread.
    waits: Arc<dyn WatchWaits>,
    generation: Generation,
    worker: Option<Box<dyn Worker>>,
    gives_way: bool,
    /// Orders seen so far, and what they say.
    seen: u64,
    resets: u64,
    is_held: bool,
    is_down: bool,
}

/// What comes next in a worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It was made, or did a step.
    Stepped(Step),
    /// It panicked; the next turn, after this time, makes a new one.
    RestartAfter(Duration),
    /// It stays down, for good.
    Down,
    /// It is out of service; a turn is taken again when somebody wakes it, for the orders may have changed.
    OutOfService,
}

impl Life {
    /// A life that has not begun. `wake` makes whoever drives it take the next turn.
    pub(crate) fn new(spec: WorkerSpec, wake: WakeWorker) -> Life {
        let tether = spec.guardian.tether(&spec.name);
        tether.set_wake(wake);
        Life {
            spec,
            waits: Arc::clone(&tether) as _,
            tether,
            generation: Generation::default(),
            worker: None,
            gives_way: false,
            seen: 0,
            resets: 0,
            is_held: false,
            is_down: false,
        }
    }

    pub(crate) fn name(&self) -> &ChildName {
        &self.spec.name
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Whether a worker was made that gives way to others.
    pub(crate) fn gives_way(&self) -> bool {
        self.gives_way
    }

    /// Whether the next turn is a step of a worker that was made.
    pub(crate) fn is_made(&self) -> bool {
        self.worker.is_some()
    }

    /// The next turn is under way: from now on it owes a sign of life.
    pub(crate) fn begin_work(&self) {
        self.tether.enter();
    }

    /// Makes the worker or, if there is one, does its next step.
    pub(crate) fn turn(&mut self) -> Turn {
        self.turn_after(|| {})
    }

    /// As [`Life::turn`], with `before` done first under the same guard: its panic is the worker's.
    pub(crate) fn turn_after(&mut self, before: impl FnOnce()) -> Turn {
        if let Some(turn) = self.obey() {
            return turn;
        }
        let Some(worker) = &mut self.worker else {
            return self.make();
        };
        self.tether.enter();
        let step = guarded(|| {
            before();
            watched(&self.waits, || worker.step())
        });
        self.tether.leave();
        match step {
            Ok(Step::Ended) => match self.end() {
                Ok(()) => self.down(ExitCause::Finished),
                Err(panic) => self.down(ExitCause::Panicked(panic)),
            },
            Ok(step @ (Step::Again | Step::Idle | Step::IdleFor(_))) => Turn::Stepped(step),
            Err(panic) => {
                // What its drop says after that is no news.
                drop(self.end());
                self.down(ExitCause::Panicked(panic))
            }
        }
    }

    /// Drops the worker, if there is one; what a panic of its drop said.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        let worker = self.worker.take();
        guarded(|| drop(worker))
    }

    /// Does what the guardian ordered since the last turn; a turn that comes of it, if the worker may not go on.
    fn obey(&mut self) -> Option<Turn> {
        let version = self.tether.version();
        if version != self.seen {
            self.seen = version;
            let orders = self.tether.orders();
            if orders.must_stop {
                drop(self.end());
                return Some(self.stopped());
            }
            self.is_down = orders.stands_down.is_some();
            self.is_held = orders.is_held;
            if orders.resets != self.resets || self.is_down {
                self.resets = orders.resets;
                // A reset is no fault of the worker's, whatever its drop says.
                drop(self.end());
            }
        }
        if self.is_down {
            Some(Turn::OutOfService)
        } else {
            self.is_held.then_some(Turn::Stepped(Step::Idle))
        }
    }

    /// It was told to stop, and has; the guardian need not wait for it.
    fn stopped(&self) -> Turn {
        let guardian = &self.spec.guardian;
        // What a guardian that panics thinks of it changes nothing.
        drop(guarded(|| {
            guardian.child_stopped(&self.spec.name, self.generation);
        }));
        Turn::Stepped(Step::Ended)
    }

    fn make(&mut self) -> Turn {
        self.generation = self.tether.next_generation();
        let generation = self.generation;
        match guarded(|| (self.spec.make)(generation)) {
            Ok(worker) => {
                self.gives_way = guarded(|| worker.gives_way()).unwrap_or(false);
                self.worker = Some(worker);
            }
            Err(panic) => return self.down(ExitCause::Panicked(panic)),
        }
        let guardian = &self.spec.guardian;
        match guarded(|| guardian.child_up(&self.spec.name, generation)) {
            Ok(()) => Turn::Stepped(Step::Again),
            Err(_) => Turn::Down,
        }
    }

    /// This life is over; the guardian says what comes.
    fn down(&mut self, cause: ExitCause) -> Turn {
        let is_done = cause == ExitCause::Finished;
        let guardian = &self.spec.guardian;
        let verdict = guarded(|| guardian.child_down(&self.spec.name, self.generation, cause));
        if let Ok(Verdict::RestartAfter(delay)) = verdict {
            return Turn::RestartAfter(delay);
        }
        let orders = self.tether.orders();
        if orders.must_stop {
            self.stopped()
        } else if orders.stands_down.is_some() && verdict.is_ok() {
            // With that order it may be brought back; without it nobody will.
            self.is_down = true;
            Turn::OutOfService
        } else if is_done {
            Turn::Stepped(Step::Ended)
        } else {
            Turn::Down
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
    catch_unwind(AssertUnwindSafe(work)).map_err(panic_text)
}
