//! Why the log refuses something, and what its caller does next. A refused call changes nothing.

use storage::Seqno;

use super::cursor::CursorId;

/// An item was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// An active vbucket's item must have the seqno after the last, a replica's a higher one.
    #[error("item {seqno} does not follow item {last}; give it the next seqno")]
    OutOfOrder {
        /// The item's.
        seqno: Seqno,
        /// The last queued.
        last: Seqno,
    },
    /// A replica's item lies outside the snapshot its source announced.
    #[error("item {seqno} lies outside the snapshot {start} to {end}; refuse it to its source")]
    OutsideSnapshot {
        /// The item's.
        seqno: Seqno,
        /// First of the snapshot.
        start: Seqno,
        /// Last of the snapshot.
        end: Seqno,
    },
    /// A replica's item came before any snapshot was announced.
    #[error("item {seqno} came before a snapshot was begun; refuse it to its source")]
    NoSnapshot {
        /// The item's.
        seqno: Seqno,
    },
    /// Both versions would have to be kept, and a replica cannot part its source's snapshot.
    #[error(
        "item {seqno} and item {replaces} of the same key cannot be in one snapshot; end the stream"
    )]
    DuplicateInSnapshot {
        /// The item's.
        seqno: Seqno,
        /// The older version's.
        replaces: Seqno,
    },
}

/// A snapshot of a replica's source was not begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It ends before it starts.
    #[error("the snapshot starts at {start} and ends at {end}; refuse it as invalid")]
    Inverted {
        /// Its start.
        start: Seqno,
        /// Its end.
        end: Seqno,
    },
    /// All of it is here already.
    #[error("the snapshot ends at {end}, but item {last} is here; refuse it as out of range")]
    Stale {
        /// Its end.
        end: Seqno,
        /// The last item queued.
        last: Seqno,
    },
    /// A disk snapshot must say which prepares are completed.
    #[error(
        "a disk snapshot must name its high completed seqno; give 0 for a source without sync-writes"
    )]
    CompletedSeqnoMissing,
    /// One of its watermarks lies above its end.
    #[error("watermark {watermark} lies above the snapshot's end {end}; refuse it as invalid")]
    WatermarkAboveEnd {
        /// The watermark.
        watermark: Seqno,
        /// The snapshot's end.
        end: Seqno,
    },
}

/// A cursor was not moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// It was removed, dropped to free memory, or its name was registered anew.
    #[error("cursor {0} is gone; backfill from what the reader holds and register again")]
    Gone(CursorId),
    /// The reader claims items this vbucket never had.
    #[error("the reader holds item {seqno}, the vbucket only {last}; it must roll back first")]
    Ahead {
        /// What the reader claims.
        seqno: Seqno,
        /// The last item queued.
        last: Seqno,
    },
    /// The items from there on are no longer all in memory.
    #[error(
        "the log holds nothing below item {first_held}, wanted was all above {seqno}; reopen the vbucket from its store"
    )]
    NoLongerHeld {
        /// Where the cursor should have gone.
        seqno: Seqno,
        /// From here on the log is whole.
        first_held: Seqno,
    },
    /// The flush cursor is always there and is not registered.
    #[error("the flush cursor always exists; reset it instead of registering it")]
    FlushCursor,
}
