//! Every version of every key of one vbucket that is still held.
//!
//! Invariant: of each key the held versions are its newest ones without a gap, and each names the one that
//! superseded it. Appending never changes what was visible at an earlier high seqno, so snapshots share a history
//! with the writer; whatever takes versions away makes a new history instead.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::counts::{VbucketCounts, Weight};
use crate::document::{Item, Namespace, Operation};
use crate::kv_store::KeyRange;
use crate::rollback_state::state_at;
use crate::seqno::{Seqno, SeqnoRange};
use crate::vbucket::{VbucketStateRecord, Watermarks};

/// The versions held, found by seqno and by key.
#[derive(Debug, Default)]
pub(super) struct History {
    versions: BTreeMap<Seqno, Version>,
    /// Seqnos of the versions of a key, rising.
    keys: BTreeMap<Namespace, BTreeMap<Box<[u8]>, Vec<Seqno>>>,
}

/// A version held.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) item: Arc<Item>,
    pub(super) superseded_by: Option<Seqno>,
}

impl Version {
    fn is_newest_at(&self, high: Seqno) -> bool {
        self.superseded_by.is_none_or(|killer| killer > high)
    }
}

impl History {
    /// A history of `items`, which rise in seqno, and what it adds up to.
    pub(super) fn of(items: impl Iterator<Item = Arc<Item>>) -> (History, VbucketCounts) {
        let mut history = History::default();
        let mut counts = VbucketCounts::default();
        for item in items {
            history.append(item, &mut counts);
        }
        (history, counts)
    }

    /// Adds an item above all others.
    pub(super) fn append(&mut self, item: Arc<Item>, counts: &mut VbucketCounts) {
        let seqno = item.seqno;
        let keys = self.keys.entry(item.namespace()).or_default();
        let seqnos = keys
            .entry(item.document.key.as_encoded().into())
            .or_default();
        let before = seqnos.last().and_then(|last| self.versions.get_mut(last));
        if let Some(superseded) = before {
            superseded.superseded_by = Some(seqno);
            counts.lost(
                superseded.item.document.key.collection(),
                weight(&superseded.item),
            );
        }
        seqnos.push(seqno);
        counts.gained(item.document.key.collection(), weight(&item), seqno);
        let superseded_by = None;
        self.versions.insert(
            seqno,
            Version {
                item,
                superseded_by,
            },
        );
    }

    /// The newest version of a key at `high`.
    pub(super) fn newest(
        &self,
        namespace: Namespace,
        key: &[u8],
        high: Seqno,
    ) -> Option<&Arc<Item>> {
        self.newest_of(self.keys.get(&namespace)?.get(key)?, high)
    }

    /// The versions in `range` that are the newest of their keys at `high`, by rising seqno.
    pub(super) fn newest_by_seqno(
        &self,
        range: SeqnoRange,
        high: Seqno,
    ) -> impl Iterator<Item = &Arc<Item>> {
        let last = range.last.min(high);
        // A range that ends before it begins is empty here, but a panic in the map.
        let wanted = (range.first <= last).then(|| self.versions.range(range.first..=last));
        wanted
            .into_iter()
            .flatten()
            .map(|(_, version)| version)
            .filter(move |version| version.is_newest_at(high))
            .map(|version| &version.item)
    }

    /// The versions that are the newest of the keys in `range` at `high`, by rising key.
    pub(super) fn newest_by_key(
        &self,
        range: &KeyRange,
        high: Seqno,
    ) -> impl Iterator<Item = &Arc<Item>> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let first = range.first.as_slice();
        let end = range.end.as_deref();
        let bounds = (Included(first), end.map_or(Unbounded, Excluded));
        let is_empty = end.is_some_and(|end| end <= first);
        let keys = self.keys.get(&range.namespace).filter(|_| !is_empty);
        keys.into_iter()
            .flat_map(move |keys| keys.range::<[u8], _>(bounds))
            .filter_map(move |(_, seqnos)| self.newest_of(seqnos, high))
    }

    /// Every item held in `range`, superseded ones too, by rising seqno.
    pub(super) fn items(&self, range: SeqnoRange) -> impl Iterator<Item = &Arc<Item>> {
        let wanted =
            (range.first <= range.last).then(|| self.versions.range(range.first..=range.last));
        wanted
            .into_iter()
            .flatten()
            .map(|(_, version)| &version.item)
    }

    /// This history without the versions superseded at or below `floor`, and the highest seqno that superseded
    /// one of them; `None` when there are none.
    pub(super) fn without_superseded(&self, floor: Seqno) -> Option<(History, Seqno)> {
        let goes = |version: &Version| version.superseded_by.filter(|killer| *killer <= floor);
        let highest_killer = self.versions.values().filter_map(goes).max()?;
        let (history, _) = self.without(|version| goes(version).is_some());
        Some((history, highest_killer))
    }

    /// This history without the versions that `goes` names, and what it adds up to then.
    pub(super) fn without(&self, goes: impl Fn(&Version) -> bool) -> (History, VbucketCounts) {
        let kept = self.versions.values().filter(|version| !goes(version));
        History::of(kept.map(|version| Arc::clone(&version.item)))
    }

    /// The lowest seqno of a prepare.
    pub(super) fn first_prepare(&self) -> Option<Seqno> {
        let is_prepare = |item: &Item| matches!(item.operation, Operation::Prepare { .. });
        let mut versions = self.versions.iter();
        let first = versions.find(|(_, version)| is_prepare(&version.item));
        first.map(|(seqno, _)| *seqno)
    }

    /// Every version held, by rising seqno.
    pub(super) fn versions(&self) -> impl Iterator<Item = &Version> {
        self.versions.values()
    }

    /// Bytes of keys and values of all versions.
    pub(super) fn bytes(&self) -> u64 {
        let bytes = |version: &Version| version.item.user_bytes();
        self.versions.values().map(bytes).sum()
    }

    fn newest_of(&self, seqnos: &[Seqno], high: Seqno) -> Option<&Arc<Item>> {
        let held = seqnos.partition_point(|seqno| *seqno <= high);
        let seqno = held.checked_sub(1).and_then(|last| seqnos.get(last))?;
        self.versions.get(seqno).map(|version| &version.item)
    }
}

/// What a vbucket of this history and these batch ends was at `to`, which it has reached: its state record, its history up
/// to there and what that adds up to. `None` where no batch end is known at or below.
pub(super) fn past_at(
    held: &History,
    boundaries: &[Watermarks],
    current: &VbucketStateRecord,
    to: Seqno,
) -> Option<(VbucketStateRecord, (History, VbucketCounts))> {
    let ended = boundaries.partition_point(|boundary| boundary.high_seqno <= to);
    let boundary = boundaries.get(ended.checked_sub(1)?)?;
    let since_ms = boundaries.get(ended).map(|next| next.commit_time_ms);
    let above = held.items(SeqnoRange {
        first: boundary.high_seqno.next(),
        last: to,
    });
    let above = above.map(|item| (item.seqno, item.operation));
    let state = state_at(current, boundary, since_ms, above, to);
    let kept = held.items(SeqnoRange {
        first: Seqno::ZERO,
        last: to,
    });
    Some((state, History::of(kept.map(Arc::clone))))
}

fn weight(item: &Item) -> Weight {
    Weight {
        namespace: item.namespace(),
        is_tombstone: item.operation.is_tombstone(),
        user_bytes: item.user_bytes(),
    }
}
