//! How a vbucket comes from one manifest to the next: an active one follows the bucket's, a replica its source's events.
//!
//! Invariant: the events of a change lie behind each other in the checkpoint log, the identity with the new uid right
//! behind the last; they are taken for the disk as one, so that a vbucket is found with the old manifest or with the new
//! one. A panic in between leaves the vbucket suspect, and reconciling goes on to the newest manifest.

use std::sync::Arc;

use super::open::{OpenCollections, Opened};
use super::shared::BucketManifest;
use crate::sync::atomic::Ordering;
use crate::vbucket::core::{Inner, VbucketCore};
use crate::vbucket::kept::{Held, Kept};
use crate::vbucket::lock::Locked;
use crate::vbucket::memory;
use crate::vbucket::status::Status;
use messages::{Busy, CollectionsManifest, OperationError};
use storage::{
    Cas, CollectionId, Datatype, Document, DocumentKey, Expiry, Item, ManifestUid, Predecessor,
    RevSeqno, Seqno, SystemEvent, VbucketState,
};

/// What its warmup has not opened for writes.
const NOT_WRITABLE: u8 = Status::WARMING | Status::HELD;

impl VbucketCore {
    /// This core as one of the bucket whose manifest it is. Without it, it is of a bucket of its own.
    #[must_use]
    pub fn of_bucket(mut self, manifest: Arc<BucketManifest>) -> VbucketCore {
        manifest.note_state(self.id, self.state());
        self.manifest = manifest;
        self
    }

    /// The manifest this vbucket has.
    #[must_use]
    pub fn collections_manifest(&self) -> Arc<CollectionsManifest> {
        Arc::clone(self.collections.read().manifest())
    }

    /// How far an open collection has come in memory.
    #[must_use]
    pub fn collection_high_seqno(&self, collection: CollectionId) -> Option<Seqno> {
        if collection == CollectionId::DEFAULT {
            return Some(Seqno(self.default_high.load(Ordering::Relaxed)));
        }
        self.collections.read().high_seqno(collection)
    }

    /// A document came to this seqno.
    #[inline]
    pub(in crate::vbucket) fn note_high(&self, key: &DocumentKey, seqno: Seqno) {
        if is_default(key) {
            self.default_high.fetch_max(seqno.0, Ordering::Relaxed);
        } else {
            self.collections.read().note_high(key.collection(), seqno);
        }
    }

    /// The system events the store holds, the newest of each slot; before anything else is loaded.
    pub fn warm_collections(&self, events: Vec<(Seqno, SystemEvent)>) {
        let locked = self.lock();
        let uid = ManifestUid(locked.identity.manifest_uid);
        let found = OpenCollections::of_events(uid, events);
        let mut collections = self.collections.write();
        *collections = found.with_documents_of(&collections);
    }

    /// A version took the place of another in memory, or of none.
    #[inline]
    pub(in crate::vbucket) fn count_document(&self, new: Held<'_>, before: Option<&Kept>) {
        if !is_default(new.key()) {
            let before = before.map(Kept::held);
            self.collections.read().note_document(new, before);
        }
    }

    /// A version that was counted is not in memory after all.
    pub(in crate::vbucket) fn discount_document(&self, gone: Held<'_>) {
        if !is_default(gone.key()) {
            self.collections.read().note_gone(gone);
        }
    }

    /// Live documents in memory, with their values or without, of collections that are open in the bucket, whether or not this vbucket was told of its
    /// manifest yet; of an expired one, too, until it is deleted. Needs the lock to be held.
    pub(in crate::vbucket) fn documents(&self) -> u64 {
        let collections = self.collections.read();
        let follows = self.state() == VbucketState::Active;
        let hidden = if follows && collections.manifest().uid < self.manifest.uid() {
            collections.documents_not_in(&self.manifest.current())
        } else {
            collections.ended_documents()
        };
        self.map.figures().documents.saturating_sub(hidden)
    }

    /// Those of them that are in memory with their values, as of about now.
    #[must_use]
    pub fn documents_in_memory(&self) -> u64 {
        let documents = self.documents();
        documents.saturating_sub(self.map.figures().stubs)
    }

    /// All there are, as far as that is known without the disk.
    #[must_use]
    pub fn documents_known(&self) -> u64 {
        self.documents().saturating_add(self.traffic.away())
    }

