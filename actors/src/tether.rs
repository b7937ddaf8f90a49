//! What a child and its guardian share: orders one way, signs of life the other. No message is needed for either.
//!
//! Invariant: everything here is level-triggered. Orders are state with a version, a wake-up only says "look"; the
//! pulse is a count that the child moves and the guardian watches: odd while the child is at work, even while it
//! waits. So a child that is idle owes no sign of life, and one that is stuck is known by a count that stays odd. One
//! that waits for another to let go of the store owes none either: the other does.
//! Shells (actors) and the workers of an executor use it in the same way.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use messages::{ChildName, Generation};
use storage::VbucketId;
use storage::waiting::WatchWaits;

use crate::executor::WakeWorker;

/// What the guardian wants of a child.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Rises whenever the child is to drop what it is and be made anew (a coupled sibling restarts, it stalled,
    /// or somebody asked for it).
    pub resets: u64,
    /// A reset child waits with its new life until this is lifted: those it builds on are not up yet.
    pub is_held: bool,
    /// Out of service, for this reason: no new life is made, requests are answered with an error.
    pub stands_down: Option<Arc<str>>,
    /// End in order, for good.
    pub must_stop: bool,
}

/// What a child and its guardian share.
pub struct Tether {
    child: ChildName,
    vbucket: Option<VbucketId>,
    generation: AtomicU64,
    pulse: AtomicU64,
    is_lost: AtomicBool,
    version: AtomicU64,
    orders: Mutex<Orders>,
    wake_child: Mutex<Option<WakeWorker>>,
    wake_guardian: Option<WakeWorker>,
}

impl Tether {
    /// A tether to this child.
    #[must_use]
    pub fn new(child: ChildName) -> Tether {
        Tether {
            child,
            vbucket: None,
            generation: AtomicU64::new(0),
            pulse: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
            version: AtomicU64::new(0),
            orders: Mutex::new(Orders::default()),
            wake_child: Mutex::new(None),
            wake_guardian: None,
        }
    }

    /// Its requests are about this vbucket.
    #[must_use]
    pub fn for_vbucket(self, vbucket: Option<VbucketId>) -> Tether {
        Tether { vbucket, ..self }
    }

    /// Calls `wake` when the child was lost.
    #[must_use]
    pub fn waking_guardian(self, wake: WakeWorker) -> Tether {
        Tether {
            wake_guardian: Some(wake),
            ..self
        }
    }

    /// Whose it is.
    #[must_use]
    pub fn child(&self) -> &ChildName {
        &self.child
    }

    /// The vbucket its requests are about.
    #[must_use]
    pub fn vbucket(&self) -> Option<VbucketId> {
        self.vbucket
    }

    // The child's side.

    /// How the child is woken to look at new orders; called once at once, for those given before.
    pub fn set_wake(&self, wake: WakeWorker) {
        self.wake_child.lock().replace(wake);
        // Orders given before this could wake nobody.
        if self.version() > 0 {
            self.wake();
        }
    }

    /// Numbers the next life.
    #[must_use]
    pub fn next_generation(&self) -> Generation {
        Generation(
            self.generation
                .fetch_add(1, Ordering::Relaxed)
                .wrapping_add(1),
        )
    }

    /// The newest life's number.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Relaxed))
    }

    /// Work begins: a message, a timer, a poll, a step. Only the child calls this.
    #[inline]
    pub fn enter(&self) {
        let pulse = self.pulse.load(Ordering::Relaxed);
        self.pulse
            .store(pulse.wrapping_add(1 + (pulse & 1)), Ordering::Release);
    }

    /// Work ends.
    #[inline]
    pub fn leave(&self) {
        let pulse = self.pulse.load(Ordering::Relaxed);
        self.pulse
            .store(pulse.wrapping_add(pulse & 1), Ordering::Release);
    }

    /// Changes with every order.
    #[inline]
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The orders in force.
    #[must_use]
    pub fn orders(&self) -> Orders {
        self.orders.lock().clone()
    }

    // The guardian's side.

    /// Changes the orders and wakes the child.
    pub fn give(&self, change: impl FnOnce(&mut Orders)) {
        change(&mut self.orders.lock());
        self.version.fetch_add(1, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        let wake = self.wake_child.lock().clone();
        if let Some(wake) = wake {
            wake.wake();
        }
    }

    /// The count the child moves: odd while it is at work.
    #[must_use]
    pub fn pulse(&self) -> u64 {
        self.pulse.load(Ordering::Acquire)
    }

    /// Whether the child went away without a word: its thread or its `System` ended under it.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }
}

impl WatchWaits for Tether {
    fn begins_to_wait(&self) {
        self.leave();
    }

    fn goes_on(&self) {
        self.enter();
    }
}

impl fmt::Debug for Tether {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tether")
            .field("child", &self.child)
            .field("generation", &self.generation())
            .field("orders", &self.orders)
            .finish_non_exhaustive()
    }
}

/// Tells the guardian when it is dropped before it was disarmed: what cannot be caught, such as a stopped arbiter,
/// drops the child, and this with it. Its drop does no more than set a flag and give a wake-up.
#[derive(Debug)]
pub struct DeathWatch {
    tether: Arc<Tether>,
    is_armed: bool,
}

impl DeathWatch {
    /// Watches the child of this tether.
    #[must_use]
    pub fn new(tether: Arc<Tether>) -> DeathWatch {
        DeathWatch {
            tether,
            is_armed: true,
        }
    }

    /// The child's end is known.
    pub fn disarm(&mut self) {
        self.is_armed = false;
    }

    /// The child lives again.
    pub fn arm(&mut self) {
        self.is_armed = true;
    }
}

impl Drop for DeathWatch {
    fn drop(&mut self) {
        if self.is_armed {
            self.tether.is_lost.store(true, Ordering::Release);
            if let Some(wake) = &self.tether.wake_guardian {
                wake.wake();
            }
        }
    }
}
