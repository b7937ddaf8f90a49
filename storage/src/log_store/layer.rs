//! A layer: items of one vbucket that are in the log and in memory, but in no segment yet.
//!
//! Invariant: a layer is append-only with a published length, in batches, so a snapshot is `(Arc, number of
//! batches)` and never changes (rule R9). No order by key is kept on the commit path; the index is built by the
//! first reader that needs it and extended by later ones.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashTable;
use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::counts::{VbucketCounts, Weight};
use crate::document::{Item, Namespace, Predecessor};
use crate::error::StorageError;
use crate::log_store::append_log::AppendLog;
use crate::log_store::log::frame::LogPosition;
use crate::seqno::Seqno;
use crate::vbucket::{VbucketStateRecord, Watermarks};

/// A layer of nothing but states is made anew when it holds this many, so that it does not grow for ever.
const STATES_MAX: usize = 64;
/// Not superseded; no item has this seqno.
const NEVER: u64 = u64::MAX;
/// No older entry of the key in this layer.
const NONE: u32 = u32::MAX;
/// Most entries that a read takes into the index that may not take its time: some tens of microseconds.
const INDEXED_AT_ONCE_MAX: usize = 256;

/// What a batch takes besides its items, once it is in a layer that a seal will take.
const BATCH_BYTES: u64 = size_of::<CommittedBatch>() as u64;

/// Items between two seals.
#[derive(Debug)]
pub(crate) struct Layer {
    /// State before the first batch.
    base: VbucketStateRecord,
    entries: AppendLog<Entry>,
    batches: AppendLog<CommittedBatch>,
    /// How many batches readers may see.
    published: AtomicUsize,
    /// Key and value bytes of the entries, and what the batches take; nothing as long as there are no entries.
    bytes: AtomicU64,
    /// Where in the log the first item lies, or a place before it.
    begin: OnceLock<LogPosition>,
    index: Mutex<Index>,
    counted: Mutex<Counted>,
}

/// Changes of the counts by the first entries of a layer.
#[derive(Clone, Debug, Default)]
struct Counted {
    /// Against segments that were purged so often (`Version::purges`).
    purges: u64,
    entries: usize,
    changes: VbucketCounts,
}

#[derive(Debug)]
struct Entry {
    item: Arc<Item>,
    /// Seqno of the next version of the key in this layer; written when that is indexed.
    superseded_by: AtomicU64,
}

/// End of a batch: what the vbucket was right after it.
#[derive(Debug)]
pub(crate) struct CommittedBatch {
    pub(crate) entries_end: usize,
    pub(crate) state: VbucketStateRecord,
}

impl Layer {
    pub(crate) fn new(base: VbucketStateRecord) -> Layer {
        Layer {
            base,
            entries: AppendLog::default(),
            batches: AppendLog::default(),
            published: AtomicUsize::new(0),
            bytes: AtomicU64::new(0),
            begin: OnceLock::new(),
            index: Mutex::default(),
            counted: Mutex::default(),
        }
    }

