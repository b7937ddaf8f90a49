//! What a flusher needs of a vbucket: its core, seen from the disk's side.
//!
//! Invariant: cursor and persisted seqno are the vbucket's, not the flusher's (rule R19), so a flusher may be replaced
//! at any moment. Everything here is shared state behind the vbucket's own lock; nothing waits for an actor.

use std::fmt::Debug;

use crate::vbucket::{DirtyVbuckets, VbucketCore};
use messages::DownCause;
use storage::{RollbackEpoch, Seqno, VbucketId, VbucketPosition};

pub use crate::vbucket::FlushTake;

/// A vbucket, seen from the disk's side.
pub trait Flushable: Debug + Send + Sync + 'static {
    /// Takes what lies behind the flush cursor, up to the limits (one item always), and moves the cursor. `None`
    /// when there is nothing to write.
    fn take_for_flush(&self, items_max: usize, bytes_max: usize) -> Option<FlushTake>;
    /// A batch up to there is on disk, as its writer says: answers who waits for it, lets the checkpoint log free it. Never goes
    /// back.
    fn note_persisted(&self, seqno: Seqno);
    /// The store holds exactly what is up to there, which answers who waits for it: the flush cursor goes back to it, so that
    /// everything above, and the state record if it may not be on disk, is taken anew (rule R19).
    fn resync(&self, persisted: Seqno);
    /// The same for where the store says it stands; `false`, with nothing done, if the vbucket was rolled back since.
    fn resync_at(&self, position: &VbucketPosition) -> bool {
        self.resync(position.high_seqno);
        true
    }
    /// Whether a word of the store is of a past that was given up by a rollback.
    fn is_of_past(&self, _epoch: RollbackEpoch) -> bool {
        false
    }
    /// Whether there is anything behind the flush cursor.
    fn has_unflushed(&self) -> bool;
    /// Highest seqno in memory.
    fn high_seqno(&self) -> Seqno;
    /// Highest seqno known to be on disk.
    fn persisted_seqno(&self) -> Seqno;
    /// Up to here every change is on disk: itself, or a newer one of its key. Below the persisted seqno while a batch
    /// was cut where a version is missing whose newer one comes later.
    fn settled_seqno(&self) -> Seqno;
    /// While set, clients' writes are answered with a temporary failure; reads go on.
    fn set_disk_full(&self, is_full: bool);
    /// Why the vbucket is out of service, if it is; then nothing of it is taken.
    fn down(&self) -> Option<DownCause>;
    /// Takes the vbucket out of service.
    fn take_down(&self, cause: DownCause);
    /// Puts it back, after [`Flushable::take_down`] by the same caller.
    fn bring_up(&self);
}

/// Which vbuckets have something for the disk, with one wake-up under way at most (rule R18).
pub trait DirtyQueue: Debug + Send + Sync + 'static {
    /// The wake-up arrived: what is marked from now on sends another. Before the queue is looked at.
    fn clear_wake(&self);
    /// Whether a commit is under way, whose answer makes the flusher look: until then changes nobody waits for need not
    /// wake it.
    fn set_flusher_busy(&self, is_busy: bool);
    /// The next vbucket to look at; what is changed in it from now on puts it back.
    fn take(&self) -> Option<VbucketId>;
}

impl Flushable for VbucketCore {
    fn take_for_flush(&self, items_max: usize, bytes_max: usize) -> Option<FlushTake> {
        VbucketCore::take_for_flush(self, items_max, bytes_max)
    }

    fn note_persisted(&self, seqno: Seqno) {
        VbucketCore::note_persisted(self, seqno);
    }

    fn resync(&self, persisted: Seqno) {
        VbucketCore::resync(self, persisted);
    }

    fn resync_at(&self, position: &VbucketPosition) -> bool {
        VbucketCore::resync_at(self, position)
    }

    fn is_of_past(&self, epoch: RollbackEpoch) -> bool {
        VbucketCore::is_of_past(self, epoch)
    }

    fn has_unflushed(&self) -> bool {
        VbucketCore::has_unflushed(self)
    }

    fn high_seqno(&self) -> Seqno {
        VbucketCore::high_seqno(self)
    }

    fn persisted_seqno(&self) -> Seqno {
        VbucketCore::persisted_seqno(self)
    }

    fn settled_seqno(&self) -> Seqno {
        VbucketCore::settled_seqno(self)
    }

    fn set_disk_full(&self, is_full: bool) {
        VbucketCore::set_disk_full(self, is_full);
    }

    fn down(&self) -> Option<DownCause> {
        VbucketCore::down(self)
    }

    fn take_down(&self, cause: DownCause) {
        VbucketCore::take_down(self, cause);
    }

    fn bring_up(&self) {
        VbucketCore::bring_up(self);
    }
}

impl DirtyQueue for DirtyVbuckets {
    fn clear_wake(&self) {
        DirtyVbuckets::clear_wake(self);
    }

    fn set_flusher_busy(&self, is_busy: bool) {
        DirtyVbuckets::set_flusher_busy(self, is_busy);
    }

    fn take(&self) -> Option<VbucketId> {
        DirtyVbuckets::take(self)
    }
}
