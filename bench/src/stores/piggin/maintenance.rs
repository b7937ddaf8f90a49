//! The thread that does our store's background work, and a gate that holds it.
//!
//! Invariant: while it is held, nothing of the store runs in the background. A step that has begun is waited for.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use storage::log_store::LogStore;
use storage::{Job, Outcome};

/// The only log shard of the bench's stores.
const SHARD: u16 = 0;
/// How long the thread sleeps when there is nothing to do.
const REST: Duration = Duration::from_millis(1);

pub(super) struct Maintenance {
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Maintenance {
    pub(super) fn start(store: LogStore) -> Maintenance {
        let gate = Arc::new(Gate::default());
        let stop = Arc::new(AtomicBool::new(false));
        let (passed, stopped) = (Arc::clone(&gate), Arc::clone(&stop));
        let thread = std::thread::spawn(move || work(&store, &passed, &stopped));
        Maintenance { gate, stop, thread }
    }

    /// Returns when nothing is at work any more.
    pub(super) fn hold(&self) {
        let mut state = self.gate.state.lock().unwrap();
        state.is_held = true;
        let changed = &self.gate.changed;
        drop(changed.wait_while(state, |state| state.is_at_work).unwrap());
    }

    pub(super) fn release(&self) {
        self.gate.state.lock().unwrap().is_held = false;
        self.gate.changed.notify_all();
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.release();
        self.thread.thread().unpark();
        self.thread.join().unwrap();
    }
}

/// Ends between two jobs, never within one.
fn work(store: &LogStore, gate: &Gate, stop: &AtomicBool) {
    let mut job = None;
    while job.is_some() || !stop.load(Ordering::Relaxed) {
        let is_at_rest = gate.pass(|| {
            job = job.take().or_else(|| store.maintenance_job(SHARD));
            let Some(at_work) = &mut job else {
                return true;
            };
            match at_work.step() {
                Outcome::Yielded => false,
                Outcome::Complete(()) => {
                    job = None;
                    false
                }
                Outcome::Aborted(_) => {
                    job = None;
                    true
                }
                Outcome::Failed(error) => panic!("background work: {error}"),
            }
        });
        if is_at_rest {
            std::thread::park_timeout(REST);
        }
    }
}

#[derive(Default)]
struct Gate {
    state: Mutex<GateState>,
    changed: Condvar,
}

#[derive(Default)]
struct GateState {
    is_held: bool,
    is_at_work: bool,
}

impl Gate {
    /// Does a step, when nobody holds the gate.
    fn pass<T>(&self, step: impl FnOnce() -> T) -> T {
        let state = self.state.lock().unwrap();
        let mut state = self
            .changed
            .wait_while(state, |state| state.is_held)
            .unwrap();
        state.is_at_work = true;
        drop(state);
        let _passing = Passing(self);
        step()
    }
}

/// Also where a step panics, so that nobody waits for it.
struct Passing<'a>(&'a Gate);

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        if let Ok(mut state) = self.0.state.lock() {
            state.is_at_work = false;
        }
        self.0.changed.notify_all();
    }
}
