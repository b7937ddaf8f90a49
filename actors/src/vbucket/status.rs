//! What a vbucket serves at this moment, in one byte that both doors read before anything else.
//!
//! Invariant: a request is judged in one order (down, crashed, state, warming, and for writes closed and disk full),
//! so that the answer names what must be mended first.

use super::core::VbucketCore;
use messages::{Busy, OperationError};
use storage::{VbucketId, VbucketState};

/// The state, and what stands in the way.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(pub(super) u8);

impl Status {
    const STATE: u8 = 0b11;
    /// Its documents are being loaded.
    pub(super) const WARMING: u8 = 1 << 2;
    /// It was taken out of service.
    pub(super) const DOWN: u8 = 1 << 3;
    /// A panic left a change half done.
    pub(super) const SUSPECT: u8 = 1 << 4;
    /// No further writes.
    pub(super) const CLOSED: u8 = 1 << 5;
    /// The disk has no room for more.
    pub(super) const DISK_FULL: u8 = 1 << 6;
    /// Its warmup has not opened it for writes yet, or it is being handed over.
    pub(super) const HELD: u8 = 1 << 7;

    pub(super) const fn of(state: VbucketState) -> Status {
        Status(match state {
            VbucketState::Active => 0,
            VbucketState::Replica => 1,
            VbucketState::Pending => 2,
            VbucketState::Dead => 3,
        })
    }

    pub(super) const fn state(self) -> VbucketState {
        match self.0 & Self::STATE {
            0 => VbucketState::Active,
            1 => VbucketState::Replica,
            2 => VbucketState::Pending,
            _ => VbucketState::Dead,
        }
    }

    pub(super) const fn in_state(self, state: VbucketState) -> Status {
        Status(self.0 & !Self::STATE | Status::of(state).0)
    }

    pub(super) const fn has(self, flag: u8) -> bool {
        self.0 & flag != 0
    }

    pub(super) const fn with(self, flag: u8) -> Status {
        Status(self.0 | flag)
    }

    pub(super) const fn without(self, flag: u8) -> Status {
        Status(self.0 & !flag)
    }
}

impl std::fmt::Debug for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let flags = [
            (Status::WARMING, "warming"),
            (Status::DOWN, "down"),
            (Status::SUSPECT, "suspect"),
            (Status::CLOSED, "closed"),
            (Status::DISK_FULL, "disk full"),
            (Status::HELD, "writes held"),
        ];
        write!(f, "{:?}", self.state())?;
        for (flag, name) in flags {
            if self.has(flag) {
                write!(f, ", {name}")?;
            }
        }
        Ok(())
    }
}

/// What a read may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// What is not in memory is not there.
    Whole,
    /// What is not in memory may be on disk.
    Partial,
}

impl VbucketCore {
    /// Whether clients may read it at all.
    pub(crate) fn may_be_read(&self) -> Result<(), OperationError> {
        self.admit_read().map(drop)
    }

    /// Whether a client may read.
    pub(super) fn admit_read(&self) -> Result<Sight, OperationError> {
        let status = self.status();
        // The usual case first: active, with nothing in the way of a read.
        let concerns_writes = Status::CLOSED | Status::DISK_FULL | Status::HELD;
        if status.without(concerns_writes) == Status::of(VbucketState::Active) {
            return Ok(Sight::Whole);
        }
        self.admit_client(status)?;
        Ok(if status.has(Status::WARMING) {
            Sight::Partial
        } else {
            Sight::Whole
        })
    }

    /// Whether a client may write.
    pub(super) fn admit_write(&self) -> Result<(), OperationError> {
        let status = self.status();
        if status == Status::of(VbucketState::Active) {
            return Ok(());
        }
        self.admit_client(status)?;
        if status.has(Status::CLOSED) {
            return Err(OperationError::Closed);
        }
        Err(OperationError::TemporaryFailure(
            if status.has(Status::WARMING) {
                Busy::WarmingUp
            } else if status.has(Status::HELD) {
                self.why_held()
            } else {
                Busy::DiskFull
            },
        ))
    }

    /// Whether what the engine itself asks (replication, changes of state) is served at all.
    pub(super) fn admit_engine(&self) -> Result<(), OperationError> {
        let status = self.status();
        self.admit_anybody(status)?;
        if status.has(Status::CLOSED) {
            return Err(OperationError::Closed);
        }
        Ok(())
    }

    /// Whether what is in memory may still get to the disk.
    pub(super) fn admit_stored(&self) -> Result<(), OperationError> {
        if let Some(ended) = self.waiters.ended() {
            return Err(ended);
        }
        Ok(())
    }

    fn admit_client(&self, status: Status) -> Result<(), OperationError> {
        self.admit_anybody(status)?;
        match status.state() {
            VbucketState::Active => Ok(()),
            VbucketState::Pending => Err(OperationError::TemporaryFailure(Busy::Pending)),
            state @ (VbucketState::Replica | VbucketState::Dead) => {
                Err(not_my_vbucket(self.id, state))
            }
        }
    }

    fn admit_anybody(&self, status: Status) -> Result<(), OperationError> {
        let vbucket = self.id;
        if let Some(cause) = self
            .down
            .read()
            .clone()
            .filter(|_| status.has(Status::DOWN))
        {
            return Err(OperationError::VbucketDown { vbucket, cause });
        }
        if status.has(Status::SUSPECT) {
            return Err(OperationError::Crashed { vbucket });
        }
        Ok(())
    }
}

pub(super) const fn not_my_vbucket(vbucket: VbucketId, state: VbucketState) -> OperationError {
    OperationError::NotMyVbucket { vbucket, state }
}
