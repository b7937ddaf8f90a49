//! The parts a backfill reads of its snapshot, one behind the other: the newest version of each key; or, of a history, what
//! there was when it began, and then every version.
//!
//! Invariant: together they read all that is wanted, in the order of seqnos, nothing twice, and each is complete only with
//! the proof that it was read to its end, every item of it (MB-47790). Made when a [`Backfill`](super::Backfill) opens its
//! snapshot.

use std::collections::VecDeque;

use storage::{DroppedCollection, Scan, ScanEnd, Seqno, SeqnoRange, Snapshot, StorageError};

/// One part.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) scan: Box<dyn Scan>,
    /// Lives of collections that had ended at the moment it reads: what is left of them is nobody's any more.
    pub(super) dropped: Vec<DroppedCollection>,
    /// Every version is read.
    pub(super) is_history: bool,
    /// The newest seqno of that moment.
    high: Seqno,
    /// Items the scan gave.
    items: u64,
}

impl Part {
    fn of_newest(snapshot: &dyn Snapshot, first: Seqno) -> Part {
        let high = snapshot.high_seqno();
        Part {
            scan: snapshot.scan_by_seqno(SeqnoRange { first, last: high }),
            dropped: snapshot.dropped_collections(),
            is_history: false,
            high,
            items: 0,
        }
    }

    /// What was written of a collection before it ended is history like the rest: its end comes behind it.
    fn of_all(snapshot: &dyn Snapshot, first: Seqno) -> Part {
        let high = snapshot.high_seqno();
        Part {
            scan: snapshot.scan_history(SeqnoRange { first, last: high }),
            dropped: Vec::new(),
            is_history: true,
            high,
            items: 0,
        }
    }

    /// The scan gave so many more.
    pub(super) fn note(&mut self, items: u64) {
        self.items = self.items.saturating_add(items);
    }

    /// Whether a scan that says it is complete was read to its end, every item of it, the last of which lay at `up_to`.
    pub(super) fn is_proven(&self, end: ScanEnd, up_to: Seqno) -> bool {
        let is_whole = end.high_seqno == self.high && end.items == self.items;
        if !is_whole || up_to > self.high {
            tracing::error!(
                ?end,
                high = self.high.0,
                items = self.items,
                "a scan is complete without proof"
            );
            return false;
        }
        true
    }
}

/// What is read from `first` on.
pub(super) fn parts_of(
    snapshot: &dyn Snapshot,
    first: Seqno,
    has_history: bool,
) -> Result<VecDeque<Part>, StorageError> {
    if !has_history {
        return Ok([Part::of_newest(snapshot, first)].into());
    }
    let begins = snapshot.history_start();
    if begins <= first {
        return Ok([Part::of_all(snapshot, first)].into());
    }
    // Not the newest of now: a version that was superseded since then is history, and its like lies below.
    let before = snapshot.as_of(Seqno(begins.0.saturating_sub(1)))?;
    Ok([
        Part::of_newest(&*before, first),
        Part::of_all(snapshot, begins),
    ]
    .into())
}
