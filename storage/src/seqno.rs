//! Sequence numbers: the order of everything that happens in one vbucket.
//!
//! Invariant: within one vbucket, every item has its own seqno and later items have higher ones. Seqnos may
//! have gaps (a deduplicated item leaves one). The first item is 1; 0 means "nothing yet".

use serde::{Deserialize, Serialize};

/// The position of an item in the history of its vbucket.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Seqno(pub u64);

impl Seqno {
    /// Before the first item.
    pub const ZERO: Seqno = Seqno(0);
    /// Above every item; the open end of a range.
    pub const MAX: Seqno = Seqno(u64::MAX);

    /// The seqno after this one (stays at the maximum, which no vbucket reaches).
    #[must_use]
    pub fn next(self) -> Seqno {
        Seqno(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Seqno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// An inclusive range of seqnos to scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeqnoRange {
    /// First seqno wanted.
    pub first: Seqno,
    /// Last seqno wanted.
    pub last: Seqno,
}

impl SeqnoRange {
    /// Everything.
    pub const ALL: SeqnoRange = SeqnoRange {
        first: Seqno::ZERO,
        last: Seqno::MAX,
    };

    /// Whether `seqno` lies inside.
    #[must_use]
    pub fn contains(&self, seqno: Seqno) -> bool {
        self.first <= seqno && seqno <= self.last
    }
}

/// The snapshot a vbucket's newest items belong to: a consumer that holds `end` is consistent, one that holds
/// less than `end` must be prepared to go back to `start`. `start` is the end of the last complete snapshot
/// (MB-35003).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRange {
    /// End of the last complete snapshot.
    pub start: Seqno,
    /// Last seqno of the current snapshot.
    pub end: Seqno,
}