    /// Appends a batch and publishes it; the bytes it added. For the shard's writer only. The batch lies at or after
    /// `place` in the log.
    pub(crate) fn append(
        &self,
        items: &[Arc<Item>],
        state: VbucketStateRecord,
        place: LogPosition,
    ) -> u64 {
        let count = self.published.load(Ordering::Relaxed);
        let begin = self.entries_after(count);
        let mut bytes = 0u64;
        for (offset, item) in items.iter().enumerate() {
            bytes = bytes.saturating_add(item.user_bytes());
            let entry = Entry {
                item: Arc::clone(item),
                superseded_by: AtomicU64::new(NEVER),
            };
            self.entries.set(begin.saturating_add(offset), entry);
        }
        if !items.is_empty() {
            self.begin.get_or_init(|| place);
        }
        let entries_end = begin.saturating_add(items.len());
        if entries_end > 0 {
            bytes = bytes.saturating_add(BATCH_BYTES);
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
        self.batches
            .set(count, CommittedBatch { entries_end, state });
        self.published
            .store(count.saturating_add(1), Ordering::Release);
        bytes
    }

    fn entries_after(&self, batches: usize) -> usize {
        let last = batches
            .checked_sub(1)
            .and_then(|index| self.batches.get(index));
        last.map_or(0, |batch| batch.entries_end)
    }

    /// The layer as it is now.
    pub(crate) fn view(self: &Arc<Layer>) -> LayerView {
        let batches = self.published.load(Ordering::Acquire);
        LayerView {
            layer: Arc::clone(self),
            batches,
            entries: self.entries_after(batches),
        }
    }

    /// Bytes that a seal would take off the log and the memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// State before the first batch.
    pub(crate) fn base(&self) -> &VbucketStateRecord {
        &self.base
    }

    /// Where in the log the first item lies (or a place before it), if there is one.
    pub(crate) fn begin(&self) -> Option<LogPosition> {
        self.begin.get().copied()
    }

    /// Whether it holds nothing but states, and so many that it should be made anew.
    pub(crate) fn is_long(&self) -> bool {
        let batches = self.published.load(Ordering::Acquire);
        batches >= STATES_MAX && self.entries_after(batches) == 0
    }
}

/// Finds the weight of a key's newest version in what lies below a layer.
pub(crate) type Below<'f> =
    &'f mut dyn FnMut(Namespace, &[u8]) -> Result<Option<Weight>, StorageError>;

/// A layer up to one of its batches.
#[derive(Clone, Debug)]
pub(crate) struct LayerView {
    layer: Arc<Layer>,
    batches: usize,
    entries: usize,
}

impl LayerView {
    /// State after the last batch of the view.
    pub(crate) fn state(&self) -> &VbucketStateRecord {
        let last = self
            .batches
            .checked_sub(1)
            .and_then(|index| self.layer.batches.get(index));
        last.map_or(&self.layer.base, |batch| &batch.state)
    }

    /// High seqno after the last batch.
    pub(crate) fn high_seqno(&self) -> Seqno {
        self.state().watermarks.high_seqno
    }

    /// The view of what it holds up to `to`: the end of a batch above is not known to it.
    pub(crate) fn up_to(&self, to: Seqno) -> LayerView {
        let whole = |batch: &&CommittedBatch| batch.state.watermarks.high_seqno <= to;
        LayerView {
            layer: Arc::clone(&self.layer),
            batches: self.batches().take_while(whole).count(),
            entries: self.first_at_or_above(to.next()),
        }
    }

    /// How many items.
    pub(crate) fn len(&self) -> usize {
        self.entries
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries == 0
    }

    pub(crate) fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }

