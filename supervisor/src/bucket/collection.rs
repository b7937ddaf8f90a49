//! What is done with documents: every verb, once, for the documents of one collection. A [`Bucket`] has the same ones: it
//! derefs to its default collection.
//!
//! Invariant: a [`Collection`] is one life of it. Once it is dropped every operation answers
//! [`OperationError::UnknownCollection`], also when there is another one of the same name. A promotion may give its number to
//! another (decision 0017).
//!
//! [`Bucket`]: crate::Bucket

use std::sync::Arc;

use bytes::Bytes;

use actors::backfill::{Backfills, Begun};
use actors::vbucket::VbucketCore;
use messages::vbucket::{
    Delta, ExpiryRequest, Found, GetAndLock, GetAndTouch, GetRandom, GivenMeta, Meta, Observe,
    Observed, Picked, Unlock,
};
use messages::{Busy, OperationError, ScanRange};
use storage::{Cas, CollectionId, DocumentKey, KeyError, VbucketId};

use super::requests::{Verb, WriteRequest};
use crate::running::{Held, Running};
use crate::scan::ScanBuilder;
use crate::vbucket_map;

const NOT_IN_MEMORY: OperationError = OperationError::TemporaryFailure(Busy::NotInMemory);

/// The documents of one collection. Clones are handles to the same one. It stands for the collection's number: after a promotion
/// of vbuckets that followed another bucket that number may be another collection, so look it up again by name.
#[derive(Clone, Debug)]
pub struct Collection {
    held: Arc<Held>,
    id: CollectionId,
}

impl Collection {
    /// The collection of that number, whether or not there is one.
    pub(super) fn new(held: Arc<Held>, id: CollectionId) -> Collection {
        Collection { held, id }
    }

    /// Its number, which no other collection of the bucket has, unless it took the collections of another bucket over.
    #[must_use]
    pub const fn id(&self) -> CollectionId {
        self.id
    }

    /// A key of this collection, for what takes whole keys such as [`Bucket::write_batch`](crate::Bucket::write_batch).
    pub fn key(&self, key: impl AsRef<[u8]>) -> Result<DocumentKey, KeyError> {
        DocumentKey::new(self.id, key.as_ref())
    }

