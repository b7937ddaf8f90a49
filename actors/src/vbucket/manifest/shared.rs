//! The bucket's manifest, as all its vbuckets see it.
//!
//! Invariant: it is set before the first vbucket is told to follow it, and while a vbucket is active it never goes back; so
//! whichever vbucket becomes active meanwhile, is reconciled, or is asked for a document of a collection, finds the newest
//! there is. It is that of the active vbuckets: where none is, the first that becomes active says what it is.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::Notify;

use super::together::{clash, has_same, refusal, together};
use crate::sync::RwLock;
use crate::sync::atomic::{AtomicU64, Ordering};
use messages::{CollectionsManifest, OperationError};
use storage::{ManifestUid, VbucketId, VbucketState};

/// The manifest every active vbucket of a bucket follows.
#[derive(Debug, Default)]
pub struct BucketManifest {
    shared: RwLock<Shared>,
    /// Its uid, to be read without the lock. Changed under it, behind the manifest.
    uid: AtomicU64,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Shared {
    manifest: Arc<CollectionsManifest>,
    /// The vbuckets that are active, those that may be included.
    active: BTreeSet<VbucketId>,
    /// The highest there was since the bucket was opened: no number is given twice.
    highest: ManifestUid,
}

impl BucketManifest {
    /// What the bucket has now.
    #[must_use]
    pub fn current(&self) -> Arc<CollectionsManifest> {
        Arc::clone(&self.shared.read().manifest)
    }

    /// The uid of what the bucket has now. Never above it.
    #[inline]
    pub(super) fn uid(&self) -> ManifestUid {
        ManifestUid(self.uid.load(Ordering::Acquire))
    }

    /// The highest uid it ever had.
    #[must_use]
    pub fn highest_uid(&self) -> ManifestUid {
        self.shared.read().highest
    }

    fn put(&self, shared: &mut Shared, next: Arc<CollectionsManifest>) {
        let uid = next.uid;
        shared.highest = shared.highest.max(uid);
        shared.manifest = next;
        self.uid.store(uid.0, Ordering::Release);
    }

    /// A vbucket is in this state: whether it has a say.
    pub fn note_state(&self, vbucket: VbucketId, state: VbucketState) {
        let is_known = self.shared.read().active.contains(&vbucket);
        let is_active = state == VbucketState::Active;
        if is_known == is_active {
            return;
        }
        let active = &mut self.shared.write().active;
        if is_active {
            active.insert(vbucket);
        } else {
            active.remove(&vbucket);
        }
    }

    /// A vbucket with this manifest is about to become active: what the bucket has from now on, with what the vbucket
    /// brings. Whether others must follow. Refused, nothing has changed. Never before the bucket's manifest was found.
    pub(super) fn lead(
        &self,
        vbucket: VbucketId,
        own: &Arc<CollectionsManifest>,
    ) -> Result<bool, OperationError> {
        let mut shared = self.shared.write();
        let is_alone = !shared.active.iter().any(|active| *active != vbucket);
        let next = if is_alone && !has_same(&shared.manifest, own) {
            Arc::clone(own)
        } else {
            let whole = together(&shared.manifest, own, shared.highest);
            whole.map_err(|clash| refusal(vbucket, clash))?
        };
        let is_other = *next != *shared.manifest;
        if is_other {
            self.put(&mut shared, next);
        }
        shared.active.insert(vbucket);
        Ok(is_other && !is_alone)
    }

    /// Whether vbuckets that follow a bucket of this manifest could become active here: refused for one of them where they
    /// could not.
    pub fn admit_source(
        &self,
        vbuckets: &BTreeSet<VbucketId>,
        source: &CollectionsManifest,
    ) -> Result<(), OperationError> {
        let shared = self.shared.read();
        let is_alone = shared.active.is_subset(vbuckets);
        match (clash(&shared.manifest, source), vbuckets.first()) {
            (Some(clash), Some(first)) if !is_alone => Err(refusal(*first, clash)),
            (Some(_) | None, _) => Ok(()),
        }
    }

    /// From now on `next`, if it is still `before`: whether it was. Whoever calls has the vbuckets follow it.
    #[must_use]
    pub fn replace(
        &self,
        before: &Arc<CollectionsManifest>,
        next: Arc<CollectionsManifest>,
    ) -> bool {
        let mut shared = self.shared.write();
        let is_same = Arc::ptr_eq(&shared.manifest, before);
        if is_same {
            self.put(&mut shared, next);
        }
        is_same
    }

    /// From now on this. Whoever calls has the vbuckets follow it.
    pub fn set(&self, manifest: Arc<CollectionsManifest>) {
        let mut shared = self.shared.write();
        if manifest.uid >= shared.manifest.uid {
            self.put(&mut shared, manifest);
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

#[cfg(test)]
mod tests {
    use super::super::changed;
    use super::*;
    use messages::ManifestChange;

    fn after(before: &CollectionsManifest, names: &[&str]) -> Arc<CollectionsManifest> {
        let create = |manifest: CollectionsManifest, name: &&str| {
            let change = ManifestChange::CreateCollection {
                scope: "_default".to_owned(),
                collection: (*name).to_owned(),
                max_ttl_s: 0,
            };
            changed(&manifest, &change.into()).expect("a change")
        };
        Arc::new(names.iter().fold(before.clone(), create))
    }

    #[test]
    fn a_uid_that_a_promotion_gives_was_never_given() {
        let bucket = BucketManifest::default();
        let begun = CollectionsManifest::default();
        bucket.set(after(&begun, &["1", "2", "3", "4", "5", "6"]));
        let highest = bucket.current().uid;
        // All of it is promoted anew, from a source of fewer changes.
        let common = after(&begun, &["a"]);
        let first = after(&common, &["b"]);
        assert_eq!(bucket.lead(VbucketId::FIRST, &first), Ok(false));
        assert!(bucket.current().uid < highest);
        // Of the same source, in the middle of a change.
        let mut other = after(&common, &["x", "y"]).as_ref().clone();
        other.collections.retain(|_, entry| entry.name != "x");
        let second = VbucketId::new(1).expect("a number");
        assert_eq!(bucket.lead(second, &Arc::new(other)), Ok(true));
        assert!(bucket.current().uid > highest);
    }
}
