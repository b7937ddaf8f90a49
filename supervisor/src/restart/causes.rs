//! What a child's end means as a failure.
//!
//! Invariant: every end is a failure of one kind, but for work that is done.

use actors::guardian::ExitCause;
use messages::{FailureCause, FailureKind};

use crate::tree::Child;

/// The failure to tell of it.
pub(super) fn failure_of(exit: ExitCause) -> Option<(FailureKind, FailureCause)> {
    let panicked = |text| Some((FailureKind::ChildPanicked, FailureCause::Panic(text)));
    match exit {
        ExitCause::Panicked(text) => panicked(text),
        ExitCause::PanickedIn { entry, text, .. } => panicked(format!("{entry}: {text}")),
        ExitCause::GaveUp(why) => Some((FailureKind::ChildPanicked, FailureCause::GaveUp(why))),
        ExitCause::Stalled(time) => {
            let for_ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            Some((FailureKind::ChildStalled, FailureCause::Stalled { for_ms }))
        }
        ExitCause::Finished => None,
    }
}

/// Whether one kind of message made the child panic too often in a row.
pub(super) fn poison_of(exit: &ExitCause, child: &Child) -> Option<FailureCause> {
    match exit {
        ExitCause::PanickedIn {
            entry,
            in_a_row,
            text,
        } if *in_a_row >= child.panics_in_a_row_max => Some(FailureCause::PoisonedRequest {
            request: entry.to_string(),
            times: *in_a_row,
            last: text.clone(),
        }),
        ExitCause::PanickedIn { .. }
        | ExitCause::Panicked(_)
        | ExitCause::Stalled(_)
        | ExitCause::GaveUp(_)
        | ExitCause::Finished => None,
    }
}
