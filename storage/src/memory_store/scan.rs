//! A scan of a snapshot in memory, in bounded steps.
//!
//! Invariant: every item wanted is visited once, in order, and only a scan that visited all of them is complete;
//! an ended scan repeats its end. No lock is held while an item is visited, so a visitor may use the store.

use std::ops::ControlFlow;
use std::sync::Arc;

use parking_lot::RwLock;

use super::history::History;
use crate::document::Item;
use crate::kv_store::{ItemView, KeyRange, Scan, ScanEnd};
use crate::outcome::{AbortReason, Outcome};
use crate::seqno::{Seqno, SeqnoRange};

/// What is still to be visited.
#[derive(Debug)]
pub(super) enum Cursor {
    /// By rising seqno.
    Seqnos(SeqnoRange),
    /// By rising seqno, superseded versions, too.
    Versions(SeqnoRange),
    /// By rising key.
    Keys(KeyRange),
}

/// A scan on its way.
#[derive(Debug)]
pub(super) struct MemoryScan {
    history: Arc<RwLock<History>>,
    high_seqno: Seqno,
    cursor: Cursor,
    items: u64,
    ended: Option<Outcome<ScanEnd>>,
}

/// What one step visits, and whether nothing is left behind it.
struct Portion {
    items: Vec<Arc<Item>>,
    is_last: bool,
}

impl MemoryScan {
    pub(super) fn new(
        history: Arc<RwLock<History>>,
        high_seqno: Seqno,
        cursor: Cursor,
    ) -> MemoryScan {
        MemoryScan {
            history,
            high_seqno,
            cursor,
            items: 0,
            ended: None,
        }
    }

    /// Takes the next portion and moves the cursor behind it.
    fn next_portion(&mut self, bytes_max: usize) -> Portion {
        let history = self.history.read();
        let high = self.high_seqno;
        let portion = match &self.cursor {
            Cursor::Seqnos(range) => take(history.newest_by_seqno(*range, high), bytes_max),
            Cursor::Versions(range) => take(history.items(up_to(*range, high)), bytes_max),
            Cursor::Keys(range) => take(history.newest_by_key(range, high), bytes_max),
        };
        if let Some(last) = portion.items.last() {
            match &mut self.cursor {
                Cursor::Seqnos(range) | Cursor::Versions(range) => range.first = last.seqno.next(),
                Cursor::Keys(range) => {
                    // The least key above this one.
                    range.first = [last.document.key.as_encoded(), &[0]].concat();
                }
            }
        }
        portion
    }

    fn end(&mut self, outcome: Outcome<ScanEnd>) -> Outcome<ScanEnd> {
        self.ended = Some(outcome.clone());
        outcome
    }
}

fn up_to(range: SeqnoRange, high: Seqno) -> SeqnoRange {
    let last = range.last.min(high);
    SeqnoRange { last, ..range }
}

fn take<'a>(wanted: impl Iterator<Item = &'a Arc<Item>>, bytes_max: usize) -> Portion {
    let bytes_max = u64::try_from(bytes_max).unwrap_or(u64::MAX);
    let mut items: Vec<Arc<Item>> = Vec::new();
    let mut bytes = 0u64;
    for item in wanted {
        if bytes >= bytes_max && !items.is_empty() {
            return Portion {
                items,
                is_last: false,
            };
        }
        bytes = bytes.saturating_add(item.user_bytes());
        items.push(Arc::clone(item));
    }
    Portion {
        items,
        is_last: true,
    }
}

impl Scan for MemoryScan {
    fn step(
        &mut self,
        bytes_max: usize,
        visit: &mut dyn FnMut(ItemView<'_>) -> ControlFlow<()>,
    ) -> Outcome<ScanEnd> {
        if let Some(ended) = &self.ended {
            return ended.clone();
        }
        let portion = self.next_portion(bytes_max);
        for item in &portion.items {
            self.items = self.items.saturating_add(1);
            if visit(ItemView::of(item)).is_break() {
                return self.end(Outcome::Aborted(AbortReason::Cancelled));
            }
        }
        if !portion.is_last {
            return Outcome::Yielded;
        }
        self.end(Outcome::Complete(ScanEnd {
            items: self.items,
            high_seqno: self.high_seqno,
        }))
    }
}
