//! Index pages kept in memory, so that a point read of a warm key costs one read of the disk and not two.
//!
//! Invariant: a page is in here only after its checksum was verified; segments never change, so a page never goes
//! stale. The memory is bounded at creation. Shared by all segments of a shard.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use quick_cache::sync::Cache;

use super::key_index::PAGE_BYTES_MAX;

/// A segment's id, and the page's offset in the segment.
type PageKey = (u64, u64);

/// A bounded cache of verified index pages.
pub(crate) struct PageCache {
    pages: Cache<PageKey, Arc<[u8]>, quick_cache::UnitWeighter, FixedHash>,
}

impl std::fmt::Debug for PageCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageCache")
            .field("pages", &self.pages.len())
            .finish()
    }
}

impl PageCache {
    /// A cache of at most about `bytes`.
    pub(crate) fn new(bytes: usize) -> PageCache {
        let pages = bytes / PAGE_BYTES_MAX;
        let capacity = u64::try_from(pages).unwrap_or(u64::MAX);
        let pages = Cache::with(
            pages,
            capacity,
            quick_cache::UnitWeighter,
            FixedHash,
            quick_cache::sync::DefaultLifecycle::default(),
        );
        PageCache { pages }
    }

    pub(super) fn get(&self, segment: u64, offset: u64) -> Option<Arc<[u8]>> {
        self.pages.get(&(segment, offset))
    }

    /// Keeps a page whose checksum was verified.
    pub(super) fn insert(&self, segment: u64, offset: u64, page: &[u8]) {
        self.pages.insert((segment, offset), page.into());
    }
}

/// The same hash in every run: what is evicted must not differ when a run is replayed.
#[derive(Clone, Copy, Debug, Default)]
struct FixedHash;

impl BuildHasher for FixedHash {
    type Hasher = Mixer;

    fn build_hasher(&self) -> Mixer {
        Mixer(0)
    }
}

/// Mixes whole words; keys are two of them.
#[derive(Debug)]
struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = crate::log_store::log::writer::mix(self.0 ^ word);
    }
}
