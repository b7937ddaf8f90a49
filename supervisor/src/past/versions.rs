//! The versions of one document that are still kept.
//!
//! Invariant: newest first, each with the time it was committed at, where that is known; from where the history that is kept begins none is
//! missing. A version of a collection that ended is not one of a collection of the same number.

use storage::{DocumentKey, Item, KvStore, Namespace, Seqno};

use super::PastError;
use crate::bucket::Bucket;

/// One version of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What was written, its seqno and its CAS; a tombstone, too.
    pub item: Item,
    /// When it was committed, in milliseconds since the Unix epoch; of a version that is older than the history it is not
    /// known any more.
    pub committed_at_ms: Option<u64>,
    /// The version that was written behind it.
    pub superseded_by: Option<Seqno>,
}

impl Bucket {
    /// The newest versions of a document that are kept, `most` of them at most, tombstones included, newest first; what
    /// was written so far is among them. All that are told are in memory at once. Only of a bucket that keeps a history. Reads the disk on the caller's thread.
    pub async fn versions(
        &self,
        key: &DocumentKey,
        most: usize,
    ) -> Result<Vec<Version>, PastError> {
        self.history_kept()?;
        let core = self.core_of(key)?;
        let vbucket = core.id();
        core.wait_persisted(core.high_seqno())?.await?;
        let lease = self.running().store.lease()?;
        let snapshot = lease.store().snapshot(vbucket)?;
        let ended = snapshot.dropped_collections();
        let mut items = snapshot.versions(Namespace::Committed, key, most)?;
        items.retain(|item| {
            !ended
                .iter()
                .any(|one| one.holds(key.collection(), item.seqno))
        });
        let known_from = snapshot.history_start();
        let seqnos: Vec<Seqno> = items.iter().rev().map(|item| item.seqno).collect();
        let ends = snapshot.batch_ends(&seqnos)?;
        let mut versions: Vec<Version> = Vec::with_capacity(items.len());
        for (item, end) in items.into_iter().zip(ends.into_iter().rev()) {
            let superseded_by = versions.last().map(|newer| newer.item.seqno);
            versions.push(Version {
                committed_at_ms: (item.seqno >= known_from).then_some(end.commit_time_ms),
                item,
                superseded_by,
            });
        }
        Ok(versions)
    }
}
