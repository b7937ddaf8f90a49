//! A frozen view of one vbucket, for reads and scans.
//!
//! Invariant: everything a snapshot answers comes from its own version and layer lengths, never from "now"
//! (MB-35631, MB-37798). Taking one costs a few pointers; the files behind it live as long as it does.

use std::fmt;
use std::sync::Arc;

use crate::collections::DroppedCollection;
use crate::counts::VbucketCounts;
use crate::document::{DocumentKey, Item, Namespace};
use crate::error::StorageError;
use crate::kv_store::{KeyRange, Scan, Snapshot};
use crate::log_store::key_scan::KeyScan;
use crate::log_store::layer::LayerView;
use crate::log_store::rollback::sealed_counts;
use crate::log_store::segment::Patience;
use crate::log_store::seqno_scan::SeqnoScan;
use crate::log_store::version::Version;
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{Incarnation, RollbackEpoch, VbucketId, VbucketStateRecord, Watermarks};

/// A version, and how much of its layers counts.
#[derive(Clone)]
pub(crate) struct LogSnapshot {
    pub(crate) version: Arc<Version>,
    pub(crate) views: Arc<[LayerView]>,
    pub(crate) state: VbucketStateRecord,
    /// Of a past, the counts of the segments are not known, but counted when they are asked for.
    pub(crate) recounts: bool,
}

/// What it is of; what it holds would fill pages.
impl fmt::Debug for LogSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogSnapshot")
            .field("place", &self.version.place)
            .field("watermarks", &self.state.watermarks)
            .finish_non_exhaustive()
    }
}

impl LogSnapshot {
    /// The version as it is now. `None` only for a version without layers, which is never published.
    pub(crate) fn of(version: Arc<Version>) -> Option<LogSnapshot> {
        let views: Arc<[LayerView]> = version.views().into();
        let state = views.last()?.state().clone();
        Some(LogSnapshot {
            version,
            views,
            state,
            recounts: false,
        })
    }
}

impl Snapshot for LogSnapshot {
    fn vbucket(&self) -> VbucketId {
        self.version.place.vbucket
    }

    fn incarnation(&self) -> Incarnation {
        self.version.place.incarnation
    }

    fn epoch(&self) -> RollbackEpoch {
        self.version.place.epoch
    }

    fn state(&self) -> VbucketStateRecord {
        self.state.clone()
    }

    fn get(&self, namespace: Namespace, key: &DocumentKey) -> Result<Option<Item>, StorageError> {
        let key = key.as_encoded();
        self.version
            .get(&self.views, namespace, key, Patience::Waits)
    }

    fn get_at_once(
        &self,
        namespace: Namespace,
        key: &DocumentKey,
    ) -> Result<Option<Item>, StorageError> {
        let key = key.as_encoded();
        self.version
            .get(&self.views, namespace, key, Patience::AtOnce)
    }

    fn counts(&self) -> Result<VbucketCounts, StorageError> {
        if !self.recounts {
            return self.version.counts_with(&self.views);
        }
        let counts = sealed_counts(&self.version.segments)?;
        let counted = Version {
            counts: Arc::new(counts),
            ..Version::clone(&self.version)
        };
        counted.counts_with(&self.views)
    }

    fn dropped_collections(&self) -> Vec<DroppedCollection> {
        self.version.dropped_at(self.state.watermarks.high_seqno)
    }

    fn scan_by_seqno(&self, range: SeqnoRange) -> Box<dyn Scan> {
        Box::new(SeqnoScan::of_newest(self.clone(), range))
    }

    fn scan_history(&self, range: SeqnoRange) -> Box<dyn Scan> {
        Box::new(SeqnoScan::of_all(self.clone(), range))
    }

    fn versions(
        &self,
        namespace: Namespace,
        key: &DocumentKey,
        most: usize,
    ) -> Result<Vec<Item>, StorageError> {
        self.versions_of(namespace, key.as_encoded(), most)
    }

    fn batch_ends(&self, rising: &[Seqno]) -> Result<Vec<Watermarks>, StorageError> {
        self.ends_of(rising)
    }

    fn history_start(&self) -> Seqno {
        self.version.exact_at(Seqno::MAX).next()
    }

    fn as_of(&self, to: Seqno) -> Result<Box<dyn Snapshot>, StorageError> {
        Ok(Box::new(self.at(to)?))
    }

    fn seqno_at(&self, time_ms: u64) -> Result<Seqno, StorageError> {
        LogSnapshot::seqno_at(self, time_ms)
    }

    fn scan_by_key(&self, range: KeyRange) -> Box<dyn Scan> {
        Box::new(KeyScan::new(self.clone(), range))
    }
}
