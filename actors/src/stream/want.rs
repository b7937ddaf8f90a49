//! What a stream asks for, and what it is told of it: the words between the machine of a stream and whoever does its work.
//!
//! Invariant: a backfill ends in one of the ways named here, and only one of them is a completion (MB-47790).

use messages::stream::StreamEvent;
use storage::Seqno;

use super::size::flow_bytes;

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

/// Some of what a backfill read, as it is told: whoever sends it need not look at the items again, which were read on
/// another thread.
#[derive(Debug, Default)]
pub struct Read {
    /// What passed the stream's filter, by rising seqno.
    pub events: Vec<Counted>,
    /// The seqno of the last of them.
    pub last: Seqno,
    /// Everything up to here was looked at.
    pub up_to: Seqno,
    /// What did not pass.
    pub skipped: Skipped,
    /// Whether every version of this part is told, not only the newest as of its end.
    pub is_history: bool,
}

/// An event, with what it counts in flow control.
#[derive(Debug)]
pub struct Counted {
    /// The event.
    pub event: StreamEvent,
    /// What it counts.
    pub bytes: u64,
}

impl From<StreamEvent> for Counted {
    fn from(event: StreamEvent) -> Counted {
        let bytes = flow_bytes(&event);
        Counted { event, bytes }
    }
}

/// What a backfill passed over by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Skipped {
    /// How many.
    pub items: u64,
    /// Whether one was of the stream's collections, and not to be seen.
    pub has_invisible: bool,
}
