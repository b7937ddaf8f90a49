//! The ends of batches that a compaction's output keeps: what a rollback may have to go by.
//!
//! Invariant: below where the past is exact only the last one stays (and those before the first item, and those that tell
//! since when a prepare is known to be completed); from there on, when there are more than wanted, those stay that lie far enough from the one before,
//! and those whose watermarks the items since that one do not lead to. So a rollback finds the watermarks of durable
//! writes and of visibility as they were; of the others (snapshot, commit time, acknowledged prepares) those of an
//! earlier batch.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::document::Operation;
use crate::error::StorageError;
use crate::log_store::segment::MarkCursor;
use crate::log_store::version::SegmentView;
use crate::rollback_state::advance;
use crate::seqno::Seqno;
use crate::vbucket::{SnapshotKind, Watermarks};

/// The ends of batches of some segments, one after the other.
#[derive(Debug)]
pub(super) struct BatchEnds {
    /// The segments not read yet, the next one last.
    segments: Vec<SegmentView>,
    cursor: Option<MarkCursor>,
    next: Option<Watermarks>,
}

impl BatchEnds {
    pub(super) fn of(views: &[SegmentView]) -> Result<BatchEnds, StorageError> {
        let mut ends = BatchEnds {
            segments: views.iter().rev().cloned().collect(),
            cursor: None,
            next: None,
        };
        ends.next = ends.read()?;
        Ok(ends)
    }

    fn read(&mut self) -> Result<Option<Watermarks>, StorageError> {
        loop {
            if let Some(cursor) = &mut self.cursor
                && let Some(mark) = cursor.next()?
            {
                return Ok(Some(mark));
            }
            let Some(view) = self.segments.pop() else {
                self.cursor = None;
                return Ok(None);
            };
            let segment = Arc::clone(&view.segment);
            self.cursor = Some(MarkCursor::new(segment, view.high())?);
        }
    }

    /// The next end below `seqno`: of several at the same high seqno the last.
    pub(super) fn next_below(&mut self, seqno: Seqno) -> Result<Option<Watermarks>, StorageError> {
        let Some(mut mark) = self.next.filter(|mark| mark.high_seqno < seqno) else {
            return Ok(None);
        };
        loop {
            self.next = self.read()?;
            match self.next {
                Some(next) if next.high_seqno == mark.high_seqno => mark = next,
                Some(_) | None => return Ok(Some(mark)),
            }
        }
    }
}

/// Chooses while the records pass.
#[derive(Debug)]
pub(super) struct Marks {
    ends: BatchEnds,
    /// Below it the past is exact whatever goes: there was nothing.
    first: Seqno,
    /// Those nearer to each other may go.
    spacing: u64,
    /// What the last one kept and the items since lead to.
    told: Watermarks,
    last: Option<Watermarks>,
    kept: Vec<Watermarks>,
    /// As it is known so far; the last end at or below it, and the first above.
    exact_from: Seqno,
    below: Option<Watermarks>,
    above: Option<Watermarks>,
    /// Lowest prepare that stays.
    first_prepare: Option<Seqno>,
    /// How many are kept when those below `exact_from` are looked through.
    look_at: usize,
}

impl Marks {
    /// Of `views`, as many as `most` where items tell the others.
    pub(super) fn of(views: &[SegmentView], most: usize) -> Result<Marks, StorageError> {
        let count = views.iter().map(|view| view.segment.boundary_count());
        let most = (most as u64).max(1);
        let is_many = count.fold(0, u64::saturating_add) > most;
        let first = views
            .first()
            .map_or(Seqno::ZERO, |view| view.segment.meta().first_seqno);
        let high = views.last().map_or(Seqno::ZERO, SegmentView::high);
        let spacing = high.0.saturating_sub(first.0) / most;
        Ok(Marks {
            ends: BatchEnds::of(views)?,
            first,
            spacing: if is_many {
                spacing.saturating_add(1)
            } else {
                0
            },
            told: Watermarks::default(),
            last: None,
            kept: Vec::new(),
            exact_from: Seqno::ZERO,
            below: None,
            above: None,
            first_prepare: None,
            look_at: 4096,
        })
    }

    /// A record comes, with everything below it judged, so that the past is known to be exact from `exact_from` on.
    pub(super) fn pass(
        &mut self,
        seqno: Seqno,
        operation: Operation,
        exact_from: Seqno,
    ) -> Result<(), StorageError> {
        self.read_below(seqno, exact_from)?;
        if self.spacing > 0 {
            advance(&mut self.told, seqno, operation);
        }
        Ok(())
    }

    /// The record stays, as the newest of its key.
    pub(super) fn stays(&mut self, seqno: Seqno, operation: Operation) {
        if matches!(operation, Operation::Prepare { .. }) {
            self.first_prepare.get_or_insert(seqno);
        }
    }

    fn read_below(&mut self, seqno: Seqno, exact_from: Seqno) -> Result<(), StorageError> {
        if exact_from != self.exact_from {
            // It lies at or above all that was read.
            self.exact_from = exact_from;
            self.below = self.last;
            self.above = None;
        }
        while let Some(mark) = self.ends.next_below(seqno)? {
            self.take(mark);
        }
        Ok(())
    }

    fn take(&mut self, mark: Watermarks) {
        if mark.high_seqno <= self.exact_from {
            self.below = Some(mark);
        } else {
            self.above.get_or_insert(mark);
        }
        let is_far = self
            .kept
            .last()
            .is_none_or(|kept| mark.high_seqno.0 >= kept.high_seqno.0.saturating_add(self.spacing));
        if is_far || mark.high_seqno < self.first || !is_told(&self.told, &mark) {
            self.told = mark;
            self.kept.push(mark);
        }
        self.last = Some(mark);
        if self.kept.len() >= self.look_at {
            self.forget_useless();
            self.look_at = self.kept.len().saturating_mul(2).max(self.look_at);
        }
    }

    /// Below where the past is exact only those stay that say since when a prepare that stays is completed.
    fn forget_useless(&mut self) {
        let (exact_from, first_prepare) = (self.exact_from, self.first_prepare);
        let first = self.first;
        let mut completed = Seqno::ZERO;
        self.kept.retain(|mark| {
            let is_news = mark.completed_seqno > completed;
            completed = completed.max(mark.completed_seqno);
            let is_asked_for = first_prepare.is_some_and(|first| first <= mark.completed_seqno);
            let is_exact = mark.high_seqno >= exact_from || mark.high_seqno < first;
            is_exact || (is_news && is_asked_for)
        });
    }

    /// Those that stay, by rising high seqno, when the past is exact from `exact_from` on.
    pub(super) fn finish(mut self, exact_from: Seqno) -> Result<Vec<Watermarks>, StorageError> {
        self.read_below(Seqno::MAX, exact_from)?;
        self.forget_useless();
        let always = [self.below, self.above, self.last];
        let kept = self.kept.into_iter().chain(always.into_iter().flatten());
        let kept: BTreeMap<Seqno, Watermarks> = kept.map(|mark| (mark.high_seqno, mark)).collect();
        Ok(kept.into_values().collect())
    }
}

/// Whether a rollback that knows only what items tell would come to the same.
fn is_told(told: &Watermarks, mark: &Watermarks) -> bool {
    let known = |of: &Watermarks| {
        // The range of a snapshot from disk says what must be asked for again.
        let range = (of.snapshot_kind == SnapshotKind::Disk).then_some(of.snapshot);
        (
            of.max_visible_seqno,
            of.prepared_seqno,
            of.completed_seqno,
            range,
        )
    };
    known(told) == known(mark)
}
