//! Who decides what becomes of a child that ended: the supervisor, as every child sees it.
//!
//! Invariant: a verdict is a pure decision under a short lock, so that it may be asked for on any thread; a child
//! never waits for an actor to learn it.

use std::fmt::Debug;
use std::time::Duration;

use messages::{ChildName, Generation};

/// Why a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// It panicked with this text.
    Panicked(String),
    /// It gave no sign of life for so long.
    Stalled(Duration),
    /// Its core said it cannot go on.
    GaveUp(String),
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A new core is made after this time.
    RestartAfter(Duration),
    /// It stays down; requests are answered with an error.
    StayDown,
}

/// The supervisor, as a child sees it.
pub trait Guardian: Debug + Send + Sync + 'static {
    /// A child ended; what becomes of it. Reports the failure, moves the intensity figure, and marks the siblings
    /// that must restart with it.
    fn child_down(&self, child: &ChildName, generation: Generation, cause: ExitCause) -> Verdict;
    /// A new core of the child is at work.
    fn child_up(&self, child: &ChildName, generation: Generation);
}
