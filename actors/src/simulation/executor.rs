//! The executor of a simulation: every worker is a local task on the one thread, and rests a seeded virtual time
//! before each of its steps, so that flush, merge, scan and everything else interleave in every order.
//!
//! Invariant: a step is all that is done without interruption, as rule R23 asks of production too; the order of steps
//! follows from the seed. Panics are guarded as on threads. Virtual time has a grain of one millisecond; within one,
//! seeded yields change who comes first.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::ops::RangeInclusive;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, yield_now};
use tokio::time::{sleep, timeout};

use messages::ChildName;

use crate::executor::life::{Life, Turn};
use crate::executor::roll::{Place, Roll};
use crate::executor::{Executor, StartError, Step, StopWorkers, WakeWorker, WorkerSpec};
use crate::hooks::{Delivery, Hooks};
use crate::panics::planted;
use crate::simulation::random::SimulatedRandom;
use crate::simulation::trace::Trace;

/// How long workers rest before a step, in milliseconds of virtual time.
#[derive(Clone, Debug)]
pub struct Latencies {
    usual: RangeInclusive<u64>,
    by_class: BTreeMap<String, RangeInclusive<u64>>,
    yields_max: u64,
}

impl Latencies {
    /// Every worker rests so long.
    #[must_use]
    pub fn all(milliseconds: RangeInclusive<u64>) -> Latencies {
        Latencies {
            usual: milliseconds,
            by_class: BTreeMap::new(),
            yields_max: 2,
        }
    }

    /// Workers of this class rest so long: those whose name is the class, or the class, a dash and a number.
    #[must_use]
    pub fn of_class(mut self, class: &str, milliseconds: RangeInclusive<u64>) -> Latencies {
        self.by_class.insert(class.to_owned(), milliseconds);
        self
    }

    /// Before a step others may go first at most so often, within the same moment of virtual time.
    #[must_use]
    pub fn yields_max(mut self, times: u64) -> Latencies {
        self.yields_max = times;
        self
    }

    fn of(&self, name: &ChildName) -> RangeInclusive<u64> {
        let name = name.as_str();
        let class = match name.rsplit_once('-') {
            Some((class, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => class,
            Some(_) | None => name,
        };
        self.by_class.get(class).unwrap_or(&self.usual).clone()
    }
}

impl Default for Latencies {
    /// 0 to 5 milliseconds: a few steps of everybody fit into any timeout of the engine.
    fn default() -> Latencies {
        Latencies::all(0..=5)
    }
}

/// Runs workers as tasks of the current thread's local set (that of the actix system, in a world).
pub struct SimulatedExecutor {
    roll: Arc<Roll>,
    random: SimulatedRandom,
    latencies: Latencies,
    trace: Trace,
    hooks: Hooks,
    thread: ThreadId,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl SimulatedExecutor {
    /// An executor without workers, for the current thread. Each worker draws from a stream of `random` with its name.
    #[must_use]
    pub fn new(
        random: SimulatedRandom,
        latencies: Latencies,
        trace: Trace,
        hooks: Hooks,
    ) -> SimulatedExecutor {
        SimulatedExecutor {
            roll: Arc::default(),
            random,
            latencies,
            trace,
            hooks,
            thread: thread::current().id(),
            tasks: Mutex::default(),
        }
    }

    /// Ends every worker where it stands, between two steps, as a power cut would: no further step is done. Workers
    /// may be started again afterwards.
    pub fn kill_all(&self) {
        for task in self.tasks.lock().drain(..) {
            task.abort();
        }
    }

    fn check_place(&self) -> Result<(), String> {
        if thread::current().id() != self.thread {
            return Err("a simulation has one thread, and this is another".to_owned());
        }
        tokio::runtime::Handle::try_current()
            .map(|_| ())
            .map_err(|error| error.to_string())
    }
}

impl Executor for SimulatedExecutor {
    fn start(&self, spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        let name = spec.name.clone();
        self.check_place().map_err(|what| StartError {
            name: name.clone(),
            what,
        })?;
        let bell = Arc::new(Bell::default());
        let (stopped, ordered) = (Arc::clone(&bell), Arc::clone(&bell));
        let place = self.roll.enter(&name, move || stopped.stop())?;
        let rest = Rest {
            random: self.random.stream(name.as_str()),
            milliseconds: self.latencies.of(&name),
            yields_max: self.latencies.yields_max,
        };
        let task = Task {
            life: Life::new(spec, WakeWorker::new(move || ordered.wake())),
            bell: Arc::clone(&bell),
            rest,
            trace: self.trace.clone(),
            hooks: self.hooks.clone(),
            _place: place,
        };
        let handle = tokio::task::spawn_local(task.live());
        let mut tasks = self.tasks.lock();
        tasks.retain(|task| !task.is_finished());
        tasks.push(handle.abort_handle());
        let (thread, trace) = (self.thread, self.trace.clone());
        Ok(WakeWorker::new(move || {
            if thread::current().id() != thread {
                trace.violation(format!("{name} was woken by another thread"));
            }
            bell.wake();
        }))
    }
}

impl StopWorkers for SimulatedExecutor {
    fn stop(&self) {
        self.roll.stop();
    }

    fn running(&self) -> Vec<ChildName> {
        self.roll.names()
    }

    fn all_ended(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(Arc::clone(&self.roll).all_ended())
    }
}

impl fmt::Debug for SimulatedExecutor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimulatedExecutor")
            .field("running", &self.roll)
            .field("latencies", &self.latencies)
            .finish_non_exhaustive()
    }
}

struct Task {
    /// Before the place, which is given up last.
    life: Life,
    bell: Arc<Bell>,
    rest: Rest,
    trace: Trace,
    hooks: Hooks,
    _place: Place,
}

impl Task {
    async fn live(mut self) {
        loop {
            self.rest.take().await;
            if self.bell.is_stopping() {
                break;
            }
            let turn = self.turn().await;
            self.tell(turn);
            match turn {
                Turn::Stepped(Step::Again) => {}
                Turn::Stepped(Step::Idle) | Turn::OutOfService => self.bell.rung().await,
                Turn::Stepped(Step::IdleFor(time)) => self.bell.rung_within(time).await,
                Turn::RestartAfter(delay) => self.bell.stopped_within(delay).await,
                Turn::Stepped(Step::Ended) | Turn::Down => break,
            }
        }
        self.note("stopped", &[]);
    }

