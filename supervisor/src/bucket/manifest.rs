//! The bucket's manifest, as an embedder reads and changes it, and the figures of its collections.
//!
//! Invariant: a change is in force for everybody at once; whoever asked for it is answered when it is on disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use messages::{
    ChangeManifest, CollectionsManifest, ManifestChange, ManifestError, OperationError,
};
use storage::{CollectionId, KvStore, ManifestUid, StorageError, VbucketCounts};

use crate::bucket::{Bucket, Collection};
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
        let unknown = OperationError::UnknownCollection {
            manifest_uid: manifest.uid,
        };
        Ok(self.collection_of(id.ok_or(unknown)?))
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
            // As whoever asks it for a document: what is there for all has begun in each.
            core.keep_up();
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
