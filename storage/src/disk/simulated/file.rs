//! An open file and a held lock of the simulated disk.
//!
//! Invariant: a handle belongs to an inode, not to a name, so it goes on when the name is changed or removed; it
//! refuses what the real disk would refuse, before the call is counted.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::calls::{Attempt, Shared, sync_error};
use super::fault::Effect;
use super::image;
use super::inode::{Change, SharedInode};
use crate::disk::{DiskError, DiskErrorKind, DiskFile, DiskLock, Verb};

/// An open file of the simulated disk.
pub(super) struct SimulatedFile {
    pub(super) shared: Arc<Shared>,
    pub(super) inode: SharedInode,
    pub(super) name: Arc<str>,
    pub(super) writable: bool,
}

impl fmt::Debug for SimulatedFile {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedFile")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl SimulatedFile {
    fn attempt(&self, verb: Verb) -> Attempt<'_> {
        Attempt::new(verb, &self.name)
    }

    fn change_attempt(&self, verb: Verb) -> Result<Attempt<'_>, DiskError> {
        let attempt = self.attempt(verb).mutating(true);
        if self.writable {
            return Ok(attempt);
        }
        Err(attempt.error(DiskErrorKind::ReadOnly))
    }

    /// What writing and zeroing share: `change` makes the change of the first bytes asked for, as many as
    /// faults and space leave.
    fn fill(
        &self,
        verb: Verb,
        offset: u64,
        length: u64,
        change: impl FnOnce(u64) -> Change,
    ) -> Result<(), DiskError> {
        let attempt = self.change_attempt(verb)?.touching(offset, length);
        let (state, effect) = self.shared.admit(&attempt)?;
        attempt.refuse_beyond_limits(offset, length)?;
        let (wanted, failure) = match effect {
            None => (length, None),
            Some(Effect::ShortWrite { bytes, kind }) => (length.min(bytes as u64), Some(kind)),
            Some(effect) => return Err(attempt.error(effect.as_failure())),
        };
        let mut inode = self.inode.lock();
        let fitting = match state.space_limit {
            None => wanted,
            Some(limit) => {
                let room = limit.saturating_sub(self.shared.used.load(Ordering::Relaxed));
                inode.current().fitting(offset, wanted, room)
            }
        };
        if fitting > 0 {
            inode.change(change(fitting));
        }
        match failure {
            Some(kind) => Err(attempt.error(kind)),
            None if fitting < length => Err(attempt.error(DiskErrorKind::Full)),
            None => Ok(()),
        }
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let attempt = self
            .attempt(Verb::Read)
            .touching(offset, buffer.len() as u64);
        let _state = self.shared.begin(&attempt)?;
        // An empty read is within every file, as the system sees it.
        if buffer.is_empty() || self.inode.lock().current().read(buffer, offset) {
            return Ok(());
        }
        Err(attempt.error(DiskErrorKind::EndOfFile))
    }

    fn read_at_once(&self, buffer: &mut [u8], offset: u64) -> Result<(), DiskError> {
        if self.shared.state.lock().is_in_memory() {
            return self.read_at(buffer, offset);
        }
        Err(self.attempt(Verb::Read).error(DiskErrorKind::WouldWait))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        self.fill(Verb::Write, offset, data.len() as u64, |length| {
            let (data, _) = data.split_at(image::to_usize(length));
            Change::Write {
                offset,
                data: data.to_vec(),
            }
        })
    }

    fn sync(&self) -> Result<(), DiskError> {
        let attempt = self.attempt(Verb::Sync).mutating(true);
        let (_state, effect) = self.shared.admit(&attempt)?;
        let mut inode = self.inode.lock();
        match effect {
            None => {
                inode.sync();
                Ok(())
            }
            Some(Effect::LoseSync(failure)) => {
                inode.lose_sync(failure);
                Err(attempt.error(sync_error()))
            }
            Some(effect) => Err(attempt.error(effect.as_failure())),
        }
    }

    fn length(&self) -> Result<u64, DiskError> {
        let _state = self.shared.begin(&self.attempt(Verb::Length))?;
        Ok(self.inode.lock().current().length())
    }

    fn truncate(&self, length: u64) -> Result<(), DiskError> {
        let attempt = self.change_attempt(Verb::Truncate)?;
        let _state = self.shared.begin(&attempt)?;
        attempt.refuse_beyond_limits(0, length)?;
        self.inode.lock().change(Change::Truncate { length });
        Ok(())
    }

    fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        self.fill(Verb::Zero, offset, length, |length| Change::Zero {
            offset,
            length,
        })
    }

    fn punch(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let attempt = self.change_attempt(Verb::Punch)?.touching(offset, length);
        let _state = self.shared.begin(&attempt)?;
        attempt.refuse_beyond_limits(offset, length)?;
        self.inode.lock().change(Change::Punch { offset, length });
        Ok(())
    }
}

/// A lock held on the simulated disk.
pub(super) struct SimulatedLock {
    pub(super) inode: SharedInode,
}

impl fmt::Debug for SimulatedLock {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SimulatedLock")
            .finish_non_exhaustive()
    }
}

impl DiskLock for SimulatedLock {}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.inode.lock().locked = false;
    }
}
