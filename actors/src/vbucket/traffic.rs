//! How many documents of a vbucket left its memory, came back, and were swept out of it: figures, and nothing else.
//!
//! Invariant: each only rises; nothing is decided by them. Counted by whoever does it, read by whoever shows it.

use crate::sync::atomic::{AtomicU64, Ordering};

/// The counters of a vbucket.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    evicted: AtomicU64,
    fetched: AtomicU64,
    fetched_at_once: AtomicU64,
    restored: AtomicU64,
    expired: AtomicU64,
    /// Live documents that are not in memory, about: what is written over them unseen is not taken off.
    away: AtomicU64,
}

/// Their values, of one vbucket or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrafficFigures {
    /// Documents that left memory.
    pub evicted: u64,
    /// Times the store was asked for one that was not there.
    pub fetched: u64,
    /// Those of them that were answered on the spot, because the disk did not have to be waited for.
    pub fetched_at_once: u64,
    /// Documents that came back with that.
    pub restored: u64,
    /// Documents whose time was up, that a sweep deleted.
    pub expired: u64,
}

impl Traffic {
    pub(super) fn note_evicted(&self, documents: u64) {
        self.evicted.fetch_add(documents, Ordering::Relaxed);
    }

    /// Documents are not in memory, because they left it or never came there.
    pub(super) fn note_away(&self, documents: u64) {
        self.away.fetch_add(documents, Ordering::Relaxed);
    }

    /// So many are not, as somebody counted.
    pub(super) fn set_away(&self, documents: u64) {
        self.away.store(documents, Ordering::Relaxed);
    }

    pub(super) fn away(&self) -> u64 {
        self.away.load(Ordering::Relaxed)
    }

    pub(super) fn note_expired(&self) {
        self.expired.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_fetched(&self) {
        self.fetched.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_fetched_at_once(&self) {
        self.note_fetched();
        self.fetched_at_once.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_restored(&self) {
        self.restored.fetch_add(1, Ordering::Relaxed);
        let one_less = |away: u64| Some(away.saturating_sub(1));
        // Counted anew meanwhile, it is as good as it was.
        let (set, fetched) = (Ordering::Relaxed, Ordering::Relaxed);
        let before = self.away.fetch_update(set, fetched, one_less);
        before.unwrap_or_default();
    }

    pub(super) fn figures(&self) -> TrafficFigures {
        TrafficFigures {
            evicted: self.evicted.load(Ordering::Relaxed),
            fetched: self.fetched.load(Ordering::Relaxed),
            fetched_at_once: self.fetched_at_once.load(Ordering::Relaxed),
            restored: self.restored.load(Ordering::Relaxed),
            expired: self.expired.load(Ordering::Relaxed),
        }
    }
}

impl TrafficFigures {
    /// These and those of another vbucket.
    pub fn add(&mut self, other: &TrafficFigures) {
        self.evicted = self.evicted.saturating_add(other.evicted);
        self.fetched = self.fetched.saturating_add(other.fetched);
        self.fetched_at_once = self.fetched_at_once.saturating_add(other.fetched_at_once);
        self.restored = self.restored.saturating_add(other.restored);
        self.expired = self.expired.saturating_add(other.expired);
    }
}
