//! What compaction needs of a vbucket and of the bucket's table of them.
//!
//! Invariant: compaction changes no document itself. What it finds to be expired goes through the vbucket, which has the
//! last word. What it erases of a dropped collection left memory when that was dropped, but for prepares that go on: who
//! waits for one is answered once it is erased.

use std::fmt::Debug;
use std::sync::Arc;

use crate::vbucket::{LookedUp, VbucketCore};
use messages::compactor::{CompactError, PreparesErased};
use storage::{ExpiredDocument, Seqno, VbucketId};

/// What became of a document that a compaction found to be expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiring {
    /// It was deleted, as one whose time is up.
    Deleted,
    /// It is not in memory: what the store holds of it now must be looked up, and looked up again if that is no longer true.
    NotInMemory,
    /// It is not what it was when the compaction read it, or not this vbucket's to delete; nothing was done.
    Left,
    /// There is no memory for its tombstone, or the vbucket takes no writes now. The next compaction finds it again.
    PutOff,
}

/// A vbucket, seen from compaction.
pub trait Compactable: Debug + Send + Sync + 'static {
    /// The store holds this document, and its time is up; with what the store holds of its key, if somebody looked.
    fn expire(&self, document: &ExpiredDocument, looked_up: Option<&LookedUp>) -> Expiring;
    /// Tombstones up to this seqno were let go, and that is on disk. May come twice, and late.
    fn purged(&self, seqno: Seqno);
    /// Prepares were erased with their collection, and that is on disk: whoever waits for one is answered. May come twice,
    /// and late: of another past of the vbucket it says nothing.
    fn forget_erased(&self, erased: &PreparesErased);
}

impl Compactable for VbucketCore {
    fn expire(&self, document: &ExpiredDocument, looked_up: Option<&LookedUp>) -> Expiring {
        self.expire_found(&document.key, document.cas, looked_up)
    }

    fn purged(&self, seqno: Seqno) {
        self.note_purged(seqno);
    }

    fn forget_erased(&self, erased: &PreparesErased) {
        VbucketCore::forget_erased(self, erased);
    }
}

/// The bucket's table of vbuckets, seen from compaction.
pub trait CompactionTable: Debug + Send + Sync + 'static {
    /// How many vbuckets the bucket has.
    fn vbuckets(&self) -> u16;
    /// The vbucket, or why it is not compacted.
    fn vbucket(&self, vbucket: VbucketId) -> Result<Arc<dyn Compactable>, CompactError>;
}
