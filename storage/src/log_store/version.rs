//! A version: everything that makes up one vbucket at one moment, as an immutable value.
//!
//! Invariant: a version never changes but for its newest layer, which only grows; whoever holds a version can read
//! it for as long as it likes. Only the shard's writer publishes a new one (rule R1). Items lie, by rising seqno, in
//! segments, then in frozen layers, then in the newest layer; a newer part supersedes the older ones.

use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::collections::DroppedCollection;
use crate::counts::{VbucketCounts, Weight};
use crate::document::{Item, Namespace};
use crate::error::StorageError;
use crate::log_store::layer::{Layer, LayerView};
use crate::log_store::log::frame::LogPosition;
use crate::log_store::log::payload::Place;
use crate::log_store::segment::{FoundEntry, IndexEntry, IndexKey, Kill, Patience, Segment, hash};
use crate::seqno::Seqno;
use crate::vbucket::{RollbackEpoch, VbucketStateRecord, Watermarks};

/// One vbucket at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Version {
    pub(crate) place: Place,
    /// Rollbacks of this incarnation whose undone items may still lie in the log.
    pub(crate) rollbacks: Vec<RollbackMark>,
    /// By rising seqno.
    pub(crate) segments: Vec<SegmentView>,
    /// By rising seqno; the last one is written to.
    pub(crate) layers: Vec<Arc<Layer>>,
    /// Every item up to here lies in the segments.
    pub(crate) sealed: Seqno,
    /// Below this the vbucket's past is not known, whatever its segments hold.
    pub(crate) exact_from: Seqno,
    /// Counts of what lies in the segments.
    pub(crate) counts: Arc<VbucketCounts>,
    /// Lives of collections that ended and are not erased, by rising end. One that ends above what a reader sees of the
    /// layers has not ended for that reader.
    pub(crate) dropped: Arc<[DroppedCollection]>,
    /// How often a compaction took away what was the newest of its key, since the store was opened: whatever was worked
    /// out against segments of another number may kill or count what is no longer there.
    pub(crate) purges: u64,
}

/// Items of an older epoch above `to` are undone (rule R2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct RollbackMark {
    /// The epoch that began then.
    pub(crate) epoch: RollbackEpoch,
    pub(crate) to: Seqno,
    /// What the vbucket was right after: the boundary of a batch that was cut.
    pub(crate) watermarks: Watermarks,
    /// Nothing of older epochs is left at all.
    pub(crate) is_reset: bool,
    /// The frame that says so.
    pub(crate) sequence: u64,
}

/// A segment, and which of its versions are superseded by what lies in the same or in newer segments.
#[derive(Clone, Debug)]
pub(crate) struct SegmentView {
    pub(crate) segment: Arc<Segment>,
    pub(crate) dead: Arc<RoaringTreemap>,
    /// Bytes of the dead versions.
    pub(crate) dead_bytes: u64,
}

impl SegmentView {
    /// Highest seqno that may be read.
    pub(crate) fn high(&self) -> Seqno {
        let meta = self.segment.meta();
        meta.last_seqno.min(meta.visible_last())
    }

    /// Kills by what may be read: those of a killer above a cut never happened.
    pub(crate) fn visible_kills(&self) -> Result<Vec<Kill>, StorageError> {
        if self.segment.meta().kills == 0 {
            return Ok(Vec::new());
        }
        let mut kills = self.segment.kills()?;
        kills.retain(|kill| kill.killer <= self.high());
        Ok(kills)
    }

    /// Whether it is the same segment, wherever its bytes lie by now, with the same versions dead.
    pub(crate) fn is_same(&self, other: &SegmentView) -> bool {
        self.segment.meta().id == other.segment.meta().id && Arc::ptr_eq(&self.dead, &other.dead)
    }

    /// Marks a victim of a newer version dead.
    pub(crate) fn kill(&mut self, victim: Seqno, bytes: u32) {
        if Arc::make_mut(&mut self.dead).insert(victim.0) {
            self.dead_bytes = self.dead_bytes.saturating_add(u64::from(bytes));
        }
    }
}

impl Version {
    /// A vbucket with nothing in it.
    pub(crate) fn empty(place: Place, state: VbucketStateRecord) -> Version {
        Version {
            place,
            rollbacks: Vec::new(),
            segments: Vec::new(),
            exact_from: state.watermarks.high_seqno,
            layers: vec![Arc::new(Layer::new(state))],
            sealed: Seqno::ZERO,
            counts: Arc::default(),
            dropped: Arc::default(),
            purges: 0,
        }
    }

    /// The version in which these lives of collections have ended, too.
    pub(crate) fn with_dropped(&self, more: &[DroppedCollection]) -> Version {
        let mut next = self.clone();
        next.dropped = self.dropped.iter().chain(more).copied().collect();
        next
    }

    /// What has ended at or below `high`, and is not erased.
    pub(crate) fn dropped_at(&self, high: Seqno) -> Vec<DroppedCollection> {
        let ended = self.dropped.iter().filter(|one| one.end <= high);
        ended.copied().collect()
    }

    /// The layer that is written to.
    pub(crate) fn active(&self) -> Option<&Arc<Layer>> {
        self.layers.last()
    }

    /// The version with a new layer, which begins with `state`, in place of the newest, which holds no items.
    pub(crate) fn with_new_layer(&self, state: VbucketStateRecord) -> Version {
        let mut next = self.clone();
        next.layers.pop();
        next.layers.push(Arc::new(Layer::new(state)));
        next
    }

