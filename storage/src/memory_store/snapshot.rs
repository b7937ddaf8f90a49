//! A frozen view of one vbucket in memory: the shared history up to a high seqno, and copies of the rest.
//!
//! Invariant: nothing it answers ever changes, because the history it holds only grows above its high seqno.

use std::sync::Arc;

use parking_lot::RwLock;

use super::history::History;
use super::scan::{Cursor, MemoryScan};
use crate::collections::DroppedCollection;
use crate::counts::VbucketCounts;
use crate::document::{DocumentKey, Item, Namespace};
use crate::error::StorageError;
use crate::kv_store::{KeyRange, Scan, Snapshot};
use crate::seqno::SeqnoRange;
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId, VbucketStateRecord};

/// One moment of one vbucket.
#[derive(Debug)]
pub(super) struct MemorySnapshot {
    pub(super) vbucket: VbucketId,
    pub(super) incarnation: Incarnation,
    pub(super) epoch: RollbackEpoch,
    pub(super) state: VbucketStateRecord,
    pub(super) counts: Arc<VbucketCounts>,
    pub(super) dropped: Arc<[DroppedCollection]>,
    pub(super) history: Arc<RwLock<History>>,
}

impl MemorySnapshot {
    fn scan(&self, cursor: Cursor) -> Box<dyn Scan> {
        Box::new(MemoryScan::new(
            Arc::clone(&self.history),
            self.high_seqno(),
            cursor,
        ))
    }
}

impl Snapshot for MemorySnapshot {
    fn vbucket(&self) -> VbucketId {
        self.vbucket
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn epoch(&self) -> RollbackEpoch {
        self.epoch
    }

    fn state(&self) -> VbucketStateRecord {
        self.state.clone()
    }

    fn get(&self, namespace: Namespace, key: &DocumentKey) -> Result<Option<Item>, StorageError> {
        let history = self.history.read();
        let newest = history.newest(namespace, key.as_encoded(), self.high_seqno());
        Ok(newest.map(|item| Item::clone(item)))
    }

    fn counts(&self) -> Result<VbucketCounts, StorageError> {
        Ok(VbucketCounts::clone(&self.counts))
    }

    fn dropped_collections(&self) -> Vec<DroppedCollection> {
        self.dropped.to_vec()
    }

    fn scan_by_seqno(&self, range: SeqnoRange) -> Box<dyn Scan> {
        self.scan(Cursor::Seqnos(range))
    }

    fn scan_by_key(&self, range: KeyRange) -> Box<dyn Scan> {
        self.scan(Cursor::Keys(range))
    }
}