    /// Reads a document.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Found, OperationError> {
        let key = self.key(key)?;
        let core = self.core_of(&key)?;
        match core.get(&key) {
            // Apart, so that the future of all others stays small.
            Err(NOT_IN_MEMORY) => Box::pin(self.readers().get_evicted(core, &key).done()).await,
            answer => answer,
        }
    }

    /// Reads a document's metadata; shows tombstones, too.
    pub async fn get_meta(&self, key: impl AsRef<[u8]>) -> Result<Meta, OperationError> {
        let key = self.key(key)?;
        self.readers()
            .get_meta(self.core_of(&key)?, &key)
            .done()
            .await
    }

    /// How far the newest version of a document is: in memory, or on disk.
    pub async fn observe(&self, key: impl AsRef<[u8]>) -> Result<Observed, OperationError> {
        let key = self.key(key)?;
        let core = self.core_of(&key)?;
        self.readers().observe(core, Observe { key }).done().await
    }

    /// Reads any live document; all are likely, if not equally so.
    pub async fn get_random(&self) -> Result<Picked, OperationError> {
        let table = &self.running().table;
        let (request, count) = (
            GetRandom {
                collection: self.id,
            },
            table.count(),
        );
        let first = table.random().next_u64() % u64::from(count.max(1));
        let numbers = (0..u64::from(count)).map(|number| first.saturating_add(number));
        for number in numbers.filter_map(|number| number.checked_rem(u64::from(count))) {
            let number = u16::try_from(number).ok();
            let Some(vbucket) = number.and_then(VbucketId::new) else {
                continue;
            };
            match self
                .readers()
                .get_random(table.core(vbucket)?, &request)
                .await
            {
                // Others may have some.
                Err(OperationError::KeyNotFound | OperationError::NotMyVbucket { .. }) => {}
                picked => return picked,
            }
        }
        Err(OperationError::KeyNotFound)
    }

    /// Reads the documents whose keys lie in a range, by rising key. See [`ScanBuilder`].
    pub fn scan(&self, range: ScanRange) -> ScanBuilder<'_> {
        ScanBuilder::new(self, range)
    }

    /// Whether there is a document of that key.
    pub async fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, OperationError> {
        let key = self.key(key)?;
        self.readers()
            .exists(self.core_of(&key)?, &key)
            .done()
            .await
    }

    /// Reads many documents, answered in the order of the keys.
    pub async fn get_many(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Vec<Result<Found, OperationError>> {
        let readers = self.readers().for_many();
        let get_one = |key: &[u8]| {
            let key = self.key(key)?;
            Ok(readers.get(self.core_of(&key)?, &key))
        };
        let get_one = |key: &[u8]| get_one(key).unwrap_or_else(|error| Begun::Done(Err(error)));
        // All that the disk is asked for it is asked together.
        let begun = keys.into_iter().map(|key| get_one(key.as_ref())).collect();
        Begun::all_done(begun).await
    }

    /// Writes a document, whatever was there.
    pub fn set(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> WriteRequest<'_> {
        self.request(Verb::Set, key.as_ref(), value.into())
    }

    /// Writes a document that must not be there yet.
    pub fn add(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> WriteRequest<'_> {
        self.request(Verb::Add, key.as_ref(), value.into())
    }

    /// Writes a document that must be there.
    pub fn replace(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> WriteRequest<'_> {
        self.request(Verb::Replace, key.as_ref(), value.into())
    }

    /// Deletes a document that must be there.
    pub fn delete(&self, key: impl AsRef<[u8]>) -> WriteRequest<'_> {
        self.request(Verb::Delete, key.as_ref(), Bytes::new())
    }

    /// Gives a document that must be there another expiry (see [`WriteRequest::expiry`]).
    pub fn touch(&self, key: impl AsRef<[u8]>, expiry: u32) -> WriteRequest<'_> {
        self.request(Verb::Touch, key.as_ref(), Bytes::new())
            .expiry(expiry)
    }

    /// Gives a document another expiry, and reads it.
    pub async fn get_and_touch(
        &self,
        key: impl AsRef<[u8]>,
        expiry: u32,
    ) -> Result<Found, OperationError> {
        let key = self.key(key)?;
        let expiry = ExpiryRequest(expiry);
        let core = self.core_of(&key)?;
        let request = GetAndTouch {
            key: key.clone(),
            expiry,
        };
        self.readers()
            .get_and_touch(core, request, None)
            .done()
            .await
    }

    /// Puts bytes behind the value of a document that must be there. Its flags and expiry stay.
    pub fn append(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> WriteRequest<'_> {
        self.request(Verb::Append, key.as_ref(), value.into())
    }

    /// Puts bytes before the value of a document that must be there. Its flags and expiry stay.
    pub fn prepend(&self, key: impl AsRef<[u8]>, value: impl Into<Bytes>) -> WriteRequest<'_> {
        self.request(Verb::Prepend, key.as_ref(), value.into())
    }

    /// Counts up: the document's value is a number of 64 bits in decimal digits, and [`Mutated::counter`] of the answer the
    /// new one; behind the highest comes zero. [`WriteRequest::initial`] makes a counter that is not there.
    ///
    /// [`Mutated::counter`]: messages::vbucket::Mutated::counter
    pub fn increment(&self, key: impl AsRef<[u8]>, by: u64) -> WriteRequest<'_> {
        self.request(
            Verb::Count(Delta::Increment(by)),
            key.as_ref(),
            Bytes::new(),
        )
    }

    /// Counts down, to zero at most; see [`Collection::increment`].
    pub fn decrement(&self, key: impl AsRef<[u8]>, by: u64) -> WriteRequest<'_> {
        self.request(
            Verb::Count(Delta::Decrement(by)),
            key.as_ref(),
            Bytes::new(),
        )
    }

    /// Writes a document as it is in another cluster, with the metadata it has there: refused with
    /// [`OperationError::ConflictLost`] if the version here is the later one by its revision (see
    /// [`WriteRequest::skip_conflict_resolution`]). Cannot be durable.
    pub fn set_with_meta(
        &self,
        key: impl AsRef<[u8]>,
        value: impl Into<Bytes>,
        meta: GivenMeta,
    ) -> WriteRequest<'_> {
        self.request(Verb::SetWithMeta(meta), key.as_ref(), value.into())
    }

    /// Deletes a document as it was deleted in another cluster; see [`Collection::set_with_meta`]. Leaves a tombstone, also
    /// where there is no document.
    pub fn delete_with_meta(&self, key: impl AsRef<[u8]>, meta: GivenMeta) -> WriteRequest<'_> {
        self.request(Verb::DeleteWithMeta(meta), key.as_ref(), Bytes::new())
    }

    /// Reads a document and locks it for so many seconds, 30 at most; zero is 15. Until then, only a write with the answer's
    /// CAS changes it, and ends the lock. Locks are in memory only.
    pub async fn get_and_lock(
        &self,
        key: impl AsRef<[u8]>,
        seconds: u32,
    ) -> Result<Found, OperationError> {
        let key = self.key(key)?;
        let core = self.core_of(&key)?;
        let request = GetAndLock {
            key: key.clone(),
            seconds,
        };
        self.readers()
            .get_and_lock(core, request, None)
            .done()
            .await
    }

    /// Takes a lock back, of which this is the CAS.
    pub async fn unlock(&self, key: impl AsRef<[u8]>, cas: Cas) -> Result<(), OperationError> {
        let key = self.key(key)?;
        let core = self.core_of(&key)?;
        let request = Unlock {
            key: key.clone(),
            cas,
        };
        self.readers().unlock(core, request, None).done().await
    }

    fn request(&self, verb: Verb, key: &[u8], value: Bytes) -> WriteRequest<'_> {
        WriteRequest::new(self, verb, self.key(key), value)
    }

    /// The vbucket a key lies in, of whichever collection.
    pub(crate) fn core_of(&self, key: &DocumentKey) -> Result<&Arc<VbucketCore>, OperationError> {
        let table = &self.running().table;
        table.core(vbucket_map::vbucket_of(key.key(), table.count()))
    }

    /// Who reads what is not in memory.
    pub(crate) fn readers(&self) -> &Backfills {
        self.running().streaming.readers()
    }

    pub(crate) fn running(&self) -> &Running {
        &self.held.0
    }

    /// What keeps the engine.
    pub(crate) fn held(&self) -> &Arc<Held> {
        &self.held
    }
}
