//! Where a thread must not wait: a simulation runs everything on one thread, so whoever waits there for another waits
//! for ever.
//!
//! Invariant: whatever in this engine would block a thread on another (not on the disk) asks [`check`] first. In
//! production the answer is always yes and costs one look at a thread-local.

use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static FORBIDDEN: Cell<u32> = const { Cell::new(0) };
}

/// Waiting was refused: the thread runs a simulation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} would block the only thread of a simulation; use the asynchronous call")]
pub struct BlockingRefused {
    /// What would have waited.
    pub what: &'static str,
}

/// Whether this thread may wait for another. `what` names the call that would.
pub fn check(what: &'static str) -> Result<(), BlockingRefused> {
    if FORBIDDEN.get() == 0 {
        Ok(())
    } else {
        Err(BlockingRefused { what })
    }
}

/// While it lives, nothing on this thread may wait for another thread.
#[must_use = "waiting is forbidden only while this lives"]
#[derive(Debug)]
pub struct Forbid(PhantomData<*const ()>);

impl Forbid {
    /// Forbids waiting on this thread.
    #[expect(
        clippy::new_without_default,
        reason = "it does something to the thread"
    )]
    pub fn new() -> Forbid {
        FORBIDDEN.set(FORBIDDEN.get().saturating_add(1));
        Forbid(PhantomData)
    }
}

impl Drop for Forbid {
    fn drop(&mut self) {
        FORBIDDEN.set(FORBIDDEN.get().saturating_sub(1));
    }
}
