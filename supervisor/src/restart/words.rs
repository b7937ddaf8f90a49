//! The words of decisions: how a child stands, what happened, what is to be done.
//!
//! Invariant: data only.

use actors::environment::FailureReport;
use actors::guardian::{ExitCause, Verdict};
use messages::{ChildName, FailureCause, Generation};
use storage::VbucketId;

/// How a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChildState {
    /// In the tree, but nobody started it yet.
    NotStarted,
    /// Its first core is being made.
    Starting,
    /// It serves.
    Up,
    /// It failed and waits for its next life.
    BackingOff,
    /// It restarts with a sibling, and waits until those it builds on are up.
    Held,
    /// It restarts with a sibling.
    Restarting,
    /// It gives no sign of life; it is made anew once it does.
    Stalled,
    /// It failed too often, or with somebody who did.
    OutOfService,
    /// Its thread or `System` ended under it.
    Lost,
    /// Its work is done.
    Finished,
    /// It was told to stop.
    Stopping,
    /// It has stopped.
    Stopped,
}

impl ChildState {
    /// Whether it takes part in restarts.
    pub(super) fn is_live(self) -> bool {
        match self {
            ChildState::Starting
            | ChildState::Up
            | ChildState::BackingOff
            | ChildState::Held
            | ChildState::Restarting
            | ChildState::Stalled => true,
            ChildState::NotStarted
            | ChildState::OutOfService
            | ChildState::Lost
            | ChildState::Finished
            | ChildState::Stopping
            | ChildState::Stopped => false,
        }
    }

    /// Whether those that build on it must wait.
    pub(super) fn is_awaited(self) -> bool {
        self.is_live() && self != ChildState::Up
    }

    /// Whether nothing of it is left to stop.
    #[must_use]
    pub fn has_ended(self) -> bool {
        matches!(self, ChildState::Stopped | ChildState::Lost)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Somebody starts the child.
    Started,
    /// A life of the child ended; asks for a verdict.
    Down(Generation, ExitCause),
    /// A new core is at work.
    Up(Generation),
    /// It was told to stop, and has.
    Stopped,
    /// Its thread or `System` ended under it.
    Lost,
    /// Somebody wants it restarted.
    RestartAsked,
    /// It shall stop.
    StopAsked,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// This child drops what it is, and makes its next core once it is released.
    Hold(ChildName),
    /// The same for the child whose end was told: it has dropped what it was.
    HoldSelf(ChildName),
    /// It is made anew, without waiting for anybody.
    Reset(ChildName),
    /// It need not wait any more.
    Release(ChildName),
    /// It goes out of service.
    StandDown(ChildName, String),
    /// It need not stand down any more.
    BringBack(ChildName),
    /// It ends in order.
    Stop(ChildName),
    /// A failure to tell.
    Report(FailureReport),
    /// The embedder must know.
    OutOfService(OutOfService),
}

/// What went out of service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutOfService {
    /// The group or child that had too much.
    pub scope: ChildName,
    /// Whether that is the whole tree.
    pub is_whole_tree: bool,
    /// The children that stood down.
    pub children: Vec<ChildName>,
    /// The vbuckets of those children.
    pub vbuckets: Vec<VbucketId>,
    /// Why.
    pub why: String,
}

/// How a child stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildStatus {
    /// Which.
    pub name: ChildName,
    /// How it stands.
    pub state: ChildState,
    /// Its newest life.
    pub generation: Generation,
    /// Lives that were ended for a new one, whoever's fault it was.
    pub restarts: u64,
    /// Why it failed last.
    pub last_failure: Option<FailureCause>,
}

/// A decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// For [`Event::Down`]: what the child does now.
    pub verdict: Option<Verdict>,
    /// What else is to be done, in this order.
    pub effects: Vec<Effect>,
}