    /// The store holds so many live documents of open collections.
    pub fn note_stored_documents(&self, documents: u64) {
        // Nothing leaves between the look and the note.
        let _locked = self.lock();
        let away = documents.saturating_sub(self.documents());
        self.traffic.set_away(away);
    }

    /// Whether a change of the manifest could be done now; asked of every vbucket before it is done in the first.
    pub fn admit_manifest(&self) -> Result<(), OperationError> {
        let status = self.status();
        if status.has(Status::CLOSED) {
            return Err(OperationError::Closed);
        }
        if status.has(NOT_WRITABLE) {
            return Err(OperationError::TemporaryFailure(self.why_held()));
        }
        if status.has(Status::DISK_FULL) {
            return Err(OperationError::TemporaryFailure(Busy::DiskFull));
        }
        Ok(())
    }

    /// Brings an active vbucket, also one that is out of service, to the bucket's manifest: the seqno that is on disk when
    /// the manifest is. `None` for one that is not active, and for one that follows when its warmup opens it for writes.
    pub fn follow_manifest(&self) -> Result<Option<Seqno>, OperationError> {
        let mut locked = self.lock();
        let status = self.status();
        if status.has(Status::SUSPECT) {
            return Err(OperationError::Crashed { vbucket: self.id });
        }
        if status.has(Status::CLOSED) {
            return Err(OperationError::Closed);
        }
        self.follow(&mut locked)?;
        Ok(self.may_follow(&locked).then(|| locked.log.last_seqno()))
    }

    /// Follows what the bucket came to meanwhile, where nobody waits for an answer.
    pub(in crate::vbucket) fn follow_when_writable(&self, locked: &mut Locked<'_>) {
        if let Err(error) = self.follow(locked) {
            tracing::error!(vbucket = %self.id, %error, "the manifest cannot be followed");
        }
    }

    /// It is about to become active: the bucket has from now on what its source told it as well. Whether other vbuckets
    /// must follow. What is refused changed nothing.
    pub(in crate::vbucket) fn lead(&self) -> Result<bool, OperationError> {
        let own = Arc::clone(self.collections.read().manifest());
        // It cannot follow yet, and what it cannot follow may be more than it has: on disk it would be an active vbucket
        // of a bucket that never was.
        if self.status().has(NOT_WRITABLE) && own.uid > self.manifest.uid() {
            return Err(OperationError::TemporaryFailure(Busy::WarmingUp));
        }
        self.manifest.lead(self.id, &own)
    }

    /// What takes a seqno before the records of the opening are on disk takes it on the branch before.
    fn may_follow(&self, inner: &Inner) -> bool {
        inner.identity.state == VbucketState::Active && !self.status().has(NOT_WRITABLE)
    }

    /// The same with the lock held, whatever else is in the way.
    pub(in crate::vbucket) fn follow(&self, locked: &mut Locked<'_>) -> Result<(), OperationError> {
        if !self.may_follow(locked) {
            return Ok(());
        }
        let target = self.manifest.current();
        let events = {
            let collections = self.collections.read();
            let own = collections.manifest();
            // What is loaded before the bucket's manifest was found knows more than the bucket.
            if Arc::ptr_eq(own, &target) || target.uid < own.uid {
                return Ok(());
            }
            collections.events_to(&target)
        };
        for event in &events {
            self.append_event(locked, event)?;
        }
        self.collections.write().arrive(&target);
        self.name_manifest(locked);
        Ok(())
    }

    fn append_event(
        &self,
        locked: &mut Locked<'_>,
        event: &SystemEvent,
    ) -> Result<(), OperationError> {
        let item = Arc::new(self.item_of(event, locked.log.last_seqno().next())?);
        let place = self.map.place(item.document.key.as_encoded());
        let older = self.collections.read().replaced_by(event);
        self.commit_active(locked, place, item, older).map(drop)
    }

