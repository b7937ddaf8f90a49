//! The executor of production: every worker is an OS thread of its own, named like the worker.
//!
//! Invariant: a thread that idles sleeps until it is woken, its time is up or it is stopped, and polls nothing; a wake
//! given before that is kept. A panic ends neither thread nor executor: the guardian is asked, and a new worker is made
//! on the same thread. Dropping the executor stops all and waits for nobody.

mod priority;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use messages::ChildName;

use crate::executor::life::{Life, Turn};
use crate::executor::roll::{Place, Roll};
use crate::executor::{
    Executor, StartError, Step, StopReport, StopWorkers, WakeWorker, WorkerSpec, blocking,
};
use crate::hooks::{Delivery, Hooks};
use crate::panics::planted;

/// Runs each worker on a thread.
#[derive(Debug, Default)]
pub struct ThreadExecutor {
    roll: Arc<Roll>,
    hooks: Hooks,
}

impl ThreadExecutor {
    /// An executor without workers.
    #[must_use]
    pub fn new() -> ThreadExecutor {
        ThreadExecutor::default()
    }

    /// The same, with a test harness that is asked before each step.
    #[must_use]
    pub fn hooks(mut self, hooks: &Hooks) -> ThreadExecutor {
        self.hooks = hooks.clone();
        self
    }

    /// Stops all workers and waits for them, at most so long. A worker has ended when it was dropped, so that whatever
    /// it held is free. On a thread that must not wait (see [`blocking`]) it only stops them.
    pub fn stop_within(&self, at_most: Duration) -> StopReport {
        self.roll.stop();
        if blocking::check("stopping the workers").is_ok() {
            self.roll.wait_for(at_most);
        }
        StopReport {
            still_running: self.roll.names(),
        }
    }
}

impl Executor for ThreadExecutor {
    fn start(&self, spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        let name = spec.name.clone();
        let refused = |what: String| StartError {
            name: name.clone(),
            what,
        };
        blocking::check("a worker's own thread").map_err(|error| refused(error.to_string()))?;
        let bell = Arc::new(Bell::default());
        let stopped = Arc::clone(&bell);
        let place = self.roll.enter(&name, move || stopped.stop())?;
        let ordered = Arc::clone(&bell);
        let life = Life::new(spec, WakeWorker::new(move || ordered.wake()));
        let rung = Arc::clone(&bell);
        let hooks = self.hooks.clone();
        thread::Builder::new()
            .name(name.as_str().replace('\0', "?"))
            .spawn(move || live(life, &rung, &hooks, place))
            .map_err(|error| refused(error.to_string()))?;
        Ok(WakeWorker::new(move || bell.wake()))
    }
}

impl StopWorkers for ThreadExecutor {
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

impl Drop for ThreadExecutor {
    fn drop(&mut self) {
        self.roll.stop();
    }
}

/// The body of a worker's thread. The place is given up last, after the worker was dropped.
fn live(mut life: Life, bell: &Bell, hooks: &Hooks, place: Place) {
    let mut gives_way = false;
    while !bell.is_stopping() {
        let turn = turn(&mut life, bell, hooks);
        if !gives_way && life.gives_way() {
            gives_way = true;
            if let Err(error) = priority::give_way() {
                tracing::warn!(worker = %life.name(), %error, "its thread does not give way to others");
            }
        }
        match turn {
            Turn::Stepped(Step::Again) => {}
            Turn::Stepped(Step::Idle) | Turn::OutOfService => bell.wait(),
            Turn::Stepped(Step::IdleFor(time)) => bell.wait_for(time),
            Turn::RestartAfter(delay) => bell.wait_for_stop(delay),
            Turn::Stepped(Step::Ended) | Turn::Down => break,
        }
    }
    tracing::debug!(worker = %life.name(), generation = life.generation().0, "worker ended");
    drop(life);
    drop(place);
}

/// The next turn, with what a harness wants of it.
fn turn(life: &mut Life, bell: &Bell, hooks: &Hooks) -> Turn {
    if !life.is_made() {
        return life.turn();
    }
    match hooks.step(life.name(), life.generation()) {
        Delivery::Handle => life.turn(),
        Delivery::After(time) => {
            life.begin_work();
            bell.wait_for_stop(time);
            life.turn()
        }
        Delivery::Panic(text) => life.turn_after(|| planted(text)),
    }
}

/// What a worker's thread sleeps on.
#[derive(Debug, Default)]
struct Bell {
    signals: Mutex<Signals>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct Signals {
    is_woken: bool,
    is_stopping: bool,
}

impl Bell {
    fn wake(&self) {
        self.signals.lock().is_woken = true;
        self.rung.notify_one();
    }

    fn stop(&self) {
        self.signals.lock().is_stopping = true;
        self.rung.notify_one();
    }

    fn is_stopping(&self) -> bool {
        self.signals.lock().is_stopping
    }

    /// Sleeps until it is woken or stopped, and takes the wake.
    fn wait(&self) {
        let mut signals = self.signals.lock();
        let is_quiet = |signals: &mut Signals| !signals.is_woken && !signals.is_stopping;
        self.rung.wait_while(&mut signals, is_quiet);
        signals.is_woken = false;
    }

    /// As [`Bell::wait`], at most so long.
    fn wait_for(&self, at_most: Duration) {
        let mut signals = self.signals.lock();
        let is_quiet = |signals: &mut Signals| !signals.is_woken && !signals.is_stopping;
        let _: parking_lot::WaitTimeoutResult =
            self.rung.wait_while_for(&mut signals, is_quiet, at_most);
        signals.is_woken = false;
    }

    /// Sleeps so long or until it is stopped. A wake meanwhile is kept.
    fn wait_for_stop(&self, at_most: Duration) {
        let mut signals = self.signals.lock();
        let goes_on = |signals: &mut Signals| !signals.is_stopping;
        let _: parking_lot::WaitTimeoutResult =
            self.rung.wait_while_for(&mut signals, goes_on, at_most);
    }
}

#[cfg(test)]
mod tests;
