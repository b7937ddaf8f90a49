//! Holds: places where a compaction stands still until a test lets it go on.
//!
//! Invariant: whoever is held does nothing and owes no sign of life; a hold that was released or dropped holds nobody any
//! more, and whoever stood there is woken.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use actors::executor::WakeWorker;
use actors::hooks::HoldPoint;

/// All holds of a harness.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holds(Arc<Mutex<Vec<Arc<Held>>>>);

struct Held {
    place: HoldPoint,
    /// So many steps there are let pass before one is held.
    passes: Mutex<usize>,
    /// Who stands there.
    waker: Mutex<Option<WakeWorker>>,
    reached: Notify,
}

/// A place where compactions stand still for as long as this lives.
pub struct Hold {
    held: Arc<Held>,
    holds: Holds,
}

impl Holds {
    pub(crate) fn add(&self, place: HoldPoint, passes: usize) -> Hold {
        let held = Arc::new(Held {
            place,
            passes: Mutex::new(passes),
            waker: Mutex::default(),
            reached: Notify::new(),
        });
        self.0.lock().push(Arc::clone(&held));
        Hold {
            held,
            holds: self.clone(),
        }
    }

    /// Whether somebody who came to that place is held, and whether he was not before.
    pub(crate) fn reached(&self, place: HoldPoint, wake: &dyn Fn() -> WakeWorker) -> (bool, bool) {
        let holds = self.0.lock();
        let Some(held) = holds.iter().find(|held| held.place == place) else {
            return (false, false);
        };
        let mut passes = held.passes.lock();
        if let Some(fewer) = passes.checked_sub(1) {
            *passes = fewer;
            return (false, false);
        }
        let was_there = held.waker.lock().replace(wake()).is_some();
        held.reached.notify_waiters();
        (true, !was_there)
    }
}

impl Hold {
    /// Whether a compaction stands there.
    #[must_use]
    pub fn is_reached(&self) -> bool {
        self.held.waker.lock().is_some()
    }

    /// Waits until a compaction stands there. Put a timeout around it, or let the world's limit strike.
    pub async fn reached(&self) {
        loop {
            let reached = self.held.reached.notified();
            let mut reached = std::pin::pin!(reached);
            // Before looking, so that it cannot come in between unheard.
            reached.as_mut().enable();
            if self.is_reached() {
                return;
            }
            reached.await;
        }
    }

    /// Lets whoever stands there go on, and holds nobody any more.
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let is_other = |held: &Arc<Held>| !Arc::ptr_eq(held, &self.held);
        self.holds.0.lock().retain(is_other);
        let waker = self.held.waker.lock().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Held")
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hold")
            .field("place", &self.held.place)
            .field("is_reached", &self.is_reached())
            .finish_non_exhaustive()
    }
}
