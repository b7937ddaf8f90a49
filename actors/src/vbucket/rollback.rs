//! A replica that goes back, seen from memory: it stands still, the store goes back under it, memory follows.
//!
//! ```text
//! begin_rollback: no stream may write or read, nothing more is taken for the disk
//!   withdraw:     nothing is under way to the disk either, and what is heard of it counts no more
//!     reset:      memory is what the store went back to, and is loaded anew
//! give_up_rollback: before the store went back; everything is as it was
//! ```
//!
//! Invariant: between the first and the last nothing gets from memory to the disk, so that nothing of the past that is
//! given up can follow the store into its new epoch (rule R2); the vbucket keeps its state meanwhile. Called by the
//! worker of [`rollbacks`](crate::rollback), once for each rollback.

use super::core::{Inner, VbucketCore};
use messages::{Busy, OperationError};
use storage::{RollbackEpoch, Seqno};

/// How far a rollback is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rollback {
    /// What is on its way to the disk gets there.
    Draining,
    /// Nothing is under way; the store may go back.
    Withdrawn,
}

impl Inner {
    pub(super) fn is_withdrawn(&self) -> bool {
        self.rollback == Some(Rollback::Withdrawn)
    }
}

impl VbucketCore {
    /// Begins to take a replica back: streams that feed it, and those that read here, come to their end.
    pub fn begin_rollback(&self) -> Result<(), OperationError> {
        {
            let mut locked = self.lock();
            self.admit_engine()?;
            self.admit_source(&locked)?;
            if locked.rollback.is_some() {
                return Err(OperationError::TemporaryFailure(Busy::RollingBack));
            }
            // What is being loaded is of the past that is given up.
            if self.is_warming() {
                return Err(OperationError::TemporaryFailure(Busy::WarmingUp));
            }
            locked.rollback = Some(Rollback::Draining);
            locked.stream.bump();
            locked.producing.note_rolled_back();
        }
        self.mark_streams();
        Ok(())
    }

    /// Whether nothing is on its way to the disk any more, so that the store may go back now. Until
    /// [`VbucketCore::reset`] nothing is said to be on disk: it may be there no longer.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        let mut locked = self.lock();
        if locked.rollback.is_none() || !locked.flushed.is_idle() {
            return false;
        }
        locked.rollback = Some(Rollback::Withdrawn);
        self.set_persisted(Seqno::ZERO);
        true
    }

    /// The rollback is given up before the store went back: the vbucket is as it was, but for its streams, which ended.
    pub fn give_up_rollback(&self) {
        {
            let mut locked = self.lock();
            if locked.is_withdrawn() {
                self.set_persisted(locked.flushed.persisted().high_seqno);
            }
            locked.rollback = None;
        }
        self.mark_dirty();
    }

    /// The store went back, and is of this epoch: what was asked of it before counts no more (rule R2).
    pub fn note_epoch(&self, epoch: RollbackEpoch) {
        let mut locked = self.lock();
        locked.least_epoch = locked.least_epoch.max(epoch);
    }

    /// Whether a word of the store is of a past that was given up.
    #[must_use]
    pub fn is_of_past(&self, epoch: RollbackEpoch) -> bool {
        epoch < self.lock().least_epoch
    }

    /// Whether it is being taken back.
    #[must_use]
    pub fn is_rolling_back(&self) -> bool {
        self.lock().rollback.is_some()
    }
}
