//! A scan by key: the segments' indexes and the layers, merged; each key's newest version once.
//!
//! Invariant: the newest version of a key decides; older parts only tell that the key exists. An error ends the
//! scan for good.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use crate::document::Item;
use crate::error::StorageError;
use crate::kv_store::{ItemView, KeyRange, Scan, ScanEnd};
use crate::log_store::segment::{IndexKey, KeyCursor, Patience};
use crate::log_store::snapshot::LogSnapshot;
use crate::outcome::{AbortReason, Outcome};

type Visit<'v> = &'v mut dyn FnMut(ItemView<'_>) -> ControlFlow<()>;

#[derive(Debug)]
pub(crate) struct KeyScan {
    snapshot: LogSnapshot,
    range: KeyRange,
    /// Newest unsealed version of each key in the range; filled by the first step.
    unsealed: BTreeMap<Box<[u8]>, Arc<Item>>,
    /// One cursor per segment, oldest first; filled by the first step.
    cursors: Option<Vec<KeyCursor>>,
    items: u64,
    end: Option<Outcome<ScanEnd>>,
}

impl KeyScan {
    pub(crate) fn new(snapshot: LogSnapshot, range: KeyRange) -> KeyScan {
        let unsealed = BTreeMap::new();
        KeyScan {
            snapshot,
            range,
            unsealed,
            cursors: None,
            items: 0,
            end: None,
        }
    }

    /// Opens a cursor on every segment and collects what is unsealed.
    fn begin(&mut self) -> Result<Vec<KeyCursor>, StorageError> {
        let first = IndexKey::new(self.range.namespace, &self.range.first);
        let segments = self.snapshot.version.segments.iter();
        let cursors = segments
            .map(|view| KeyCursor::new(Arc::clone(&view.segment), first.as_bytes()))
            .collect::<Result<_, _>>()?;
        let wants = |key: &[u8]| {
            key >= self.range.first.as_slice()
                && self.range.end.as_deref().is_none_or(|end| key < end)
        };
        let mut unsealed = BTreeMap::new();
        for view in self.snapshot.views.iter() {
            unsealed.extend(view.newest_by_key(self.range.namespace, wants));
        }
        self.unsealed = unsealed;
        Ok(cursors)
    }

    fn run(
        &mut self,
        bytes_max: usize,
        visit: Visit<'_>,
    ) -> Result<Outcome<ScanEnd>, StorageError> {
        let mut cursors = match self.cursors.take() {
            Some(cursors) => cursors,
            None => self.begin()?,
        };
        let mut budget = bytes_max;
        loop {
            if budget == 0 {
                self.cursors = Some(cursors);
                return Ok(Outcome::Yielded);
            }
            let Some(key) = self.next_key(&cursors) else {
                let high_seqno = self.snapshot.state.watermarks.high_seqno;
                return Ok(Outcome::Complete(ScanEnd {
                    items: self.items,
                    high_seqno,
                }));
            };
            let sealed = self.pass_key(&mut cursors, &key)?;
            let unsealed = self.unsealed.remove(&key);
            let item = match (unsealed, sealed) {
                (Some(item), _) => Item::clone(&item),
                (None, Some(item)) => item,
                (None, None) => continue,
            };
            budget =
                budget.saturating_sub(usize::try_from(item.user_bytes()).unwrap_or(usize::MAX));
            self.items = self.items.saturating_add(1);
            if visit(ItemView::of(&item)).is_break() {
                return Ok(Outcome::Aborted(AbortReason::Cancelled));
            }
        }
    }

    /// The lowest key not handed out yet, if it is in the range.
    fn next_key(&self, cursors: &[KeyCursor]) -> Option<Box<[u8]>> {
        let mut lowest: Option<Box<[u8]>> = self.unsealed.keys().next().cloned();
        for cursor in cursors {
            let Some(entry) = cursor.peek() else { continue };
            let Some((&namespace, key)) = entry.key.split_first() else {
                continue;
            };
            if namespace != self.range.namespace as u8 {
                continue;
            }
            if lowest.as_deref().is_none_or(|lowest| key < lowest) {
                lowest = Some(key.into());
            }
        }
        let end = self.range.end.as_deref();
        lowest.filter(|key| end.is_none_or(|end| &**key < end))
    }

    /// Moves every cursor behind `key` and reads the newest sealed version, unless it is dead or will not be
    /// needed.
    fn pass_key(
        &self,
        cursors: &mut [KeyCursor],
        key: &[u8],
    ) -> Result<Option<Item>, StorageError> {
        let key = IndexKey::new(self.range.namespace, key);
        let mut newest = None;
        for (cursor, view) in cursors.iter_mut().zip(&self.snapshot.version.segments) {
            let mut found = None;
            while let Some(entry) = cursor.peek() {
                if entry.key != key.as_bytes() {
                    break;
                }
                if found.is_none() && entry.seqno <= view.high() {
                    found = Some((view, entry.seqno, entry.location));
                }
                cursor.advance()?;
            }
            newest = found.or(newest);
        }
        let is_unsealed = self
            .unsealed
            .contains_key(key.as_bytes().get(1..).unwrap_or_default());
        match newest {
            Some((view, seqno, location)) if !is_unsealed && !view.dead.contains(seqno.0) => view
                .segment
                .read_record(location, seqno, Patience::Waits)
                .map(Some),
            _ => Ok(None),
        }
    }
}

impl Scan for KeyScan {
    fn step(&mut self, bytes_max: usize, visit: Visit<'_>) -> Outcome<ScanEnd> {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let outcome = self
            .run(bytes_max.max(1), visit)
            .unwrap_or_else(Outcome::Failed);
        if !matches!(outcome, Outcome::Yielded) {
            self.end = Some(outcome.clone());
        }
        outcome
    }
}
