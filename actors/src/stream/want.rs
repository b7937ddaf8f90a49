//! What a stream asks for, and what it is told of it: the words between the machine of a stream and whoever does its work.
//!
//! Invariant: a backfill ends in one of the ways named here, and only one of them is a completion (MB-47790).

use storage::Seqno;

/// What a stream needs next.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// A cursor for a reader that holds everything up to here; then [`registered`](super::StreamState::registered).
    Register {
        /// Up to here.
        held: Seqno,
    },
    /// A backfill; then [`scheduled`](super::StreamState::scheduled).
    Backfill(BackfillRange),
    /// What the backfill has read, or how it ended.
    Backfilled,
    /// What lies behind the cursor.
    Log,
    /// Nothing: it is over.
    Nothing,
}

/// What a backfill must read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackfillRange {
    /// From here on.
    pub first: Seqno,
    /// At least up to here.
    pub last: Seqno,
}

/// How a backfill ended.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackfillEnd {
    /// It was read up to here, the end of its snapshot, and everything that was found was handed over.
    Complete(Seqno),
    /// It was broken off: cancelled, or its snapshot was taken back.
    Aborted,
    /// A tombstone it would have needed may have been purged.
    Purged,
    /// Reading failed.
    Failed,
    /// Nobody took what it read for too long.
    Slow,
    /// It panicked.
    Panicked,
}

/// What a backfill passed over by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub items: u64,
    /// Whether one was of the stream's collections, and not to be seen.
    pub has_invisible: bool,
}
