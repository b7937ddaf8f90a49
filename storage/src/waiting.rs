//! Waiting for another thread that has the store, told to whoever runs the thread that waits.
//!
//! Invariant: a thread is told as waiting exactly while another one must act first. So when a sync hangs, the one thread
//! that is in it is known from those that wait behind it. Costs nothing where nobody waits.

use std::cell::RefCell;
use std::fmt::Debug;
use std::sync::Arc;

/// Learns when a thread waits for another; called on that thread.
pub trait WatchWaits: Debug + Send + Sync {
    /// It waits: whatever keeps it is not its own doing.
    fn begins_to_wait(&self);
    /// It goes on.
    fn goes_on(&self);
}

thread_local! {
    static WATCHER: RefCell<Option<Arc<dyn WatchWaits>>> = const { RefCell::new(None) };
}

/// Does `work`, and tells `watcher` of each wait in it for another thread.
pub fn watched<R>(watcher: &Arc<dyn WatchWaits>, work: impl FnOnce() -> R) -> R {
    let _before = Before(WATCHER.replace(Some(Arc::clone(watcher))));
    work()
}

/// Puts back who watched before, also when the work panics.
struct Before(Option<Arc<dyn WatchWaits>>);

impl Drop for Before {
    fn drop(&mut self) {
        WATCHER.set(self.0.take());
    }
}

/// Waits, in `wait`, for another thread.
pub(crate) fn wait<R>(wait: impl FnOnce() -> R) -> R {
    let watcher = WATCHER.with_borrow(Clone::clone);
    if let Some(watcher) = &watcher {
        watcher.begins_to_wait();
    }
    let waited = wait();
    if let Some(watcher) = &watcher {
        watcher.goes_on();
    }
    waited
}
