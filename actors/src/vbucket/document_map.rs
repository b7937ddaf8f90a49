//! The documents of one vbucket in memory: the newest version of each key, tombstones included, but for what left memory: whole
//! versions, or values alone, of which a stub stays.
//!
//! Invariant: one pointer per key, and the key lies only in the item it points to; a newer version takes the place of
//! an older one in one step, so a reader sees the one or the other. Whoever changes the map holds the vbucket's lock;
//! readers take only the lock of one shard of the map, and nothing else while they hold it (lock order: vbucket, map).

use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::{DashMap, SharedValue};
use xxhash_rust::xxh3::xxh3_64;

use super::kept::{Held, Kept};
use crate::sync::another_may_come_between;
use crate::sync::atomic::AtomicBool;
use storage::{DocumentKey, Item, Namespace, Seqno};

/// Shards of each vbucket's map. A bucket has at least as many vbuckets as threads that work on it, as a rule 128, so
/// that two threads seldom meet; each shard costs two cache lines, a thousand vbuckets half a MiB.
const SHARDS: usize = 4;

/// How often a random place of the map is looked at. About one look in ten meets a document, in a map of many.
const GUESSES: u32 = 64;

/// Slots that lie together and are looked at in one go, on this processor.
const GROUP: usize = if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
    16
} else {
    8
};
/// Groups looked at while a shard of the map is locked: about a hundred documents.
const GROUPS_AT_ONCE: usize = 8;
/// As many marks a slot may have, by which a key is told from its neighbours.
const MARKS: usize = 128;

/// Where a key lies: computed once, used for the look and for the change behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    hash: u64,
    shard: usize,
}

/// How far a walk over the map is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct MapWalk {
    shard: usize,
    slot: usize,
}

/// What a slot holds: found, and told apart, by the encoded key.
struct Slot(Kept);

impl Slot {
    fn key(&self) -> &[u8] {
        self.0.encoded_key()
    }
}

impl Clone for Slot {
    fn clone(&self) -> Slot {
        Slot(self.0.clone())
    }
}

impl PartialEq for Slot {
    fn eq(&self, other: &Slot) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Slot {}

impl Hash for Slot {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(xxh3_64(self.key()));
    }
}

/// Hands on the hash a [`Slot`] gives. The hash is the same in every run: replay depends on it.
#[derive(Clone, Copy, Debug, Default)]
struct PassOn(u64);

impl BuildHasher for PassOn {
    type Hasher = PassOn;

    fn build_hasher(&self) -> PassOn {
        PassOn(0)
    }
}

impl Hasher for PassOn {
    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64(bytes);
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The map.
pub(super) struct DocumentMap {
    slots: DashMap<Slot, (), PassOn>,
    // Counted under a shard's lock, and nothing hangs on them.
    documents: AtomicU64,
    stubs: AtomicU64,
    tombstones: AtomicU64,
    bytes: AtomicU64,
    /// Whether every key the store holds, tombstones too, is here (or, while warming, will be).
    is_complete: AtomicBool,
    /// Whether the store may hold a live document that is not here.
    lacks_documents: AtomicBool,
}

/// What is in the map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapFigures {
    /// Live documents; of an expired one, too, until it is deleted.
    pub documents: u64,
    /// Those of them whose value is on disk alone.
    pub stubs: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Bytes of the items, as they are charged.
    pub bytes: u64,
}

impl DocumentMap {
    pub(super) fn new() -> DocumentMap {
        DocumentMap {
            slots: DashMap::with_capacity_and_hasher_and_shard_amount(0, PassOn(0), SHARDS),
            documents: AtomicU64::new(0),
            stubs: AtomicU64::new(0),
            tombstones: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            is_complete: AtomicBool::new(true),
            lacks_documents: AtomicBool::new(false),
        }
    }

    /// Where `key` (encoded) lies, or would.
    pub(super) fn place(&self, key: &[u8]) -> Place {
        let hash = xxh3_64(key);
        // Where a word is short, half of the hash chooses the shard.
        let word = usize::try_from(hash).or_else(|_| usize::try_from(hash >> 32));
        Place {
            hash,
            shard: self.slots.determine_shard(word.unwrap_or(0)),
        }
    }

