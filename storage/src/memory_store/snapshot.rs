//! A frozen view of one vbucket in memory: the shared history up to a high seqno, and copies of the rest.
//!
//! Invariant: nothing it answers ever changes, because the history it holds only grows above its high seqno.

use std::sync::Arc;

use parking_lot::RwLock;

use super::history::{History, past_at};
use super::scan::{Cursor, MemoryScan};
use crate::collections::DroppedCollection;
use crate::counts::VbucketCounts;
use crate::document::{DocumentKey, Item, Namespace};
use crate::error::StorageError;
use crate::kv_store::{KeyRange, Scan, Snapshot};
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId, VbucketStateRecord, Watermarks};

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
    /// The ends of batches, by rising high seqno, and from where on the past is known.
    pub(super) boundaries: Arc<Vec<Watermarks>>,
    pub(super) exact_from: Seqno,
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

    fn get_at_once(
        &self,
        namespace: Namespace,
        key: &DocumentKey,
    ) -> Result<Option<Item>, StorageError> {
        self.get(namespace, key)
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

    fn scan_history(&self, range: SeqnoRange) -> Box<dyn Scan> {
        self.scan(Cursor::Versions(range))
    }

    fn versions(
        &self,
        namespace: Namespace,
        key: &DocumentKey,
        most: usize,
    ) -> Result<Vec<Item>, StorageError> {
        let history = self.history.read();
        let held = history.items(SeqnoRange {
            first: Seqno::ZERO,
            last: self.high_seqno(),
        });
        let of_key = held.filter(|item| item.namespace() == namespace && item.document.key == *key);
        let mut versions: Vec<Item> = of_key.map(|item| Item::clone(item)).collect();
        versions.reverse();
        versions.truncate(most);
        Ok(versions)
    }

    fn batch_ends(&self, rising: &[Seqno]) -> Result<Vec<Watermarks>, StorageError> {
        let end_of = |seqno: &Seqno| {
            let ended = |boundary: &&Watermarks| boundary.high_seqno >= *seqno;
            let boundary = self.boundaries.iter().find(ended);
            *boundary.unwrap_or(&self.state.watermarks)
        };
        Ok(rising.iter().map(end_of).collect())
    }

    fn history_start(&self) -> Seqno {
        self.exact_from.next()
    }

    fn as_of(&self, to: Seqno) -> Result<Box<dyn Snapshot>, StorageError> {
        let (vbucket, high_seqno) = (self.vbucket, self.high_seqno());
        if to > high_seqno {
            return Err(StorageError::NotReached {
                vbucket,
                to,
                high_seqno,
            });
        }
        let known = past_at(&self.history.read(), &self.boundaries, &self.state, to);
        let from = self.exact_from;
        let (state, past) = known
            .filter(|_| to >= from)
            .ok_or(StorageError::Forgotten { vbucket, to, from })?;
        let (history, counts) = past;
        let known = self.boundaries.iter().copied();
        let known = known.filter(|boundary| boundary.high_seqno <= to);
        Ok(Box::new(MemorySnapshot {
            vbucket,
            incarnation: self.incarnation,
            epoch: self.epoch,
            state,
            counts: Arc::new(counts),
            dropped: self
                .dropped
                .iter()
                .filter(|one| one.end <= to)
                .copied()
                .collect(),
            history: Arc::new(RwLock::new(history)),
            boundaries: Arc::new(known.collect()),
            exact_from: from,
        }))
    }

    fn seqno_at(&self, time_ms: u64) -> Result<Seqno, StorageError> {
        let at_or_before = |boundary: &&Watermarks| boundary.commit_time_ms <= time_ms;
        let found = self.boundaries.iter().rev().find(at_or_before);
        let found = found.map(|boundary| boundary.high_seqno);
        let found = found.filter(|found| *found >= self.exact_from);
        match found {
            Some(found) => Ok(found),
            None => Err(StorageError::ForgottenTime {
                vbucket: self.vbucket,
                time_ms,
                from_ms: self.committed_at(self.exact_from)?,
            }),
        }
    }

    fn scan_by_key(&self, range: KeyRange) -> Box<dyn Scan> {
        self.scan(Cursor::Keys(range))
    }
}
