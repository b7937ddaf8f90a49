//! CAS values: a hybrid logical clock, so that versions of a document order like the time of their writing.
//!
//! Invariant: a clock never gives the same value twice and never goes back, whatever the wall clock does. The
//! caller hands in the time; nothing here reads one.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// Version of a document: nanoseconds since the Unix epoch in the high 48 bits, a counter in the low 16.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Cas(pub u64);

impl Cas {
    /// What is shown of a document that somebody has locked: the version of none.
    pub const LOCKED: Cas = Cas(u64::MAX);
}

const LOGICAL_BITS: u64 = 0xffff;

/// Source of CAS values of one vbucket.
#[derive(Debug, Default)]
pub struct HybridLogicalClock {
    newest: AtomicU64,
}

impl HybridLogicalClock {
    /// A clock that goes on after `newest`, the highest CAS this vbucket ever gave or took over.
    #[must_use]
    pub fn after(newest: Cas) -> HybridLogicalClock {
        HybridLogicalClock {
            newest: AtomicU64::new(newest.0),
        }
    }

    /// The next CAS at wall-clock time `now_ns` (nanoseconds since the Unix epoch).
    pub fn next(&self, now_ns: u64) -> Cas {
        let physical = now_ns & !LOGICAL_BITS;
        let step = |newest: u64| Some(physical.max(newest.saturating_add(1)));
        // The closure never refuses, so the fallback is never taken.
        let before = self
            .newest
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, step)
            .unwrap_or_else(|current| current);
        Cas(physical.max(before.saturating_add(1)))
    }

    /// Takes note of a CAS that came from elsewhere (a replica's source, set-with-meta).
    pub fn observe(&self, cas: Cas) {
        self.newest.fetch_max(cas.0, Ordering::AcqRel);
    }

    /// Highest CAS given or observed.
    #[must_use]
    pub fn newest(&self) -> Cas {
        Cas(self.newest.load(Ordering::Acquire))
    }
}

#[cfg(test)]
mod tests;
