//! Collections, as an embedder works with them: the bucket's manifest, and the documents of one collection.
//!
//! Invariant: a [`Collection`] is one life of it. Once it is dropped every operation answers
//! [`OperationError::UnknownCollection`], also when there is another one of the same name.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use messages::vbucket::{ExpiryRequest, Found, GetAndTouch, Meta};
use messages::{
    ChangeManifest, CollectionsManifest, ManifestChange, ManifestError, OperationError,
};
use storage::{
    CollectionId, DocumentKey, KeyError, KvStore, ManifestUid, StorageError, VbucketCounts,
};

use super::requests::{Verb, WriteRequest};
use crate::bucket::Bucket;
use crate::statistics::CollectionStatistics;

impl Bucket {
    /// Which scopes and collections there are.
    #[must_use]
    pub fn manifest(&self) -> Arc<CollectionsManifest> {
        self.running().collections.manifest()
    }

    /// The documents of a collection, by its name.
    pub fn collection(&self, scope: &str, name: &str) -> Result<Collection, OperationError> {
        let manifest = self.manifest();
        let id = manifest.collection(scope, name);
        let bucket = self.clone();
        let unknown = OperationError::UnknownCollection {
            manifest_uid: manifest.uid,
        };
        Ok(Collection {
            bucket,
            id: id.ok_or(unknown)?,
        })
    }

    /// Changes the manifest. In force for everybody at once; answered with the new uid when it is on disk in every vbucket
    /// that is in service. Dropping the future takes back the wait, not the change.
    pub async fn change_manifest(
        &self,
        change: impl Into<ChangeManifest>,
    ) -> Result<ManifestUid, ManifestError> {
        let uid = self.running().collections.change(&change.into()).await?;
        // What was dropped is erased from the disk soon.
        self.running().compactor.look_soon();
        Ok(uid)
    }

    /// Creates a scope; see [`Bucket::change_manifest`].
    pub async fn create_scope(
        &self,
        scope: impl Into<String>,
    ) -> Result<ManifestUid, ManifestError> {
        let scope = scope.into();
        let change = ManifestChange::CreateScope { scope };
        self.change_manifest(change).await
    }

    /// Creates a collection in a scope that is there; see [`Bucket::change_manifest`], which also takes a longest life for
    /// its documents.
    pub async fn create_collection(
        &self,
        scope: impl Into<String>,
        collection: impl Into<String>,
    ) -> Result<ManifestUid, ManifestError> {
        let change = ManifestChange::CreateCollection {
            scope: scope.into(),
            collection: collection.into(),
            max_ttl_s: 0,
        };
        self.change_manifest(change).await
    }

    /// Drops a scope with all its collections; see [`Bucket::change_manifest`].
    pub async fn drop_scope(&self, scope: impl Into<String>) -> Result<ManifestUid, ManifestError> {
        let scope = scope.into();
        self.change_manifest(ManifestChange::DropScope { scope })
            .await
    }

    /// Drops a collection with all its documents: nobody sees them any more, at once. Memory and disk are rid of them
    /// later. See [`Bucket::change_manifest`].
    pub async fn drop_collection(
        &self,
        scope: impl Into<String>,
        collection: impl Into<String>,
    ) -> Result<ManifestUid, ManifestError> {
        let change = ManifestChange::DropCollection {
            scope: scope.into(),
            collection: collection.into(),
        };
        self.change_manifest(change).await
    }

    /// Figures of each collection, in the order of their numbers.
    pub fn collection_statistics(&self) -> Result<Vec<CollectionStatistics>, StorageError> {
        let manifest = self.manifest();
        let mut statistics: BTreeMap<CollectionId, CollectionStatistics> = BTreeMap::new();
        for (id, entry) in &manifest.collections {
            let scope = manifest.scopes.get(&entry.scope).cloned();
            let one = CollectionStatistics {
                id: *id,
                scope: scope.unwrap_or_default(),
                name: entry.name.clone(),
                max_ttl_s: entry.max_ttl_s,
                documents: 0,
                document_bytes: 0,
                high_seqnos: BTreeMap::new(),
            };
            statistics.insert(*id, one);
        }
        let running = self.running();
        for (vbucket, core) in running
            .table
            .cores()
            .filter(|(_, core)| core.down().is_none())
        {
            let counts = running.store.lease()?.store().counts(vbucket)?;
            for (id, one) in &mut statistics {
                add(one, &counts);
                one.high_seqnos
                    .extend(core.collection_high_seqno(*id).map(|high| (vbucket, high)));
            }
        }
        Ok(statistics.into_values().collect())
    }
}

fn add(one: &mut CollectionStatistics, counts: &VbucketCounts) {
    let Some(counts) = counts.collections.get(&one.id) else {
        return;
    };
    let figure = |figure: i64| u64::try_from(figure).unwrap_or(0);
    one.documents = one.documents.saturating_add(figure(counts.documents));
    one.document_bytes = one
        .document_bytes
        .saturating_add(figure(counts.document_bytes));
}

/// The documents of one collection. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Collection {
    bucket: Bucket,
    id: CollectionId,
}

impl Collection {
    /// Its number, which no other collection ever has.
    #[must_use]
    pub const fn id(&self) -> CollectionId {
        self.id
    }

    /// A key of this collection, for what takes whole keys such as [`Bucket::write_batch`].
    pub fn key(&self, key: impl AsRef<[u8]>) -> Result<DocumentKey, KeyError> {
        DocumentKey::new(self.id, key.as_ref())
    }

    /// Reads a document.
    #[expect(
        clippy::unused_async,
        reason = "a document that is not in memory will be awaited"
    )]
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Found, OperationError> {
        let key = self.key(key)?;
        self.bucket.core_of(&key)?.get(&key)
    }

    /// Reads a document's metadata; shows a tombstone that is still in memory, too.
    #[expect(
        clippy::unused_async,
        reason = "a document that is not in memory will be awaited"
    )]
    pub async fn get_meta(&self, key: impl AsRef<[u8]>) -> Result<Meta, OperationError> {
        let key = self.key(key)?;
        self.bucket.core_of(&key)?.get_meta(&key)
    }

    /// Whether there is a document of that key.
    #[expect(
        clippy::unused_async,
        reason = "a document that is not in memory will be awaited"
    )]
    pub async fn exists(&self, key: impl AsRef<[u8]>) -> Result<bool, OperationError> {
        let key = self.key(key)?;
        self.bucket.core_of(&key)?.exists(&key)
    }

    /// Reads many documents, answered in the order of the keys.
    pub async fn get_many(
        &self,
        keys: impl IntoIterator<Item = impl AsRef<[u8]>>,
    ) -> Vec<Result<Found, OperationError>> {
        let mut answers = Vec::new();
        for key in keys {
            answers.push(self.get(key).await);
        }
        answers
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
    #[expect(
        clippy::unused_async,
        reason = "a document that is not in memory will be awaited"
    )]
    pub async fn get_and_touch(
        &self,
        key: impl AsRef<[u8]>,
        expiry: u32,
    ) -> Result<Found, OperationError> {
        let key = self.key(key)?;
        let expiry = ExpiryRequest(expiry);
        self.bucket.core_of(&key)?.get_and_touch(&GetAndTouch {
            key: key.clone(),
            expiry,
        })
    }

    fn request(&self, verb: Verb, key: &[u8], value: Bytes) -> WriteRequest<'_> {
        WriteRequest::new(&self.bucket, verb, self.key(key), value)
    }
}
