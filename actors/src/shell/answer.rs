//! What a caller is told when the core could not answer.
//!
//! Invariant: no fault passes for an answer. A result type that cannot carry a fault yields none, and the caller's
//! `send` ends with its mailbox error instead.

use messages::status::{DownCause, OperationError};
use messages::{ChildName, Generation};
use storage::VbucketId;

/// Why the core gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{child}: {cause}")]
pub struct ShellFault {
    /// Which child.
    pub child: ChildName,
    /// Which life of it.
    pub generation: Generation,
    /// The vbucket its requests are about.
    pub vbucket: Option<VbucketId>,
    /// Why.
    pub cause: FaultCause,
}

/// Why a core gave no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultCause {
    /// It panicked while the request was under way, here or elsewhere.
    #[error("crashed while the request was under way: {0}")]
    Crashed(String),
    /// It was made anew while the request was under way.
    #[error("restarted while the request was under way")]
    Reset,
    /// It is out of service; the request was not looked at, or was under way.
    #[error("out of service: {0}")]
    OutOfService(String),
    /// It was told to stop, or its work is done.
    #[error("stopped")]
    Stopped,
}

/// A message's result that can say that the core gave no answer.
///
/// For `Result`s whose error can be made from a [`ShellFault`] this is done; [`OperationError`] is such an error,
/// and so is [`ShellFault`] itself. A `Vec` of answers carries the fault in each of its places (see
/// [`On::parts`](super::On::parts)). `()` has no room for it.
pub trait Answer: Sized + 'static {
    /// The fault as an answer of so many parts. `None`: there is no room for it.
    fn from_fault(fault: &ShellFault, parts: usize) -> Option<Self>;
}

impl<T: 'static, E: From<ShellFault> + 'static> Answer for Result<T, E> {
    fn from_fault(fault: &ShellFault, _parts: usize) -> Option<Self> {
        Some(Err(E::from(fault.clone())))
    }
}

impl<T: Answer> Answer for Vec<T> {
    fn from_fault(fault: &ShellFault, parts: usize) -> Option<Self> {
        (0..parts).map(|_| T::from_fault(fault, 1)).collect()
    }
}

impl Answer for () {
    fn from_fault(_fault: &ShellFault, _parts: usize) -> Option<Self> {
        None
    }
}

impl From<ShellFault> for OperationError {
    fn from(fault: ShellFault) -> OperationError {
        let ShellFault {
            child,
            vbucket,
            cause,
            ..
        } = fault;
        match (cause, vbucket) {
            (FaultCause::Crashed(_) | FaultCause::Reset, Some(vbucket)) => {
                OperationError::Crashed { vbucket }
            }
            (FaultCause::Crashed(_) | FaultCause::Reset, None) => {
                OperationError::ActorCrashed { child }
            }
            (FaultCause::OutOfService(why), Some(vbucket)) => OperationError::VbucketDown {
                vbucket,
                cause: DownCause::Escalated(why),
            },
            (FaultCause::OutOfService(why), None) => OperationError::ActorDown {
                child,
                cause: DownCause::Escalated(why),
            },
            (FaultCause::Stopped, _) => OperationError::Closed,
        }
    }
}
