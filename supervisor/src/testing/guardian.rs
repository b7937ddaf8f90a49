//! A guardian for workers that are tested without a supervisor.
//!
//! Invariant: it never gives up, so a test of a worker says how often it fell.

use std::time::Duration;

use actors::guardian::{ExitCause, Guardian, Verdict};
use messages::{ChildName, Generation};

/// Restarts whoever fell, after a delay that is always the same. Work that is done stays done.
#[derive(Clone, Copy, Debug)]
pub struct AlwaysRestart {
    /// How long.
    pub after: Duration,
}

impl Guardian for AlwaysRestart {
    fn child_down(&self, _: &ChildName, _: Generation, cause: ExitCause) -> Verdict {
        if cause == ExitCause::Finished {
            return Verdict::StayDown;
        }
        Verdict::RestartAfter(self.after)
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}
}
