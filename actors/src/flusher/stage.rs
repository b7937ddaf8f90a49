//! Where a flusher is in its life.
//!
//! Life cycle: *initializing*, until it knows where each of its vbuckets stands in the store (rule R19); *running*;
//! asked to pause, *pausing* until nothing is under way, then *paused*, and running again when resumed; asked to
//! stop, *stopping*: it writes everything there is, and is *stopped*, for good, when that is done or its time is up.

/// The stage of a flusher's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Learns where its vbuckets stand; those it knows already are not kept waiting.
    Initializing,
    /// Takes what is dirty, and hands it to the writers.
    Running,
    /// Takes nothing more; waits for what is under way.
    Pausing,
    /// Nothing is under way.
    Paused,
    /// Writes all there is.
    Stopping,
    /// Does nothing any more.
    Stopped,
}

impl Stage {
    /// Every stage.
    pub const ALL: [Stage; 6] = [
        Stage::Initializing,
        Stage::Running,
        Stage::Pausing,
        Stage::Paused,
        Stage::Stopping,
        Stage::Stopped,
    ];

    /// Whether one may follow the other.
    #[must_use]
    pub const fn can_transition(self, to: Stage) -> bool {
        match self {
            Stage::Initializing => {
                matches!(to, Stage::Running | Stage::Pausing | Stage::Stopping)
            }
            Stage::Running => matches!(to, Stage::Pausing | Stage::Stopping),
            Stage::Pausing => matches!(to, Stage::Paused | Stage::Running | Stage::Stopping),
            Stage::Paused => matches!(to, Stage::Running | Stage::Stopping),
            Stage::Stopping => matches!(to, Stage::Stopped),
            Stage::Stopped => false,
        }
    }

    /// Whether batches are handed to the writers.
    #[must_use]
    pub const fn is_sending(self) -> bool {
        matches!(self, Stage::Initializing | Stage::Running | Stage::Stopping)
    }
}
