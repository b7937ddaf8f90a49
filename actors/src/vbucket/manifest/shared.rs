//! The bucket's manifest, as all its vbuckets see it.
//!
//! Invariant: it is set before the first vbucket is told to follow it, and never goes back; so whichever vbucket becomes
//! active meanwhile, is reconciled, or is asked for a document of a collection, finds the newest there is.

use std::sync::Arc;

use tokio::sync::Notify;

use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use messages::CollectionsManifest;
use storage::ManifestUid;

/// The manifest every active vbucket of a bucket follows.
#[derive(Debug, Default)]
pub struct BucketManifest {
    current: RwLock<Arc<CollectionsManifest>>,
    /// Its uid, to be read without the lock. Changed under it, behind the manifest.
    uid: AtomicU64,
    ended: Notify,
}

impl BucketManifest {
    /// What the bucket has now.
    #[must_use]
    pub fn current(&self) -> Arc<CollectionsManifest> {
        Arc::clone(&self.current.read())
    }

    /// The uid of what the bucket has now. Never above it.
    #[inline]
    pub(super) fn uid(&self) -> ManifestUid {
        ManifestUid(self.uid.load(Ordering::Acquire))
    }

    fn put(&self, current: &mut Arc<CollectionsManifest>, next: Arc<CollectionsManifest>) {
        let uid = next.uid.0;
        *current = next;
        self.uid.store(uid, Ordering::Release);
    }

    /// A vbucket that becomes active was told of this uid: where the bucket's is lower, what it has gets a higher one, so that
    /// none is used for both. Other vbuckets follow with the next change. Never before the bucket's manifest was found.
    pub(super) fn raise_above(&self, uid: ManifestUid) {
        let mut current = self.current.write();
        if current.uid < uid {
            let mut raised = current.as_ref().clone();
            raised.uid = ManifestUid(uid.0.saturating_add(1));
            self.put(&mut current, Arc::new(raised));
        }
    }

    /// From now on `next`, if it is still `before`: whether it was. Whoever calls has the vbuckets follow it.
    #[must_use]
    pub fn replace(
        &self,
        before: &Arc<CollectionsManifest>,
        next: Arc<CollectionsManifest>,
    ) -> bool {
        let mut current = self.current.write();
        let is_same = Arc::ptr_eq(&current, before);
        if is_same {
            self.put(&mut current, next);
        }
        is_same
    }

    /// From now on this. Whoever calls has the vbuckets follow it.
    pub fn set(&self, manifest: Arc<CollectionsManifest>) {
        let mut current = self.current.write();
        if manifest.uid >= current.uid {
            self.put(&mut current, manifest);
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
