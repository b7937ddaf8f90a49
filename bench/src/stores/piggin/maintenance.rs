//! The threads that do our store's background work, and a gate that holds them.
//!
//! Invariant: while they are held, nothing of the store runs in the background. Steps that have begun are waited for; no
//! step waits for the job of another thread.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use storage::log_store::LogStore;
use storage::{Job, Outcome};

/// The only log shard of the bench's stores.
const SHARD: u16 = 0;
/// As many as RocksDB is given here: one may seal while the other merges.
const THREADS: usize = 2;
/// How long a thread sleeps when there is nothing to do.
const REST: Duration = Duration::from_millis(1);

pub(super) struct Maintenance {
    gate: Arc<Gate>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Maintenance {
    pub(super) fn start(store: &LogStore) -> Maintenance {
        let gate = Arc::new(Gate::default());
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..THREADS).map(|_| {
            let (store, passed, stopped) = (store.clone(), Arc::clone(&gate), Arc::clone(&stop));
            std::thread::spawn(move || work(&store, &passed, &stopped))
        });
        let threads = threads.collect();
        Maintenance {
            gate,
            stop,
            threads,
        }
    }

    /// Returns when nothing is at work any more.
    pub(super) fn hold(&self) {
        let mut state = self.gate.state.lock().unwrap();
        state.is_held = true;
        let changed = &self.gate.changed;
        drop(
            changed
                .wait_while(state, |state| state.at_work > 0)
                .unwrap(),
        );
    }

    pub(super) fn release(&self) {
        self.gate.state.lock().unwrap().is_held = false;
        self.gate.changed.notify_all();
    }

    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.release();
        for thread in self.threads {
            thread.thread().unpark();
            thread.join().unwrap();
        }
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
    at_work: usize,
}

impl Gate {
    /// Does a step, when nobody holds the gate.
    fn pass<T>(&self, step: impl FnOnce() -> T) -> T {
        let state = self.state.lock().unwrap();
        let mut state = self
            .changed
            .wait_while(state, |state| state.is_held)
            .unwrap();
        state.at_work += 1;
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
            state.at_work -= 1;
        }
        self.0.changed.notify_all();
    }
}
