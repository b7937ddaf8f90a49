//! Bugs that a test plants to prove that it would be found. Only with the feature `planted`, and then only when asked.
//!
//! Invariant: without the feature nothing here is more than a constant.

/// A bug that was real once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Bug {
    /// None.
    Nothing = 0,
    /// A scan that failed counts as complete (MB-47790).
    FailedScanIsComplete = 1,
}

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicU8, Ordering};

    use super::Bug;

    static PLANTED: AtomicU8 = AtomicU8::new(0);

    /// Plants a bug in this process, in place of the one before.
    pub fn plant(bug: Bug) {
        PLANTED.store(bug as u8, Ordering::SeqCst);
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.load(Ordering::SeqCst) == bug as u8
    }
}

#[cfg(feature = "planted")]
pub(crate) use switch::is_planted;
#[cfg(feature = "planted")]
pub use switch::plant;

#[cfg(not(feature = "planted"))]
pub(crate) const fn is_planted(_: Bug) -> bool {
    false
}
