//! The versions of one document that are still kept.
//!
//! Invariant: newest first, each with the time it was committed at; from where the history that is kept begins none is
//! missing. A version of a collection that ended is not one of a collection of the same number.

use storage::{DocumentKey, Item, KvStore, Namespace, Seqno};

use super::PastError;
use crate::bucket::Bucket;

/// One version of a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What was written, its seqno and its CAS; a tombstone, too.
    pub item: Item,
    /// When it was committed, in milliseconds since the Unix epoch.
    pub committed_at_ms: u64,
    /// The version that was written behind it.
    pub superseded_by: Option<Seqno>,
}

impl Bucket {
    /// The versions of a document that are kept, tombstones included, newest first; what was written so far is among
    /// them. Only of a bucket that keeps a history. Reads the disk on the caller's thread.
    pub async fn versions(&self, key: &DocumentKey) -> Result<Vec<Version>, PastError> {
        self.history_kept()?;
        let core = self.core_of(key)?;
        let vbucket = core.id();
        core.wait_persisted(core.high_seqno())?.await?;
        let lease = self.running().store.lease()?;
        let snapshot = lease.store().snapshot(vbucket)?;
        let ended = snapshot.dropped_collections();
        let mut versions: Vec<Version> = Vec::new();
        for item in snapshot.versions(Namespace::Committed, key)? {
            let seqno = item.seqno;
            if ended.iter().any(|one| one.holds(key.collection(), seqno)) {
                continue;
            }
            let committed_at_ms = snapshot.committed_at(seqno)?;
            let superseded_by = versions.last().map(|newer| newer.item.seqno);
            versions.push(Version {
                item,
                committed_at_ms,
                superseded_by,
            });
        }
        Ok(versions)
    }
}
