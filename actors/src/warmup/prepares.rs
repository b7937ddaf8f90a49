//! Reading the prepares a vbucket's store holds that are not over, step by step.
//!
//! Invariant: all of them or a failure, never some (MB-41257). Below the completed seqno everything is over; above it what
//! ended is told by what came later: the end of a disk snapshot would have raised that seqno, and may be missing (MB-36112),
//! for good where the vbucket was promoted in its middle. Called by warmup and rollback, before anything else is loaded.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use storage::{
    DocumentKey, Item, ItemView, KeyError, Namespace, Operation, Outcome, Scan, ScanEnd, Seqno,
    SeqnoRange, Snapshot, StorageError,
};

/// Prepares, being read.
#[derive(Debug)]
pub(crate) struct PreparesReading {
    scan: Box<dyn Scan>,
    /// Up to here it must be read.
    last: Seqno,
    /// Items the scan gave us.
    items: u64,
    /// Those that no later item ended.
    open: BTreeMap<DocumentKey, Item>,
}

impl PreparesReading {
    /// Nothing where the store says that nothing goes on.
    pub(crate) fn of(snapshot: &dyn Snapshot) -> Option<PreparesReading> {
        let marks = snapshot.state().watermarks;
        if marks.prepared_seqno <= marks.completed_seqno {
            return None;
        }
        // Not only to the last prepare: what ended it may lie behind, and be told by nothing else.
        let last = snapshot.high_seqno();
        let range = SeqnoRange {
            first: marks.completed_seqno.next(),
            last,
        };
        Some(PreparesReading {
            scan: snapshot.scan_by_seqno(range),
            last,
            items: 0,
            open: BTreeMap::new(),
        })
    }

    /// Reads about so many bytes; the prepares by rising seqno, once all is read.
    pub(crate) fn step(&mut self, bytes_max: usize) -> Outcome<Vec<Item>> {
        let mut bad = None;
        let (open, items) = (&mut self.open, &mut self.items);
        let mut visit = |view: ItemView<'_>| {
            *items = items.saturating_add(1);
            match take_in(open, view) {
                Ok(()) => ControlFlow::Continue(()),
                Err(cause) => {
                    bad = Some(StorageError::Key(cause));
                    ControlFlow::Break(())
                }
            }
        };
        let outcome = self.scan.step(bytes_max, &mut visit);
        match (bad, outcome) {
            (Some(cause), _) | (None, Outcome::Failed(cause)) => Outcome::Failed(cause),
            (None, Outcome::Complete(end)) => self.proven(end),
            (None, Outcome::Yielded) => Outcome::Yielded,
            (None, Outcome::Aborted(reason)) => Outcome::Aborted(reason),
        }
    }

    fn proven(&mut self, end: ScanEnd) -> Outcome<Vec<Item>> {
        if end.high_seqno < self.last || end.items != self.items {
            tracing::error!(?end, items = self.items, "a scan is complete without proof");
            return Outcome::Failed(StorageError::Gone);
        }
        let mut prepares: Vec<Item> = std::mem::take(&mut self.open).into_values().collect();
        prepares.sort_unstable_by_key(|item| item.seqno);
        Outcome::Complete(prepares)
    }
}

/// A prepare goes on unless its abort, which is in the same slot, or a document of its key comes behind it.
fn take_in(open: &mut BTreeMap<DocumentKey, Item>, view: ItemView<'_>) -> Result<(), KeyError> {
    if view.namespace() == Namespace::SystemEvent {
        return Ok(());
    }
    let key = DocumentKey::from_encoded(view.key)?;
    if let Operation::Prepare { .. } = view.operation {
        let item = view.to_item(Bytes::copy_from_slice(view.value))?;
        open.insert(key, item);
    } else {
        open.remove(&key);
    }
    Ok(())
}
