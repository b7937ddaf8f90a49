//! Bugs that a test plants to prove that it would be found. Only with the feature `planted`, and then only when asked.
//!
//! Invariant: without the feature nothing here is more than a constant.

/// A bug that was real once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// None.
    Nothing,
    /// A scan that failed counts as complete (MB-47790).
    FailedScanIsComplete,
    /// What a read found on disk is put in memory, whatever was written and left memory meanwhile (rule R21).
    RestoreWithoutLook,
    /// A version whose value left memory is taken for one whose value is empty.
    StubIsWhole,
}

#[cfg(feature = "planted")]
mod switch {
    use std::cell::Cell;

    use super::Bug;

    thread_local! {
        // A simulated world is one thread, and the tests beside it are others.
        static PLANTED: Cell<Bug> = const { Cell::new(Bug::Nothing) };
    }

    /// Plants a bug on this thread, in place of the one before.
    pub fn plant(bug: Bug) {
        PLANTED.set(bug);
    }

    pub(crate) fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == bug
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