    async fn turn(&mut self) -> Turn {
        if !self.life.is_made() {
            return self.life.turn();
        }
        match self.hooks.step(self.life.name(), self.life.generation()) {
            Delivery::Handle => self.life.turn(),
            Delivery::After(time) => {
                self.life.begin_work();
                sleep(time).await;
                self.life.turn()
            }
            Delivery::Panic(text) => self.life.turn_after(|| planted(text)),
        }
    }

    fn tell(&self, turn: Turn) {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        match turn {
            Turn::Stepped(Step::Again) => self.note("step", &[]),
            Turn::Stepped(Step::Idle) => self.note("idle", &[]),
            Turn::Stepped(Step::IdleFor(time)) => self.note("idle for", &[micros(time)]),
            Turn::Stepped(Step::Ended) => self.note("ended", &[]),
            Turn::RestartAfter(delay) => self.note("panicked", &[micros(delay)]),
            Turn::Down => self.note("stays down", &[]),
            Turn::OutOfService => self.note("out of service", &[]),
        }
    }

    fn note(&self, what: &'static str, figures: &[u64]) {
        let mut all = vec![self.life.generation().0];
        all.extend_from_slice(figures);
        self.trace.event(what, self.life.name().as_str(), &all);
    }
}

/// The rest a worker takes before each step.
struct Rest {
    random: SimulatedRandom,
    milliseconds: RangeInclusive<u64>,
    yields_max: u64,
}

impl Rest {
    async fn take(&self) {
        let time = self.random.between(self.milliseconds.clone());
        let yields = self.random.between(0..=self.yields_max);
        if time > 0 {
            sleep(Duration::from_millis(time)).await;
        }
        for _ in 0..yields {
            yield_now().await;
        }
    }
}

/// What a worker's task waits on.
#[derive(Default)]
struct Bell {
    is_woken: AtomicBool,
    is_stopping: AtomicBool,
    changed: Notify,
}

impl Bell {
    fn wake(&self) {
        self.is_woken.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn stop(&self) {
        self.is_stopping.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Acquire)
    }

    async fn rung(&self) {
        while !self.is_stopping() && !self.is_woken.swap(false, Ordering::AcqRel) {
            self.changed.notified().await;
        }
    }

    async fn rung_within(&self, at_most: Duration) {
        // Whether it was woken or time was up is all the same to the worker: it looks.
        drop(timeout(at_most, self.rung()).await);
    }

    async fn stopped_within(&self, at_most: Duration) {
        let stopped = async {
            while !self.is_stopping() {
                self.changed.notified().await;
            }
        };
        drop(timeout(at_most, stopped).await);
    }
}

#[cfg(test)]
mod tests;