    fn item_of(&self, event: &SystemEvent, seqno: Seqno) -> Result<Item, OperationError> {
        let (key, value) = (event.key()?, event.value());
        let token = self.memory.charge(memory::cost_bytes(&key, value.len()));
        let now = self.environment.clock.since_epoch().as_nanos();
        let cas: Cas = self.cas.next(u64::try_from(now).unwrap_or(u64::MAX));
        Ok(Item {
            seqno,
            operation: event.operation(),
            predecessor: Predecessor::Unknown,
            document: Document {
                key,
                value,
                datatype: Datatype::RAW,
                flags: 0,
                expiry: Expiry(0),
                cas,
                rev_seqno: RevSeqno(1),
            },
            token,
        })
    }

    /// An event is in the log: what it says is so from now on.
    pub(in crate::vbucket) fn enter_event(&self, inner: &mut Inner, item: &Item) {
        let event = match SystemEvent::of(item) {
            Ok(event) => event,
            // Looked at before it was queued.
            Err(error) => {
                return tracing::error!(vbucket = %self.id, seqno = %item.seqno, %error, "bad event");
            }
        };
        let applied = {
            let mut collections = self.collections.write();
            if inner.identity.state != VbucketState::Active {
                collections.apply_to_manifest(&event);
            }
            collections.apply(&event, item.seqno)
        };
        if applied.has_begun_again {
            self.map.set_incomplete();
        }
        if applied.has_ended {
            if let SystemEvent::CollectionBegin { collection, .. }
            | SystemEvent::CollectionEnd { collection, .. } = event
            {
                inner.note_collection_dropped(collection, item.seqno);
            }
            self.ask_for_erasing();
        }
    }

    /// The identity names the manifest the vbucket has; queued behind what was queued before.
    pub(in crate::vbucket) fn name_manifest(&self, locked: &mut Locked<'_>) {
        let uid = self.collections.read().manifest().uid.0;
        if locked.identity.manifest_uid != uid {
            let mut identity = locked.identity.as_ref().clone();
            identity.manifest_uid = uid;
            self.adopt(locked, identity);
        }
    }

    /// The collection of a client's key, if it is open in the bucket: a manifest is in force in all vbuckets from one
    /// moment on, whichever of them were told of it yet. Costs a key of the default collection next to nothing. Takes the
    /// lock if this vbucket is behind.
    #[inline]
    pub(in crate::vbucket) fn admit_key_in_force(
        &self,
        key: &DocumentKey,
    ) -> Result<Opened, OperationError> {
        if is_default(key) {
            return Ok(Opened::DEFAULT);
        }
        self.admit_collection_in_force(key.collection())
    }

    /// The same by the number of the collection.
    pub(in crate::vbucket) fn admit_collection_in_force(
        &self,
        id: CollectionId,
    ) -> Result<Opened, OperationError> {
        self.keep_up();
        self.admit_collection(id)
    }

    /// Follows the bucket's manifest if this vbucket is behind it, and may. For whoever asks what a collection is in it.
    pub fn keep_up(&self) {
        let is_behind = || self.collections.read().manifest().uid < self.manifest.uid();
        let status = self.status();
        let is_hindered = status.has(NOT_WRITABLE | Status::SUSPECT | Status::CLOSED);
        if status.state() == VbucketState::Active && !is_hindered && is_behind() {
            self.follow_when_writable(&mut self.lock());
        }
    }

    /// The collection of a client's key, if it is open here.
    #[inline]
    pub(in crate::vbucket) fn admit_key(
        &self,
        key: &DocumentKey,
    ) -> Result<Opened, OperationError> {
        if is_default(key) {
            return Ok(Opened::DEFAULT);
        }
        self.admit_collection(key.collection())
    }

    /// The same by the number of the collection.
    pub(in crate::vbucket) fn admit_collection(
        &self,
        id: CollectionId,
    ) -> Result<Opened, OperationError> {
        let collections = self.collections.read();
        let unknown = || {
            let manifest_uid = collections.manifest().uid;
            // What the bucket has may be what this vbucket follows only when it is writable.
            if self.status().has(NOT_WRITABLE) && manifest_uid < self.manifest.current().uid {
                return OperationError::TemporaryFailure(Busy::WarmingUp);
            }
            OperationError::UnknownCollection { manifest_uid }
        };
        collections.opened(id).ok_or_else(unknown)
    }
}

/// Whether a key is of the default collection, whose prefix is one byte.
fn is_default(key: &DocumentKey) -> bool {
    key.as_encoded().first() == Some(&0)
}
