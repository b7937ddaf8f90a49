//! The model of one vbucket: every version it ever took, in a list.
//!
//! Invariant: nothing is cached. What is newest, what counts, what was at an earlier seqno is worked out anew from
//! the list each time, so that the model has no bookkeeping to get wrong. It shares no code with any store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use piggin_storage::{
    Batch, CollectionCounts, CollectionId, DroppedCollection, Incarnation, Item, KeyRange,
    Namespace, Operation, RollbackEpoch, Seqno, SeqnoRange, SnapshotRange, SystemEvent,
    VbucketCounts, VbucketId, VbucketIdentity, VbucketPosition, VbucketStateRecord, Watermarks,
};

use crate::support::without_hint;

pub(crate) type Slot = (Namespace, Vec<u8>);

pub(crate) fn slot(item: &Item) -> Slot {
    (item.namespace(), item.document.key.as_encoded().to_vec())
}

#[derive(Clone)]
pub(super) struct Version {
    pub(super) item: Item,
    /// A seal allowed the store to drop it.
    may_be_gone: bool,
}

/// What a vbucket should be.
#[derive(Clone)]
pub(crate) struct ModelVbucket {
    pub(crate) vbucket: VbucketId,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: RollbackEpoch,
    pub(crate) state: VbucketStateRecord,
    pub(super) versions: Vec<Version>,
    /// The watermarks every commit left, in order.
    pub(super) boundaries: Vec<Watermarks>,
    /// Below this, what it held is not known to anybody.
    known_from: Seqno,
    /// Below this, a compaction took away what was there, if anything was.
    pub(super) purged_from: Seqno,
    /// The lowest item there ever was.
    first_item: Option<Seqno>,
    /// Below this, what it held may have been forgotten with versions that a compaction took away since.
    pub(super) vague_from: Seqno,
    pub(super) dropped: Vec<DroppedCollection>,
    /// Where each collection ended last.
    pub(super) ends: BTreeMap<CollectionId, Seqno>,
    /// How long what was superseded is kept, whatever a seal or compaction is asked; and what time it is.
    window_ms: Option<u64>,
    pub(crate) now_ms: u64,
}

/// What a snapshot of one moment must answer.
#[derive(Clone)]
pub(crate) struct Expected {
    pub(crate) vbucket: VbucketId,
    pub(crate) incarnation: Incarnation,
    pub(crate) epoch: RollbackEpoch,
    pub(crate) state: VbucketStateRecord,
    /// Newest versions, by seqno.
    pub(crate) items: Vec<Item>,
    pub(crate) counts: VbucketCounts,
    pub(crate) dropped: Vec<DroppedCollection>,
}

impl Expected {
    pub(crate) fn in_seqnos(&self, range: SeqnoRange) -> Vec<Item> {
        let wanted = |item: &&Item| range.contains(item.seqno);
        self.items.iter().filter(wanted).cloned().collect()
    }

    pub(crate) fn in_keys(&self, range: &KeyRange) -> Vec<Item> {
        let wanted = |item: &&Item| {
            let key = item.document.key.as_encoded();
            item.namespace() == range.namespace
                && range.first.as_slice() <= key
                && range.end.as_ref().is_none_or(|end| key < end.as_slice())
        };
        let mut items: Vec<Item> = self.items.iter().filter(wanted).cloned().collect();
        items.sort_by_key(slot);
        items
    }

    pub(crate) fn get(&self, wanted: &Slot) -> Option<Item> {
        let item = self.items.iter().find(|item| slot(item) == *wanted);
        item.cloned()
    }
}

impl ModelVbucket {
    pub(crate) fn new(
        vbucket: VbucketId,
        incarnation: Incarnation,
        state: VbucketStateRecord,
    ) -> ModelVbucket {
        ModelVbucket {
            vbucket,
            incarnation,
            epoch: RollbackEpoch(0),
            versions: Vec::new(),
            boundaries: vec![state.watermarks],
            known_from: state.watermarks.high_seqno,
            purged_from: Seqno::ZERO,
            first_item: None,
            vague_from: Seqno::ZERO,
            dropped: Vec::new(),
            ends: BTreeMap::new(),
            window_ms: None,
            now_ms: state.watermarks.commit_time_ms,
            state,
        }
    }

