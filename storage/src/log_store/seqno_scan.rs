//! A scan by seqno: segments in order, then layers, each newest version once, or every version that is held.
//!
//! Invariant: of the newest, an item is handed out exactly when no newer version of its key lies in the snapshot. The scan is
//! complete only when every part was read to its end; an error ends it for good (MB-47790).

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::kv_store::{ItemView, Scan, ScanEnd};
use crate::log_store::layer::LayerView;
use crate::log_store::segment::SeqnoCursor;
use crate::log_store::snapshot::LogSnapshot;
use crate::log_store::version::SegmentView;
use crate::outcome::{AbortReason, Outcome};
use crate::seqno::{Seqno, SeqnoRange};

type Visit<'v> = &'v mut dyn FnMut(ItemView<'_>) -> ControlFlow<()>;

#[derive(Debug)]
pub(crate) struct SeqnoScan {
    snapshot: LogSnapshot,
    range: SeqnoRange,
    /// Superseded versions, too.
    is_of_all: bool,
    /// The next seqno that was not looked at yet.
    next: Seqno,
    /// Which segment is being read; at their number, the layers are.
    segment: usize,
    cursor: Option<SeqnoCursor>,
    items: u64,
    end: Option<Outcome<ScanEnd>>,
}

impl SeqnoScan {
    pub(crate) fn of_newest(snapshot: LogSnapshot, range: SeqnoRange) -> SeqnoScan {
        SeqnoScan::new(snapshot, range, false)
    }

    pub(crate) fn of_all(snapshot: LogSnapshot, range: SeqnoRange) -> SeqnoScan {
        SeqnoScan::new(snapshot, range, true)
    }

    fn new(snapshot: LogSnapshot, range: SeqnoRange, is_of_all: bool) -> SeqnoScan {
        let next = range.first;
        SeqnoScan {
            snapshot,
            range,
            is_of_all,
            next,
            segment: 0,
            cursor: None,
            items: 0,
            end: None,
        }
    }

    fn advance(&mut self, bytes_max: usize, visit: Visit<'_>) -> Outcome<ScanEnd> {
        let version = Arc::clone(&self.snapshot.version);
        if self.next > self.range.last {
            return self.complete();
        }
        match version.segments.get(self.segment) {
            Some(view) => self.read_segment(view, bytes_max, visit),
            None => self.read_layers(bytes_max, visit),
        }
    }

    fn complete(&self) -> Outcome<ScanEnd> {
        let high_seqno = self.snapshot.state.watermarks.high_seqno;
        Outcome::Complete(ScanEnd {
            items: self.items,
            high_seqno,
        })
    }

    fn read_segment(
        &mut self,
        view: &SegmentView,
        bytes_max: usize,
        visit: Visit<'_>,
    ) -> Outcome<ScanEnd> {
        if view.high() < self.next {
            self.leave_segment();
            return Outcome::Yielded;
        }
        let mut cursor = match self.cursor.take() {
            Some(cursor) => cursor,
            None => SeqnoCursor::new(Arc::clone(&view.segment), self.next),
        };
        let layers = Arc::clone(&self.snapshot.views);
        let mut killers: Vec<&LayerView> = layers.iter().collect();
        killers.retain(|layer| !self.is_of_all && !layer.kills_nothing());
        let mut chunk = match cursor.next_chunk(bytes_max) {
            Ok(Some(chunk)) => chunk,
            Ok(None) => {
                self.leave_segment();
                return Outcome::Yielded;
            }
            Err(error) => return Outcome::Failed(error),
        };
        while let Some(record) = chunk.next() {
            let item = match record {
                Ok(record) => record.item,
                Err(error) => return Outcome::Failed(error),
            };
            if item.seqno < self.next {
                continue;
            }
            if item.seqno > view.high() || item.seqno > self.range.last {
                self.leave_segment();
                return Outcome::Yielded;
            }
            self.next = item.seqno.next();
            let is_superseded = || {
                view.dead.contains(item.seqno.0)
                    || killers
                        .iter()
                        .any(|k| k.supersedes(item.namespace(), item.key, item.seqno))
            };
            if !self.is_of_all && is_superseded() {
                continue;
            }
            self.items = self.items.saturating_add(1);
            if visit(item).is_break() {
                return Outcome::Aborted(AbortReason::Cancelled);
            }
        }
        self.cursor = Some(cursor);
        Outcome::Yielded
    }

    fn leave_segment(&mut self) {
        self.cursor = None;
        self.segment = self.segment.saturating_add(1);
    }

    fn read_layers(&mut self, bytes_max: usize, visit: Visit<'_>) -> Outcome<ScanEnd> {
        let layers = Arc::clone(&self.snapshot.views);
        let mut budget = bytes_max;
        for (number, layer) in layers.iter().enumerate() {
            layer.ensure_index();
            let newer = layers.get(number.saturating_add(1)..).unwrap_or_default();
            for index in layer.first_at_or_above(self.next)..layer.len() {
                let Some(item) = layer.item(index) else { break };
                if item.seqno > self.range.last {
                    return self.complete();
                }
                if budget == 0 {
                    return Outcome::Yielded;
                }
                self.next = item.seqno.next();
                let view = ItemView::of(item);
                let is_superseded = || {
                    !layer.is_newest(index)
                        || newer
                            .iter()
                            .any(|n| n.supersedes(view.namespace(), view.key, view.seqno))
                };
                if !self.is_of_all && is_superseded() {
                    continue;
                }
                budget = budget.saturating_sub(view.key.len().saturating_add(view.value.len()));
                self.items = self.items.saturating_add(1);
                if visit(view).is_break() {
                    return Outcome::Aborted(AbortReason::Cancelled);
                }
            }
        }
        self.complete()
    }
}

impl Scan for SeqnoScan {
    fn step(&mut self, bytes_max: usize, visit: Visit<'_>) -> Outcome<ScanEnd> {
        if let Some(end) = &self.end {
            return end.clone();
        }
        let outcome = self.advance(bytes_max.max(1), visit);
        if !matches!(outcome, Outcome::Yielded) {
            self.cursor = None;
            self.end = Some(outcome.clone());
        }
        outcome
    }
}
