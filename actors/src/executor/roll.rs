//! Who is running: every executor's list of its workers, to stop them and to know when they ended.
//!
//! Invariant: a worker is on the roll from before its start until after it was dropped, however it ended; once the
//! roll is closed nobody enters.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::sync::Notify;

use messages::ChildName;

use crate::executor::StartError;

#[derive(Default)]
pub(crate) struct Roll {
    workers: Mutex<Workers>,
    one_left: Condvar,
    all_left: Notify,
}

#[derive(Default)]
struct Workers {
    is_closed: bool,
    entered: u64,
    running: BTreeMap<u64, Running>,
}

struct Running {
    name: ChildName,
    stop: Box<dyn Fn() + Send + Sync>,
}

/// A worker's place on the roll, given up when dropped.
pub(crate) struct Place {
    roll: Arc<Roll>,
    number: u64,
}

impl Roll {
    /// Enters a worker that `stop` tells to end, from any thread and without waiting.
    pub(crate) fn enter(
        self: &Arc<Self>,
        name: &ChildName,
        stop: impl Fn() + Send + Sync + 'static,
    ) -> Result<Place, StartError> {
        let mut workers = self.workers.lock();
        if workers.is_closed {
            return Err(StartError {
                name: name.clone(),
                what: "the executor was stopped".to_owned(),
            });
        }
        workers.entered = workers.entered.saturating_add(1);
        let number = workers.entered;
        let running = Running {
            name: name.clone(),
            stop: Box::new(stop),
        };
        workers.running.insert(number, running);
        Ok(Place {
            roll: Arc::clone(self),
            number,
        })
    }

    /// Closes the roll and tells everybody on it to end.
    pub(crate) fn stop(&self) {
        let mut workers = self.workers.lock();
        workers.is_closed = true;
        for running in workers.running.values() {
            (running.stop)();
        }
    }

    pub(crate) fn names(&self) -> Vec<ChildName> {
        let workers = self.workers.lock();
        let running = workers.running.values();
        running.map(|running| running.name.clone()).collect()
    }

    fn is_empty(&self) -> bool {
        self.workers.lock().running.is_empty()
    }

    /// Blocks until nobody is running, at most so long.
    pub(crate) fn wait_for(&self, at_most: Duration) {
        let mut workers = self.workers.lock();
        let is_anybody_left = |workers: &mut Workers| !workers.running.is_empty();
        // The caller looks at who is left, which says more than whether time was up.
        let _: parking_lot::WaitTimeoutResult =
            self.one_left
                .wait_while_for(&mut workers, is_anybody_left, at_most);
    }

    /// Comes to an end once nobody is running.
    pub(crate) async fn all_ended(self: Arc<Self>) {
        loop {
            let left = self.all_left.notified();
            let mut left = std::pin::pin!(left);
            // Before looking, so that the last one cannot leave in between unheard.
            left.as_mut().enable();
            if self.is_empty() {
                return;
            }
            left.await;
        }
    }
}

impl fmt::Debug for Roll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Roll").field(&self.names()).finish()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut workers = self.roll.workers.lock();
        let left = workers.running.remove(&self.number);
        let is_last = workers.running.is_empty();
        drop(workers);
        drop(left);
        self.roll.one_left.notify_all();
        if is_last {
            self.roll.all_left.notify_waiters();
        }
    }
}