    /// The same, of a store that keeps a history.
    pub(crate) fn keeping(self, window_ms: Option<u64>) -> ModelVbucket {
        ModelVbucket { window_ms, ..self }
    }

    /// The floor up to which something may go when `asked` is asked for.
    pub(super) fn floor(&self, asked: Seqno) -> Seqno {
        let Some(window_ms) = self.window_ms else {
            return asked;
        };
        let Some(cutoff) = self.now_ms.checked_sub(window_ms) else {
            return Seqno::ZERO;
        };
        asked.min(self.seqno_at(cutoff).unwrap_or_default())
    }

    /// The high seqno of the last commit at or before that time.
    pub(crate) fn seqno_at(&self, time_ms: u64) -> Option<Seqno> {
        let mut newest_first = self.boundaries.iter().rev();
        let found = newest_first.find(|boundary| boundary.commit_time_ms <= time_ms);
        found.map(|boundary| boundary.high_seqno)
    }

    /// When the batch with the item at `seqno` was committed.
    pub(crate) fn committed_at(&self, seqno: Seqno) -> u64 {
        let mut boundaries = self.boundaries.iter();
        let mark = boundaries.find(|boundary| boundary.high_seqno >= seqno);
        mark.unwrap().commit_time_ms
    }

    /// Whether there is no version above `after` up to `to`.
    pub(crate) fn nothing_between(&self, after: Seqno, to: Seqno) -> bool {
        let mut seqnos = self.versions.iter().map(|version| version.item.seqno);
        !seqnos.any(|seqno| seqno > after && seqno <= to)
    }

    /// Every version.
    pub(crate) fn all(&self) -> impl Iterator<Item = Item> {
        self.versions.iter().map(|version| version.item.clone())
    }

    pub(crate) fn high_seqno(&self) -> Seqno {
        self.state.watermarks.high_seqno
    }

    pub(crate) fn position(&self) -> VbucketPosition {
        VbucketPosition {
            incarnation: self.incarnation,
            epoch: self.epoch,
            high_seqno: self.high_seqno(),
        }
    }

    pub(crate) fn expected(&self) -> Expected {
        let mut seen = BTreeSet::new();
        let newest_first = self.versions.iter().rev().map(|version| &version.item);
        let newest = newest_first.filter(|item| seen.insert(slot(item)));
        let mut items: Vec<Item> = newest.map(|item| without_hint(item.clone())).collect();
        items.reverse();
        Expected {
            vbucket: self.vbucket,
            incarnation: self.incarnation,
            epoch: self.epoch,
            state: self.state.clone(),
            counts: counts_of(&items),
            dropped: self.dropped.clone(),
            items,
        }
    }

    /// Newest version of a slot.
    pub(crate) fn newest(&self, wanted: &Slot) -> Option<&Item> {
        let newest_first = self.versions.iter().rev().map(|version| &version.item);
        newest_first.into_iter().find(|item| slot(item) == *wanted)
    }

    pub(crate) fn commit(&mut self, batch: &Batch) {
        for item in &batch.items {
            if let Ok(SystemEvent::CollectionEnd {
                collection, start, ..
            }) = SystemEvent::of(item)
            {
                let end = item.seqno;
                self.ends.insert(collection, end);
                self.dropped.push(DroppedCollection {
                    collection,
                    start,
                    end,
                });
            }
            self.first_item.get_or_insert(item.seqno);
            self.versions.push(Version {
                item: Item::clone(item),
                may_be_gone: false,
            });
        }
        if let Some(identity) = &batch.identity {
            self.state.identity = Arc::clone(identity);
        }
        let before = self.state.watermarks;
        let mut after = batch.watermarks;
        after.purge_seqno = after.purge_seqno.max(before.purge_seqno);
        after.commit_time_ms = if batch.items.is_empty() {
            before.commit_time_ms
        } else {
            after.commit_time_ms.max(before.commit_time_ms)
        };
        self.now_ms = self.now_ms.max(after.commit_time_ms);
        self.state.watermarks = after;
        self.boundaries.push(after);
    }

