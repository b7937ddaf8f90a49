//! Passes over a part of the segments' indexes, which find what goes and write nothing (rule R12).
//!
//! Invariant: what a pass found counts only when it came to its end; one that failed leaves no trace.

use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::collections::DroppedCollection;
use crate::compaction::{ErasedPrepare, Highest, Rules};
use crate::document::{CollectionId, DocumentKey, Namespace, split};
use crate::error::StorageError;
use crate::leb128;
use crate::log_store::segment::{IndexEntry, KeyCursor};
use crate::log_store::version::SegmentView;
use crate::seqno::Seqno;

use super::found::{Found, Gone};

/// Index entries looked at in a step.
const STEP_ENTRIES: usize = 8192;

/// A position in the same range of all segments' indexes.
#[derive(Debug)]
pub(super) struct Pass {
    /// Index keys: from here ...
    first: Vec<u8>,
    /// ... to before here.
    end: Vec<u8>,
    /// Which segment is being read.
    view: usize,
    cursor: Option<KeyCursor>,
    pub(super) found: Found,
}

/// One index entry in the range.
struct Met<'e> {
    entry: IndexEntry<'e>,
    /// The encoded document key.
    key: &'e [u8],
    gone: Gone,
    /// Whether it is the newest of its key in the segments.
    is_live: bool,
}

impl Pass {
    /// The documents of a collection, and their tombstones.
    pub(super) fn over_collection(collection: CollectionId) -> Pass {
        let mut first = vec![Namespace::Committed as u8];
        leb128::put_u32(&mut first, collection.0);
        Pass::over(first)
    }

    pub(super) fn over_prepares() -> Pass {
        Pass::over(vec![Namespace::Prepared as u8])
    }

    pub(super) fn over_system_events() -> Pass {
        Pass::over(vec![Namespace::SystemEvent as u8])
    }

    /// Everything there is.
    pub(super) fn over_all() -> Pass {
        Pass {
            first: Vec::new(),
            end: vec![u8::MAX],
            view: 0,
            cursor: None,
            found: Found::default(),
        }
    }

    /// All index keys that begin with `prefix`, whose last byte is never the highest there is.
    fn over(prefix: Vec<u8>) -> Pass {
        let mut end = prefix.clone();
        if let Some(last) = end.last_mut() {
            *last = last.saturating_add(1);
        }
        Pass {
            first: prefix,
            end,
            view: 0,
            cursor: None,
            found: Found::default(),
        }
    }

    /// Finds each collection's highest item at or below `floor`; `false` at the end.
    pub(super) fn step_highest(
        &mut self,
        views: &[SegmentView],
        floor: Seqno,
        highest: &mut Highest,
    ) -> Result<bool, StorageError> {
        self.step(views, |_, met| {
            if met.is_live && met.gone.seqno <= floor {
                highest.note(met.gone.collection, met.gone.seqno);
            }
        })
    }

    /// Finds what is left of a dropped collection, but for what is `known` to go; `false` at the end.
    pub(super) fn step_collection(
        &mut self,
        views: &[SegmentView],
        dropped: &DroppedCollection,
        known: &RoaringTreemap,
    ) -> Result<bool, StorageError> {
        self.step(views, |found, met| {
            let seqno = met.gone.seqno;
            if dropped.holds(met.gone.collection, seqno) && !known.contains(seqno.0) {
                found.erase(met.gone, met.is_live);
            }
        })
    }

    /// Finds the prepares of the collections `erased`, and those that are completed; `false` at the end.
    pub(super) fn step_prepares(
        &mut self,
        views: &[SegmentView],
        rules: &Rules,
        erased: &[DroppedCollection],
    ) -> Result<bool, StorageError> {
        self.step(views, |found, met| {
            let seqno = met.gone.seqno;
            let is_prepare = met.is_live && !met.entry.is_tombstone;
            if erased
                .iter()
                .any(|one| one.holds(met.gone.collection, seqno))
            {
                found.erase(met.gone, met.is_live);
                if is_prepare && rules.is_outstanding(seqno) {
                    let key = DocumentKey::from_encoded(met.key).ok();
                    let told = key.map(|key| ErasedPrepare { key, seqno });
                    found.prepares_erased.extend(told);
                }
            } else if is_prepare
                && let Some(exact_from) = rules.purges_prepare(met.gone.collection, seqno)
            {
                found.purge_prepare(met.gone, exact_from);
            }
        })
    }

    /// Finds the system events that go; `false` at the end.
    pub(super) fn step_system_events(
        &mut self,
        views: &[SegmentView],
        rules: &Rules,
    ) -> Result<bool, StorageError> {
        self.step(views, |found, met| {
            let (collection, seqno) = (met.gone.collection, met.gone.seqno);
            let is_end = met.is_live && met.entry.is_tombstone;
            if is_end && rules.purges_event_end(collection, seqno) {
                found.purge_tombstone(met.gone);
            }
        })
    }

    fn step(
        &mut self,
        views: &[SegmentView],
        mut meet: impl FnMut(&mut Found, &Met<'_>),
    ) -> Result<bool, StorageError> {
        for _ in 0..STEP_ENTRIES {
            let Some(view) = views.get(self.view) else {
                return Ok(false);
            };
            let cursor = if let Some(cursor) = &mut self.cursor {
                cursor
            } else {
                let segment = Arc::clone(&view.segment);
                self.cursor.insert(KeyCursor::new(segment, &self.first)?)
            };
            let entry = cursor
                .peek()
                .filter(|entry| entry.key < self.end.as_slice());
            let Some(entry) = entry else {
                self.cursor = None;
                self.view = self.view.saturating_add(1);
                continue;
            };
            if let Some(met) = met(view, entry) {
                meet(&mut self.found, &met);
            }
            cursor.advance()?;
        }
        Ok(true)
    }
}

/// The entry, unless it may not be seen any more.
fn met<'e>(view: &SegmentView, entry: IndexEntry<'e>) -> Option<Met<'e>> {
    let seqno = entry.seqno;
    if seqno > view.high() {
        return None;
    }
    let (&namespace, key) = entry.key.split_first()?;
    let namespace = Namespace::from_byte(namespace)?;
    let (collection, _) = split(key).ok()?;
    let weight = entry.weight(namespace);
    let gone = Gone {
        seqno,
        collection,
        weight,
    };
    let is_live = !view.dead.contains(seqno.0);
    Some(Met {
        entry,
        key,
        gone,
        is_live,
    })
}
