//! What a vbucket's checkpoint log can give back when memory is short, behind sealing (rule R14): first what nobody needs,
//! then what only slow streams keep.
//!
//! Invariant: nothing that is not on disk is given back; a replica's checkpoint stays open until its source ends it; and
//! nothing is moved while a panic waits to be repaired from the log.

use super::core::VbucketCore;
use super::lock::Locked;
use super::status::Status;
use storage::VbucketState;

/// Entries expelled under one lock.
const ENTRIES_MAX: usize = 1024;

impl VbucketCore {
    /// Bytes of the log that the store holds and that only streams keep.
    #[must_use]
    pub fn bytes_kept_for_streams(&self) -> u64 {
        self.lock().log.kept_for_readers() as u64
    }

    /// Gives back what every reader passed and the store holds; bytes of the log.
    pub fn shrink_log(&self) -> u64 {
        let before = self.checkpoint_bytes();
        {
            let mut locked = self.lock();
            self.close_own_checkpoint(&mut locked);
        }
        while self.expel_some() {}
        before.saturating_sub(self.checkpoint_bytes())
    }

    /// Drops the cursors of streams that keep what the store holds; how many. Their streams read from disk what they
    /// have not read.
    pub fn drop_stream_cursors(&self) -> usize {
        let dropped = {
            let mut locked = self.lock();
            self.close_own_checkpoint(&mut locked);
            locked.log.drop_cursors().len()
        };
        self.note_cursors_dropped(dropped);
        self.mark_streams();
        dropped
    }

    /// Whether there is more to expel.
    fn expel_some(&self) -> bool {
        let mut locked = self.lock();
        !self.status().has(Status::SUSPECT) && locked.log.expel(ENTRIES_MAX).more
    }

    /// A checkpoint is given back whole only once it is closed.
    fn close_own_checkpoint(&self, locked: &mut Locked<'_>) {
        let is_own = locked.identity.state == VbucketState::Active;
        if is_own && !self.status().has(Status::SUSPECT) {
            locked.log.open_checkpoint();
            self.drop_tombstones(locked);
        }
    }
}
