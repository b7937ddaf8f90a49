//! The locks and atomics of what threads share by design: a vbucket's core, which every caller of the direct door works on.
//!
//! Invariant: whatever of the core is shared lies on these, or is never held across one of these. With the feature
//! `shuttle` they belong to a scheduler that tries one order of threads after another (rule R23); without it they are
//! the plain ones, and cost nothing more.

#[cfg(not(feature = "shuttle"))]
pub(crate) use parking_lot::{Mutex, MutexGuard, RwLock};
#[cfg(feature = "shuttle")]
pub(crate) use shuttle_parking_lot::{Mutex, MutexGuard, RwLock};

/// Atomics, with their orderings.
pub(crate) mod atomic {
    #[cfg(feature = "shuttle")]
    pub(crate) use shuttle::sync::atomic::{
        AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering,
    };
    #[cfg(not(feature = "shuttle"))]
    pub(crate) use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
}

/// Another thread may come between here: said in front of a step of something shared that has locks of its own.
#[inline]
pub(crate) fn another_may_come_between() {
    #[cfg(feature = "shuttle")]
    shuttle::thread::yield_now();
}