    /// What is in the layers now.
    pub(crate) fn views(&self) -> Vec<LayerView> {
        self.layers.iter().map(Layer::view).collect()
    }

    /// State after the newest batch.
    pub(crate) fn state(&self) -> Option<VbucketStateRecord> {
        self.active().map(|layer| layer.view().state().clone())
    }

    /// What the vbucket was before the first unsealed item, with what layers know of the time before.
    pub(crate) fn base(views: &[LayerView]) -> Vec<Watermarks> {
        last_at_each_seqno(before_items(views))
    }

    /// What layers know of the time before the first item that is in no segment.
    pub(crate) fn before_unsealed(&self) -> Vec<Watermarks> {
        before_items(&self.views()).collect()
    }

    /// Bytes that are in no segment yet, as layers count them.
    pub(crate) fn unsealed_bytes(&self) -> u64 {
        self.layers.iter().map(|layer| layer.bytes()).sum()
    }

    /// The place in the log from which on this version needs it, if it does.
    pub(crate) fn log_begin(&self) -> Option<LogPosition> {
        let begins = self.layers.iter().filter_map(|layer| layer.begin());
        begins.min_by_key(|position| position.sequence)
    }

    /// The newest version of a key in the segments, unless it is dead.
    pub(crate) fn find_sealed(
        &self,
        namespace: Namespace,
        key: &[u8],
        patience: Patience,
    ) -> Result<Option<(&SegmentView, FoundEntry)>, StorageError> {
        if self.segments.is_empty() {
            return Ok(None);
        }
        let key = IndexKey::new(namespace, key);
        let hash = hash(key.as_bytes());
        for view in self.segments.iter().rev() {
            if !view.segment.may_hold(hash) {
                continue;
            }
            if let Some(found) = view.segment.find(key.as_bytes(), view.high(), patience)? {
                // A version found dead was superseded by one that is gone itself: the key is empty.
                return Ok((!view.dead.contains(found.seqno.0)).then_some((view, found)));
            }
        }
        Ok(None)
    }

    /// The newest version of a key, as `views` of the layers and the segments have it.
    pub(crate) fn get(
        &self,
        views: &[LayerView],
        namespace: Namespace,
        key: &[u8],
        patience: Patience,
    ) -> Result<Option<Item>, StorageError> {
        for view in views.iter().rev() {
            let found = match patience {
                Patience::Waits => view.find(namespace, key),
                Patience::AtOnce => view.find_at_once(namespace, key)?,
            };
            if let Some(item) = found {
                patience.allows(item.document.value.len())?;
                return Ok(Some(Item::clone(&item)));
            }
        }
        match self.find_sealed(namespace, key, patience)? {
            Some((view, found)) => view
                .segment
                .read_record(found.location, found.seqno, patience)
                .map(Some),
            None => Ok(None),
        }
    }

    /// Counts as of `views`.
    pub(crate) fn counts_with(&self, views: &[LayerView]) -> Result<VbucketCounts, StorageError> {
        let mut counts = VbucketCounts::clone(&self.counts);
        for (number, view) in views.iter().enumerate() {
            let older = views.get(..number).unwrap_or_default();
            let changes = view.count_changes(self.purges, &mut |namespace, key| {
                let unsealed = older
                    .iter()
                    .rev()
                    .find_map(|view| view.find(namespace, key));
                if let Some(item) = unsealed {
                    return Ok(Some(Weight::of(&item)));
                }
                let found = self.find_sealed(namespace, key, Patience::Waits)?;
                Ok(found.map(|(_, found)| found.weight(namespace)))
            })?;
            counts.apply(&changes);
        }
        Ok(counts)
    }
}

impl IndexEntry<'_> {
    /// What the version it stands for counts.
    pub(crate) fn weight(&self, namespace: Namespace) -> Weight {
        Weight {
            namespace,
            is_tombstone: self.is_tombstone,
            user_bytes: self.user_bytes,
        }
    }
}

impl FoundEntry {
    /// What the version it stands for counts.
    pub(crate) fn weight(&self, namespace: Namespace) -> Weight {
        Weight {
            namespace,
            is_tombstone: self.is_tombstone,
            user_bytes: self.user_bytes,
        }
    }
}

/// Of states one after another, the last at each high seqno: the ends of batches, as rollback and point-in-time
/// reads need them.
pub(crate) fn last_at_each_seqno(marks: impl IntoIterator<Item = Watermarks>) -> Vec<Watermarks> {
    let mut boundaries: Vec<Watermarks> = Vec::new();
    for mark in marks {
        match boundaries.last_mut() {
            Some(last) if last.high_seqno == mark.high_seqno => *last = mark,
            _ => boundaries.push(mark),
        }
    }
    boundaries
}

/// The marks before the first item.
fn before_items(views: &[LayerView]) -> impl Iterator<Item = Watermarks> {
    let first = views.iter().flat_map(LayerView::items).next();
    let first = first.map_or(Seqno::MAX, |item| item.seqno);
    let marks = views.iter().flat_map(LayerView::boundaries);
    marks.take_while(move |mark| mark.high_seqno < first)
}

/// Marks the victims of a kill list, sorted by victim, dead, each in the segment that holds it.
pub(crate) fn apply_kills(segments: &mut [SegmentView], kills: &[Kill]) {
    let mut kills = kills.iter().peekable();
    for view in segments {
        let (first, last) = (view.segment.meta().first_seqno, view.high());
        while let Some(kill) = kills.next_if(|kill| kill.victim <= last) {
            if kill.victim >= first {
                view.kill(kill.victim, kill.victim_bytes);
            }
        }
    }
}
