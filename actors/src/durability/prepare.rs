//! A prepare, as every monitor tracks it.
//!
//! Invariant: what is tracked lies in the order of seqnos; a seqno is tracked once.

use std::collections::VecDeque;
use std::time::Duration;

use storage::{CollectionId, DocumentKey, DurabilityLevel, Seqno};

/// A durable write that was prepared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// Where it lies.
    pub seqno: Seqno,
    /// Of which document.
    pub key: DocumentKey,
    /// What it waits for.
    pub level: DurabilityLevel,
}

/// One prepare, and what is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tracked {
    pub(super) prepare: Prepare,
    /// When it is given up (monotonic); `None` is never: one that may have been committed elsewhere.
    pub(super) deadline: Option<Duration>,
    /// It is over, and kept because the high prepared seqno has yet to pass it (MB-34151).
    pub(super) is_completed: bool,
    /// Its collection was dropped: nobody completes it.
    pub(super) is_dropped: bool,
}

impl Tracked {
    pub(super) fn seqno(&self) -> Seqno {
        self.prepare.seqno
    }

    /// The same for whoever did not write it: without a deadline.
    pub(super) fn inherited(prepare: Prepare) -> Tracked {
        Tracked {
            prepare,
            deadline: None,
            is_completed: false,
            is_dropped: false,
        }
    }

    /// A collection ended at `end`.
    pub(super) fn note_dropped(&mut self, collection: CollectionId, end: Seqno) {
        let Prepare { key, seqno, .. } = &self.prepare;
        self.is_dropped |= key.collection() == collection && *seqno < end;
    }
}

/// A prepare came that does not follow the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("prepare {seqno} does not follow prepare {last}; make the monitor anew")]
pub struct OutOfOrder {
    /// The prepare's.
    pub seqno: Seqno,
    /// The last one's.
    pub last: Seqno,
}

/// Where the first prepare above `seqno` lies.
pub(super) fn first_above(tracked: &VecDeque<Tracked>, seqno: Seqno) -> usize {
    tracked.partition_point(|one| one.seqno() <= seqno)
}

/// Takes out the prepare at this seqno, if it is of this key.
pub(super) fn take_out(
    tracked: &mut VecDeque<Tracked>,
    key: &DocumentKey,
    seqno: Seqno,
) -> Option<Tracked> {
    let at = tracked.binary_search_by_key(&seqno, Tracked::seqno).ok()?;
    if tracked.get(at)?.prepare.key != *key {
        return None;
    }
    tracked.remove(at)
}

pub(super) fn pop_front_if<T>(queue: &mut VecDeque<T>, is_it: impl Fn(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(is_it) {
        return queue.pop_front();
    }
    None
}
