//! The bucket's manifest, as all its vbuckets see it.
//!
//! Invariant: it is set before the first vbucket is told to follow it, and never goes back; so whichever vbucket becomes
//! active meanwhile, or is reconciled, finds the newest there is.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::Notify;

use messages::CollectionsManifest;

/// The manifest every active vbucket of a bucket follows.
#[derive(Debug, Default)]
pub struct BucketManifest {
    current: RwLock<Arc<CollectionsManifest>>,
    ended: Notify,
}

impl BucketManifest {
    /// What the bucket has now.
    #[must_use]
    pub fn current(&self) -> Arc<CollectionsManifest> {
        Arc::clone(&self.current.read())
    }

    /// From now on this. Whoever calls has the vbuckets follow it.
    pub fn set(&self, manifest: Arc<CollectionsManifest>) {
        let mut current = self.current.write();
        if manifest.uid >= current.uid {
            *current = manifest;
        }
    }

    /// Answered when in some vbucket a collection ended since this was answered last: its documents are to be erased from
    /// memory. For one who waits.
    pub async fn ended(&self) {
        self.ended.notified().await;
    }

    pub(super) fn note_ended(&self) {
        self.ended.notify_one();
    }
}