    pub(crate) fn seal(&mut self, floor: Seqno) {
        let floor = self.floor(floor);
        for (place, killer) in self.killers().into_iter().enumerate() {
            let version = &mut self.versions[place];
            version.may_be_gone |= killer.is_some_and(|killer| killer <= floor);
        }
    }

    /// Whether an exact rollback to `to` may be refused, and a reset given instead.
    pub(crate) fn may_forget(&self, to: Seqno) -> bool {
        self.must_forget(to) || to < self.vague_below()
    }

    /// Below this something may have been forgotten.
    fn vague_below(&self) -> Seqno {
        let gone = self.versions.iter().zip(self.killers());
        let gone = gone.filter(|(version, _)| version.may_be_gone);
        let highest_killer = gone.filter_map(|(_, killer)| killer).max();
        let vague_from = highest_killer.unwrap_or_default().max(self.vague_from);
        vague_from.max(self.purged_from)
    }

    pub(crate) fn must_forget(&self, to: Seqno) -> bool {
        let was_something = self.first_item.is_some_and(|first| first <= to);
        to < self.known_from || (to < self.purged_from && was_something)
    }

    /// Goes back to nothing.
    pub(crate) fn reset(&mut self, epoch: RollbackEpoch) {
        self.epoch = epoch;
        self.versions.clear();
        self.state = VbucketStateRecord {
            identity: self.identity_at(Seqno::ZERO),
            watermarks: Watermarks {
                commit_time_ms: self.state.watermarks.commit_time_ms,
                ..Watermarks::default()
            },
        };
        self.boundaries = vec![self.state.watermarks];
        self.known_from = Seqno::ZERO;
        self.purged_from = Seqno::ZERO;
        self.first_item = None;
        self.vague_from = Seqno::ZERO;
        self.dropped.clear();
        self.ends.clear();
    }

    /// Goes back to `to`; `actual` is what the store says it is then, which is checked and taken over, because
    /// how far prepares are known to be completed depends on what the store still held.
    pub(crate) fn rollback(&mut self, to: Seqno, epoch: RollbackEpoch, actual: &Watermarks) {
        self.epoch = epoch;
        if to == self.high_seqno() {
            assert_eq!(*actual, self.state.watermarks);
            return;
        }
        let vague_below = self.vague_below();
        self.versions.retain(|version| version.item.seqno <= to);
        for (place, killer) in self.killers().into_iter().enumerate() {
            // Its killer was taken back, so it was still there.
            self.versions[place].may_be_gone &= killer.is_some();
        }
        let mut later = self.boundaries.iter();
        let next = later.find(|boundary| boundary.high_seqno > to);
        let mut since_ms = next.map_or(0, |next| next.commit_time_ms);
        let before = self.boundaries.iter().rev();
        let before = before.map(|boundary| boundary.high_seqno);
        let before = before.filter(|high| *high <= to).max();
        if to < vague_below || self.nothing_between(before.unwrap_or_default(), to) {
            // The end of the batch may be forgotten, too, and a later one be the next; or the end of a batch of which
            // a rollback left nothing.
            since_ms = since_ms.max(actual.commit_time_ms);
        }
        self.boundaries.retain(|boundary| boundary.high_seqno <= to);
        self.dropped.retain(|one| one.end <= to);
        self.ends.retain(|_, end| *end <= to);
        self.vague_from = self.vague_from.min(to);
        self.purged_from = self.purged_from.min(to);
        self.first_item = self.first_item.filter(|first| *first <= to);
        let purge_seqno = self.state.watermarks.purge_seqno;
        let (least, most) = self.watermarks_at(to, purge_seqno, since_ms);
        assert!(least.prepared_seqno <= actual.prepared_seqno);
        assert!(actual.prepared_seqno <= most.prepared_seqno);
        assert!(least.completed_seqno <= actual.completed_seqno);
        assert!(actual.completed_seqno <= most.completed_seqno);
        let expected = Watermarks {
            prepared_seqno: actual.prepared_seqno,
            completed_seqno: actual.completed_seqno,
            ..most
        };
        assert_eq!(*actual, expected, "watermarks after a rollback to {to}");
        self.state = VbucketStateRecord {
            identity: self.identity_at(to),
            watermarks: expected,
        };
        self.boundaries.push(expected);
    }

