//! Who decides what becomes of a child that ended: the supervisor, as every child sees it.
//!
//! Invariant: a verdict is a pure decision under a short lock, so that it may be asked for on any thread; a child
//! never waits for an actor to learn it. What the guardian wants of a child stands in their [`Tether`].

use std::fmt::{self, Debug};
use std::sync::Arc;
use std::time::Duration;

use messages::{ChildName, Generation};

use crate::tether::Tether;

/// Where a child was when it panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// In the handling of a message of this type, or in the future that was to answer it.
    Message(&'static str),
    /// In a timer.
    Timer,
    /// In a future it had spawned.
    Future,
    /// In its factory, or in its first steps.
    Factory,
    /// While it was winding down.
    Stop,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Message(name) => write!(f, "in a {name}"),
            Entry::Timer => f.write_str("in a timer"),
            Entry::Future => f.write_str("in a future"),
            Entry::Factory => f.write_str("in the factory"),
            Entry::Stop => f.write_str("while stopping"),
        }
    }
}

/// Why a child ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitCause {
    /// It panicked with this text (a worker, in a step).
    Panicked(String),
    /// It panicked at a known place (an actor).
    PanickedIn {
        /// Where.
        entry: Entry,
        /// How often messages of this type made it panic, without one of them served in between. Zero for other
        /// places.
        in_a_row: u32,
        /// What the panic said.
        text: String,
    },
    /// It gave no sign of life for so long.
    Stalled(Duration),
    /// Its core said it cannot go on.
    GaveUp(String),
    /// Its work is done. No failure.
    Finished,
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
    /// that must restart with it. Work that is done ([`ExitCause::Finished`]) is no failure, and as a rule stays done.
    fn child_down(&self, child: &ChildName, generation: Generation, cause: ExitCause) -> Verdict;
    /// A new core of the child is at work.
    fn child_up(&self, child: &ChildName, generation: Generation);
    /// The child ended because it was told to.
    fn child_stopped(&self, _child: &ChildName, _generation: Generation) {}
    /// What guardian and child share; a child takes it once, before its first life. A guardian that never gives
    /// orders need not keep it.
    fn tether(&self, child: &ChildName) -> Arc<Tether> {
        Arc::new(Tether::new(child.clone()))
    }
}