    /// Every item, by rising seqno, superseded ones too.
    pub(crate) fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.layer
            .entries
            .range(0..self.entries)
            .map(|entry| &entry.item)
    }

    /// Item number `index`.
    pub(crate) fn item(&self, index: usize) -> Option<&Arc<Item>> {
        self.layer
            .entries
            .get(index)
            .filter(|_| index < self.entries)
            .map(|entry| &entry.item)
    }

    /// Every batch.
    pub(crate) fn batches(&self) -> impl Iterator<Item = &CommittedBatch> {
        self.layer.batches.range(0..self.batches)
    }

    /// What the vbucket was before the first batch, and after each.
    pub(crate) fn boundaries(&self) -> impl Iterator<Item = Watermarks> {
        let base = std::iter::once(self.layer.base.watermarks);
        base.chain(self.batches().map(|batch| batch.state.watermarks))
    }

    /// Number of the first item with a seqno at or above `seqno`.
    pub(crate) fn first_at_or_above(&self, seqno: Seqno) -> usize {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low.midpoint(high);
            if self.item(middle).is_some_and(|item| item.seqno < seqno) {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        low
    }

    fn high(&self) -> u64 {
        self.entries
            .checked_sub(1)
            .and_then(|last| self.item(last))
            .map_or(0, |i| i.seqno.0)
    }

    /// Whether item number `index` is the newest of its key within this view. Call `ensure_index` before.
    pub(crate) fn is_newest(&self, index: usize) -> bool {
        let superseded_by = |entry: &Entry| entry.superseded_by.load(Ordering::Acquire);
        self.layer.entries.get(index).map_or(NEVER, superseded_by) > self.high()
    }

    /// The newest version of a key within this view.
    pub(crate) fn find(&self, namespace: Namespace, key: &[u8]) -> Option<Arc<Item>> {
        if self.is_empty() {
            return None;
        }
        let entry = self.indexed(|index| self.newest(index, namespace, key))?;
        self.item(entry).cloned()
    }

    /// The same without waiting for others, or indexing much.
    pub(crate) fn find_at_once(
        &self,
        namespace: Namespace,
        key: &[u8],
    ) -> Result<Option<Arc<Item>>, StorageError> {
        if self.is_empty() {
            return Ok(None);
        }
        let index = self.layer.index.try_lock();
        let mut index = index.ok_or(StorageError::WouldWait)?;
        if self.entries.saturating_sub(index.older.len()) > INDEXED_AT_ONCE_MAX {
            return Err(StorageError::WouldWait);
        }
        self.bring_up(&mut index);
        let entry = self.newest(&index, namespace, key);
        drop(index);
        Ok(entry.and_then(|entry| self.item(entry).cloned()))
    }

    fn newest(&self, index: &Index, namespace: Namespace, key: &[u8]) -> Option<usize> {
        let slot = index.slot(&self.layer, namespace, key)?;
        let mut entry = slot.newest;
        while entry != NONE && entry as usize >= self.entries {
            entry = index.older.get(entry as usize).copied().unwrap_or(NONE);
        }
        (entry != NONE).then_some(entry as usize)
    }

    /// Every version of a key in this view, newest first.
    pub(crate) fn versions(&self, namespace: Namespace, key: &[u8]) -> Vec<Arc<Item>> {
        if self.is_empty() {
            return Vec::new();
        }
        let numbers = self.indexed(|index| {
            let mut numbers = Vec::new();
            let mut entry = index
                .slot(&self.layer, namespace, key)
                .map_or(NONE, |slot| slot.newest);
            while entry != NONE {
                numbers.push(entry as usize);
                entry = index.older.get(entry as usize).copied().unwrap_or(NONE);
            }
            numbers
        });
        let items = numbers.into_iter().filter_map(|number| self.item(number));
        items.cloned().collect()
    }

    /// Whether nothing below this view can be superseded by it.
    pub(crate) fn kills_nothing(&self) -> bool {
        self.is_empty() || self.indexed(|index| index.kills.is_empty() && index.unknown == 0)
    }

    /// Whether this view holds a newer version of the item at `victim`, which lies below it.
    pub(crate) fn supersedes(&self, namespace: Namespace, key: &[u8], victim: Seqno) -> bool {
        let high = self.high();
        self.indexed(|index| {
            if index
                .kills
                .get(&victim.0)
                .is_some_and(|killer| *killer <= high)
            {
                return true;
            }
            if index.unknown == 0 {
                return false;
            }
            let slot = index.slot(&self.layer, namespace, key);
            slot.is_some_and(|slot| (slot.oldest as usize) < self.entries)
        })
    }

    /// Keys of a namespace with a version in this view, with the number of the newest, by rising key.
    pub(crate) fn newest_by_key(
        &self,
        namespace: Namespace,
        wants: impl Fn(&[u8]) -> bool,
    ) -> BTreeMap<Box<[u8]>, Arc<Item>> {
        let mut newest = BTreeMap::new();
        for item in self.items() {
            let key = item.document.key.as_encoded();
            if item.namespace() == namespace && wants(key) {
                newest.insert(key.into(), Arc::clone(item));
            }
        }
        newest
    }

    /// What this view changes in the counts of what lies below it; `below` finds the weight of a key's newest
    /// version there, in segments purged so often. What was counted once is remembered.
    pub(crate) fn count_changes(
        &self,
        purges: u64,
        below: Below<'_>,
    ) -> Result<VbucketCounts, StorageError> {
        let known = self.layer.counted.lock().clone();
        let is_of_use = known.purges == purges && known.entries <= self.entries;
        let known = if is_of_use { known } else { Counted::default() };
        let mut changes = known.changes;
        for index in known.entries..self.entries {
            let Some(item) = self.item(index) else { break };
            let key = &item.document.key;
            let lost = match self.older(index).and_then(|older| self.item(older)) {
                Some(older) => Some(Weight::of(older)),
                None if item.predecessor == Predecessor::Absent => None,
                None => below(item.namespace(), key.as_encoded())?,
            };
            if let Some(weight) = lost {
                changes.lost(key.collection(), weight);
            }
            changes.gained(key.collection(), Weight::of(item), item.seqno);
        }
        let mut remembered = self.layer.counted.lock();
        if (remembered.purges, remembered.entries) < (purges, self.entries) {
            *remembered = Counted {
                purges,
                entries: self.entries,
                changes: changes.clone(),
            };
        }
        Ok(changes)
    }

    /// Number of the next older version of the same key in this layer.
    fn older(&self, entry: usize) -> Option<usize> {
        let older = self.indexed(|index| index.older.get(entry).copied().unwrap_or(NONE));
        (older != NONE).then_some(older as usize)
    }

    /// Builds the index as far as this view reaches.
    pub(crate) fn ensure_index(&self) {
        self.indexed(|_| ());
    }

    /// Runs `f` on the index, which covers at least this view.
    fn indexed<R>(&self, f: impl FnOnce(&Index) -> R) -> R {
        let mut index = self.layer.index.lock();
        self.bring_up(&mut index);
        f(&index)
    }

    fn bring_up(&self, index: &mut Index) {
        while index.older.len() < self.entries {
            index.extend(&self.layer);
        }
    }
}