    /// Watermarks after a rollback to `to`, if only what must be held tells, and if everything does.
    fn watermarks_at(
        &self,
        to: Seqno,
        purge_seqno: Seqno,
        since_ms: u64,
    ) -> (Watermarks, Watermarks) {
        let boundary = *self.boundaries.last().unwrap();
        let mut most = Watermarks {
            high_seqno: to,
            purge_seqno,
            ..boundary
        };
        if to > boundary.high_seqno {
            // Whole is what was whole at the batch before, and again all there was.
            let before = self.state.watermarks;
            let is_whole = boundary.snapshot.end <= boundary.high_seqno;
            let whole = [boundary.snapshot.start, boundary.high_seqno][usize::from(is_whole)];
            most.snapshot = SnapshotRange {
                start: whole,
                end: before.snapshot.end.max(before.high_seqno),
            };
            most.snapshot_kind = before.snapshot_kind;
            most.commit_time_ms = since_ms;
        }
        let mut least = most;
        let above = |version: &&Version| version.item.seqno > boundary.high_seqno;
        for version in self.versions.iter().filter(above) {
            advance(&mut most, &version.item);
            if !version.may_be_gone {
                advance(&mut least, &version.item);
            }
        }
        (least, most)
    }

    fn identity_at(&self, to: Seqno) -> Arc<VbucketIdentity> {
        let mut identity = VbucketIdentity::clone(&self.state.identity);
        identity.failover_table.prune(to);
        Arc::new(identity)
    }

    /// Takes away the versions that `goes` names.
    pub(super) fn take_away(&mut self, goes: impl Fn(&Item) -> bool) {
        let killers = self.killers();
        for (version, killer) in self.versions.iter().zip(killers) {
            if version.may_be_gone && goes(&version.item) {
                self.vague_from = self.vague_from.max(killer.unwrap_or_default());
            }
        }
        self.versions.retain(|version| !goes(&version.item));
    }

    /// For every version, the one that superseded it.
    fn killers(&self) -> Vec<Option<Seqno>> {
        let mut newer: BTreeMap<Slot, Seqno> = BTreeMap::new();
        let newest_first = self.versions.iter().rev();
        let killers =
            newest_first.map(|version| newer.insert(slot(&version.item), version.item.seqno));
        let mut killers: Vec<Option<Seqno>> = killers.collect();
        killers.reverse();
        killers
    }
}

fn advance(watermarks: &mut Watermarks, item: &Item) {
    if item.namespace() != Namespace::Prepared {
        watermarks.max_visible_seqno = watermarks.max_visible_seqno.max(item.seqno);
    }
    if matches!(item.operation, Operation::Prepare { .. }) {
        watermarks.prepared_seqno = watermarks.prepared_seqno.max(item.seqno);
    }
    if let Operation::CommitMutation { prepare_seqno }
    | Operation::CommitDeletion { prepare_seqno, .. }
    | Operation::Abort { prepare_seqno, .. } = item.operation
    {
        watermarks.prepared_seqno = watermarks.prepared_seqno.max(prepare_seqno);
        watermarks.completed_seqno = watermarks.completed_seqno.max(prepare_seqno);
    }
}

/// The figures of these newest versions.
pub(crate) fn counts_of(items: &[Item]) -> VbucketCounts {
    let mut counts = VbucketCounts::default();
    for item in items {
        let collection = item.document.key.collection();
        let figures = counts.collections.entry(collection).or_default();
        add(figures, item);
    }
    counts
}

fn add(figures: &mut CollectionCounts, item: &Item) {
    let bytes = item.document.key.as_encoded().len() + item.document.value.len();
    let bytes = i64::try_from(bytes).unwrap();
    figures.high_seqno = figures.high_seqno.max(item.seqno);
    match item.operation {
        Operation::Mutation | Operation::CommitMutation { .. } => {
            figures.documents += 1;
            figures.document_bytes += bytes;
        }
        Operation::Deletion { .. } | Operation::CommitDeletion { .. } => figures.tombstones += 1,
        Operation::Prepare { .. } => {
            figures.prepares += 1;
            figures.prepare_bytes += bytes;
        }
        Operation::Abort { .. } => figures.aborts += 1,
        Operation::SystemEventBegin | Operation::SystemEventEnd => figures.system_events += 1,
    }
}
