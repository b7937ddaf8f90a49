//! The compactor as an actor: each message is a call of [`Compactor`].
//!
//! Invariant: the actor knows nothing of its own, so that a panic of it costs nobody more than the answer: whoever waits
//! is told by the shell, and the compactions go on.

use super::desk::Compactor;
use crate::shell::{Core, FaultCause, On, Reply, ShellContext, ShellFault};
use messages::compactor::{
    CancelCompaction, Compact, CompactError, CompactionStatus, CompactionStatuses,
    SetCompactionLimit,
};
use storage::Compacted;

/// One life of the compactor's actor, as its shell sees it.
#[derive(Debug)]
pub struct CompactorCore {
    compactor: Compactor,
}

impl CompactorCore {
    /// A new life.
    #[must_use]
    pub fn new(compactor: Compactor) -> CompactorCore {
        CompactorCore { compactor }
    }
}

impl Core for CompactorCore {}

impl On<Compact> for CompactorCore {
    fn on(
        &mut self,
        request: Compact,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Compacted, CompactError>> {
        let compacted = self.compactor.compact(request);
        Reply::later(async move { compacted.await.unwrap_or(Err(CompactError::Closed)) })
    }
}

impl On<CompactionStatuses> for CompactorCore {
    fn on(
        &mut self,
        _: CompactionStatuses,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<Vec<CompactionStatus>, CompactError>> {
        Reply::Now(Ok(self.compactor.statuses()))
    }
}

impl On<SetCompactionLimit> for CompactorCore {
    fn on(
        &mut self,
        wanted: SetCompactionLimit,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<usize, CompactError>> {
        Reply::Now(Ok(self.compactor.set_limit(wanted.running_max)))
    }
}

impl On<CancelCompaction> for CompactorCore {
    fn on(
        &mut self,
        order: CancelCompaction,
        _: &mut ShellContext<'_, Self>,
    ) -> Reply<Self, Result<usize, CompactError>> {
        Reply::Now(Ok(self.compactor.cancel(order.vbucket)))
    }
}

impl From<ShellFault> for CompactError {
    fn from(fault: ShellFault) -> CompactError {
        let child = fault.child;
        match fault.cause {
            FaultCause::Crashed(_) | FaultCause::Reset => CompactError::Crashed { child },
            FaultCause::OutOfService(cause) => CompactError::Down {
                child,
                cause: cause.into(),
            },
            FaultCause::Stopped => CompactError::Closed,
        }
    }
}