/// Versions by key, as far as it was built.
#[derive(Debug, Default)]
struct Index {
    slots: HashTable<Slot>,
    /// Per entry: the next older entry of its key, or `NONE`.
    older: Vec<u32>,
    /// Versions below this layer known to be superseded, with the seqno of what supersedes them.
    kills: BTreeMap<u64, u64>,
    /// Keys whose version below this layer, if there is one, is not known.
    unknown: usize,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    oldest: u32,
    newest: u32,
}

impl Index {
    /// Takes the next entry in.
    fn extend(&mut self, layer: &Layer) {
        let number = self.older.len();
        let Some(entry) = layer.entries.get(number) else {
            // Published entries are always there; without this an empty slot would loop for ever.
            self.older.push(NONE);
            return;
        };
        let number = u32::try_from(number).unwrap_or(NONE);
        let (namespace, key) = (entry.item.namespace(), entry.item.document.key.as_encoded());
        let hash = hash_of(namespace, key);
        let found = self
            .slots
            .find_mut(hash, |slot| holds(layer, *slot, namespace, key));
        if let Some(slot) = found {
            let before = slot.newest;
            slot.newest = number;
            self.older.push(before);
            if let Some(before) = layer.entries.get(before as usize) {
                before
                    .superseded_by
                    .store(entry.item.seqno.0, Ordering::Release);
            }
            return;
        }
        match entry.item.predecessor {
            Predecessor::Unknown => self.unknown = self.unknown.saturating_add(1),
            Predecessor::Absent => {}
            Predecessor::At(victim) => {
                self.kills.insert(victim.0, entry.item.seqno.0);
            }
        }
        let slot = Slot {
            oldest: number,
            newest: number,
        };
        self.slots.insert_unique(hash, slot, |slot| {
            layer.entries.get(slot.oldest as usize).map_or(0, |entry| {
                hash_of(entry.item.namespace(), entry.item.document.key.as_encoded())
            })
        });
        self.older.push(NONE);
    }

    fn slot(&self, layer: &Layer, namespace: Namespace, key: &[u8]) -> Option<Slot> {
        let hash = hash_of(namespace, key);
        self.slots
            .find(hash, |slot| holds(layer, *slot, namespace, key))
            .copied()
    }
}

fn holds(layer: &Layer, slot: Slot, namespace: Namespace, key: &[u8]) -> bool {
    layer
        .entries
        .get(slot.oldest as usize)
        .is_some_and(|entry| {
            entry.item.namespace() == namespace && entry.item.document.key.as_encoded() == key
        })
}

fn hash_of(namespace: Namespace, key: &[u8]) -> u64 {
    xxh3_64_with_seed(key, namespace as u64)
}
