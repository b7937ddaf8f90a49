//! How every job ends: one shape, matched exhaustively, never a `bool` and never a silent success.
//!
//! Invariant: `Complete` means all of the work was done. A job that found an error is `Failed`, one that was told
//! to stop is `Aborted`, and only these two and `Complete` end it.

use crate::error::StorageError;

/// What one step of a job, or a whole job, came to.
#[must_use = "a job that failed must be told to whoever waits for it"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<T, E = StorageError> {
    /// All done.
    Complete(T),
    /// Progress was made (or the job must wait for another's step); call `step` again.
    Yielded,
    /// Nothing went wrong, but the result is no longer wanted; moves no failure figure.
    Aborted(AbortReason),
    /// It failed; nothing of it is visible, but for what the failure itself says. The cause says what to do.
    Failed(E),
}

impl<T, E> Outcome<T, E> {
    /// The same outcome with another result.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Outcome<U, E> {
        match self {
            Outcome::Complete(value) => Outcome::Complete(f(value)),
            Outcome::Yielded => Outcome::Yielded,
            Outcome::Aborted(reason) => Outcome::Aborted(reason),
            Outcome::Failed(cause) => Outcome::Failed(cause),
        }
    }

    /// The same outcome with another failure.
    pub fn map_failure<F>(self, f: impl FnOnce(E) -> F) -> Outcome<T, F> {
        match self {
            Outcome::Complete(value) => Outcome::Complete(value),
            Outcome::Yielded => Outcome::Yielded,
            Outcome::Aborted(reason) => Outcome::Aborted(reason),
            Outcome::Failed(cause) => Outcome::Failed(f(cause)),
        }
    }
}

/// Why a job was aborted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AbortReason {
    /// The vbucket was rolled back meanwhile.
    #[error("the vbucket was rolled back")]
    RolledBack,
    /// The vbucket was deleted (and perhaps created anew) meanwhile.
    #[error("the vbucket was deleted")]
    Deleted,
    /// The store is closing.
    #[error("the store is closing")]
    ShuttingDown,
    /// Whoever asked for it withdrew, or its visitor said stop.
    #[error("cancelled")]
    Cancelled,
    /// Another job of the same kind works on the same vbucket.
    #[error("another job is at work there")]
    Superseded,
}

/// A resumable job. Each step does a bounded amount of work and at most one sync, so that jobs interleave.
pub trait Job {
    /// What a completed job returns.
    type Output;
    /// What a failed job tells.
    type Failure;

    /// Does the next piece of work.
    fn step(&mut self) -> Outcome<Self::Output, Self::Failure>;

    /// Steps until the job ends; never returns [`Outcome::Yielded`].
    fn run(&mut self) -> Outcome<Self::Output, Self::Failure> {
        loop {
            match self.step() {
                Outcome::Yielded => {}
                ended @ (Outcome::Complete(_) | Outcome::Aborted(_) | Outcome::Failed(_)) => {
                    return ended;
                }
            }
        }
    }
}
