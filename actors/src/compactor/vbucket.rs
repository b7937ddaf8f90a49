//! What compaction needs of a vbucket and of the bucket's table of them.
//!
//! Invariant: compaction changes no document itself. What it finds to be expired, and what it erased of a dropped
//! collection, goes through the vbucket, which has the last word.

use std::fmt::Debug;
use std::sync::Arc;

use crate::vbucket::VbucketCore;
use messages::compactor::CompactError;
use storage::{DroppedCollection, ExpiredDocument, VbucketId};

/// What became of a document that a compaction found to be expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiring {
    /// It was deleted, as one whose time is up.
    Deleted,
    /// It is not what it was when the compaction read it, or not this vbucket's to delete; nothing was done.
    Left,
    /// There is no memory for its tombstone, or the vbucket takes no writes now. The next compaction finds it again.
    PutOff,
}

/// A vbucket, seen from compaction.
pub trait Compactable: Debug + Send + Sync + 'static {
    /// The store holds this document, and its time is up.
    fn expire(&self, document: &ExpiredDocument) -> Expiring;
    /// This life of a collection is no longer on disk: nothing of it needs memory. Done in slices, each under a short
    /// lock.
    fn erase_collection(&self, erased: &DroppedCollection);
}

impl Compactable for VbucketCore {
    fn expire(&self, document: &ExpiredDocument) -> Expiring {
        self.expire_found(&document.key, document.cas)
    }

    fn erase_collection(&self, _: &DroppedCollection) {}
}

/// The bucket's table of vbuckets, seen from compaction.
pub trait CompactionTable: Debug + Send + Sync + 'static {
    /// How many vbuckets the bucket has.
    fn vbuckets(&self) -> u16;
    /// The vbucket, or why it is not compacted.
    fn vbucket(&self, vbucket: VbucketId) -> Result<Arc<dyn Compactable>, CompactError>;
}