    /// Reads what lies at `key`, tombstones too; the map's shard is locked meanwhile.
    pub(super) fn read<R>(
        &self,
        place: Place,
        key: &[u8],
        read: impl FnOnce(Held<'_>) -> R,
    ) -> Option<R> {
        another_may_come_between();
        let shard = self.slots.shards().get(place.shard)?.read();
        let (slot, _) = shard.get(place.hash, |(slot, _)| slot.key() == key)?;
        Some(read(slot.0.held()))
    }

    /// What lies at `key`, tombstones too.
    pub(super) fn get(&self, place: Place, key: &[u8]) -> Option<Kept> {
        another_may_come_between();
        let shard = self.slots.shards().get(place.shard)?.read();
        let (slot, _) = shard.get(place.hash, |(slot, _)| slot.key() == key)?;
        Some(slot.0.clone())
    }

    /// Puts a version in the place of the one before it, which is returned.
    pub(super) fn put(&self, place: Place, item: Arc<Item>) -> Option<Kept> {
        debug_assert_eq!(item.namespace(), Namespace::Committed, "another slot");
        let kept = Kept::whole(item);
        self.count(&kept);
        let before = self.exchange(place, kept)?;
        self.discount(&before);
        Some(before)
    }

    fn exchange(&self, place: Place, kept: Kept) -> Option<Kept> {
        another_may_come_between();
        let mut shard = self.slots.shards().get(place.shard)?.write();
        let key = kept.encoded_key();
        if let Some((slot, _)) = shard.get_mut(place.hash, |(slot, _)| slot.key() == key) {
            return Some(std::mem::replace(&mut slot.0, kept));
        }
        let slot = (Slot(kept), SharedValue::new(()));
        shard.insert(place.hash, slot, |(slot, _)| xxh3_64(slot.key()));
        None
    }

    /// Puts a version from the store, unless there is one of its key already (rule R21).
    pub(super) fn insert_if_absent(&self, kept: Kept) -> bool {
        let place = self.place(kept.encoded_key());
        let Some(shard) = self.slots.shards().get(place.shard) else {
            return false;
        };
        another_may_come_between();
        let mut shard = shard.write();
        let key = kept.encoded_key();
        if shard
            .get(place.hash, |(slot, _)| slot.key() == key)
            .is_some()
        {
            return false;
        }
        self.count(&kept);
        let slot = (Slot(kept), SharedValue::new(()));
        shard.insert(place.hash, slot, |(slot, _)| xxh3_64(slot.key()));
        true
    }

    /// Has the value of a version that was found by a walk leave, if it is still there and nobody but the map has it: then its
    /// memory is free with what is returned. Its stub stays.
    pub(super) fn take_value(&self, place: Place, seqno: Seqno) -> Option<Bytes> {
        another_may_come_between();
        let mut shard = self.slots.shards().get(place.shard)?.write();
        let is_it = |(slot, _): &(Slot, SharedValue<()>)| slot.0.seqno() == seqno;
        let (slot, _) = shard.get_mut(place.hash, is_it)?;
        let value = slot.0.take_value()?;
        self.stubs.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_sub(value.len() as u64, Ordering::Relaxed);
        Some(value)
    }

    /// Takes out a tombstone if it is still the newest of its key. From then on the map is not complete.
    pub(super) fn drop_tombstone(&self, key: &[u8], seqno: Seqno) -> Option<Kept> {
        // Before it is gone, so that nobody takes its absence for the store's.
        self.is_complete.store(false, Ordering::Relaxed);
        self.remove_if(key, |kept| kept.seqno() == seqno && kept.meta().is_deleted)
    }

    /// Takes out a version that was found by a walk, if it is still there and nobody but the map has it: then its memory is
    /// free. From then on the map lacks documents.
    pub(super) fn evict(&self, place: Place, seqno: Seqno) -> Option<Kept> {
        // Before it is gone, as above.
        self.set_lacking();
        another_may_come_between();
        let mut shard = self.slots.shards().get(place.shard)?.write();
        let is_it = |(slot, _): &(Slot, SharedValue<()>)| {
            // Whoever gets hold of it gets it from here, under this lock.
            slot.0.seqno() == seqno && slot.0.is_held_alone()
        };
        let (Slot(kept), _) = shard.remove_entry(place.hash, is_it)?;
        self.discount(&kept);
        Some(kept)
    }

    /// Looks at some more versions, each at least once until the walk is at its end, but for those that are put in
    /// meanwhile. Whether there are more. `visit` runs with a shard of the map locked.
    pub(super) fn walk(&self, walk: &mut MapWalk, mut visit: impl FnMut(Held<'_>)) -> bool {
        another_may_come_between();
        let Some(shard) = self.slots.shards().get(walk.shard) else {
            return false;
        };
        let shard = shard.read();
        let end = walk
            .slot
            .saturating_add(GROUP.saturating_mul(GROUPS_AT_ONCE));
        for slot in (walk.slot..end.min(shard.buckets())).step_by(GROUP) {
            for mark in 0..MARKS {
                // A look for a key of this hash, which nothing is found to be, comes past all those of its mark.
                let hash = slot | (mark << (usize::BITS - 7));
                shard.get(hash as u64, |(slot, _)| {
                    visit(slot.0.held());
                    false
                });
            }
        }
        *walk = if end < shard.buckets() {
            MapWalk { slot: end, ..*walk }
        } else {
            MapWalk {
                shard: walk.shard.saturating_add(1),
                slot: 0,
            }
        };
        walk.shard < SHARDS
    }

    /// Takes out a version if it is still the newest of its key. What the map knows of the store is not touched: that is
    /// for whoever knows that the key is never asked for again.
    pub(super) fn remove(&self, key: &[u8], seqno: Seqno) -> Option<Kept> {
        self.remove_if(key, |kept| kept.seqno() == seqno)
    }

    fn remove_if(&self, key: &[u8], is_it: impl Fn(&Kept) -> bool) -> Option<Kept> {
        let place = self.place(key);
        another_may_come_between();
        let mut shard = self.slots.shards().get(place.shard)?.write();
        let is_it = |(slot, _): &(Slot, SharedValue<()>)| slot.key() == key && is_it(&slot.0);
        let (Slot(kept), _) = shard.remove_entry(place.hash, is_it)?;
        self.discount(&kept);
        Some(kept)
    }

    /// Empties the map. It counts as complete again: it is to be loaded anew. What was in it is freed by whoever drops
    /// what this returns, which takes as long as there were documents: outside the vbucket's lock.
    #[must_use = "dropped, it is freed here"]
    pub(super) fn clear(&self) -> impl Sized + use<> {
        let shards = self.slots.shards().iter();
        let emptied: Vec<_> = shards
            .map(|shard| std::mem::take(&mut *shard.write()))
            .collect();
        for figure in [&self.documents, &self.stubs, &self.tombstones, &self.bytes] {
            figure.store(0, Ordering::Relaxed);
        }
        self.is_complete.store(true, Ordering::Relaxed);
        self.lacks_documents.store(false, Ordering::Relaxed);
        emptied
    }

    /// Says that the store holds keys that are not here.
    pub(super) fn set_incomplete(&self) {
        self.is_complete.store(false, Ordering::Relaxed);
    }

    /// Whether a key that is not here is not in the store either (once loading is done).
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }

    /// Says that the store holds live documents that are not here.
    pub(super) fn set_lacking(&self) {
        self.is_complete.store(false, Ordering::Relaxed);
        self.lacks_documents.store(true, Ordering::Relaxed);
    }

    /// Whether the store may hold a live document that is not here.
    pub(super) fn lacks_documents(&self) -> bool {
        self.lacks_documents.load(Ordering::Relaxed)
    }

    /// One slice of the map, counted from zero; `None` behind the last. What is put in meanwhile may be missed; what is
    /// there all the time is in exactly one slice.
    pub(super) fn slice(&self, number: usize) -> Option<Vec<Kept>> {
        another_may_come_between();
        let copied = self.slots.shards().get(number)?.read().clone();
        Some(copied.into_iter().map(|(Slot(kept), _)| kept).collect())
    }

    /// The key of any version of which `is_wanted` says so, chosen by these numbers. Where many are wanted, a few guesses find one; where
    /// few are, the map is looked through, a shard at a time.
    pub(super) fn pick(
        &self,
        mut random: impl FnMut() -> u64,
        is_wanted: impl Fn(Held<'_>) -> bool,
    ) -> Option<DocumentKey> {
        for _ in 0..GUESSES {
            let guess = random();
            another_may_come_between();
            let shards = self.slots.shards();
            let number = usize::try_from(random() % SHARDS as u64).unwrap_or(0);
            let shard = shards.get(number)?.read();
            // Whatever lies where a key of that hash would.
            if let Some((slot, _)) = shard.get(guess, |(slot, _)| is_wanted(slot.0.held())) {
                return Some(slot.0.key().clone());
            }
        }
        let mut seen = 0_u64;
        let mut picked = None;
        let is_wanted = |kept: &Kept| is_wanted(kept.held());
        for slot in self.slots.iter().filter(|slot| is_wanted(&slot.key().0)) {
            seen = seen.saturating_add(1);
            if random().is_multiple_of(seen) {
                picked = Some(slot.key().0.key().clone());
            }
        }
        picked
    }

    pub(super) fn figures(&self) -> MapFigures {
        MapFigures {
            documents: self.documents.load(Ordering::Relaxed),
            stubs: self.stubs.load(Ordering::Relaxed),
            tombstones: self.tombstones.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    fn count(&self, kept: &Kept) {
        for figure in self.figures_of(kept).into_iter().flatten() {
            figure.fetch_add(1, Ordering::Relaxed);
        }
        self.bytes
            .fetch_add(kept.charged_bytes(), Ordering::Relaxed);
    }

    fn discount(&self, kept: &Kept) {
        for figure in self.figures_of(kept).into_iter().flatten() {
            figure.fetch_sub(1, Ordering::Relaxed);
        }
        self.bytes
            .fetch_sub(kept.charged_bytes(), Ordering::Relaxed);
    }

    /// Where it is counted.
    fn figures_of(&self, kept: &Kept) -> [Option<&AtomicU64>; 2] {
        match kept.held() {
            Held::Whole(item) if item.operation.is_tombstone() => [Some(&self.tombstones), None],
            Held::Whole(_) => [Some(&self.documents), None],
            Held::Stub(_) => [Some(&self.documents), Some(&self.stubs)],
        }
    }
}

impl std::fmt::Debug for DocumentMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DocumentMap")
            .field("figures", &self.figures())
            .field("is_complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
