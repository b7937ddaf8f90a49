//! Rollback: a vbucket goes back to exactly what it was at a seqno, or to nothing, never to "roughly".
//!
//! Invariant: the record in the log is the rollback; everything before it (finding the state and the counts of that
//! moment) changes nothing. Batches of the old epoch are refused from then on, and recovery discards what it undid
//! (rule R2).

use std::sync::Arc;

use crate::counts::{VbucketCounts, Weight};
use crate::document::{Operation, split};
use crate::error::StorageError;
use crate::kv_store::{ItemView, RolledBack};
use crate::log_store::layer::{Layer, LayerView};
use crate::log_store::log::frame::LogPosition;
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::recovery::open_segments;
use crate::log_store::segment::{SegmentMeta, SeqnoCursor};
use crate::log_store::shard::{Shard, Slot, WriterGuard};
use crate::log_store::version::{RollbackMark, SegmentView, Version};
use crate::outcome::{Job, Outcome};
use crate::rollback_state;
use crate::seqno::{Seqno, SnapshotRange};
use crate::vbucket::{RollbackEpoch, VbucketId, VbucketStateRecord, Watermarks};

const STEP_BYTES: usize = 1 << 20;

/// Rolls one vbucket back. Holds the shard's writer throughout: nothing is committed to the shard meanwhile, and
/// rollbacks are rare.
#[derive(Debug)]
pub(crate) struct RollbackJob {
    shard: Arc<Shard>,
    vbucket: VbucketId,
    to: Seqno,
    state: RollingBack,
}

#[derive(Debug)]
enum RollingBack {
    Begin,
    Write(Box<Prepared>),
    Done,
}

/// The rollback, ready to be written.
#[derive(Debug)]
struct Prepared {
    writer: WriterGuard,
    before: Arc<Version>,
    after: Version,
    state: VbucketStateRecord,
    /// Batch ends of segments that go.
    boundaries: Vec<Watermarks>,
    /// `None` when the moment is not known any more.
    exact: Option<Seqno>,
}

impl RollbackJob {
    pub(crate) fn new(shard: Arc<Shard>, vbucket: VbucketId, to: Seqno) -> RollbackJob {
        RollbackJob {
            shard,
            vbucket,
            to,
            state: RollingBack::Begin,
        }
    }

    fn advance(&mut self) -> Result<Outcome<RolledBack>, StorageError> {
        match std::mem::replace(&mut self.state, RollingBack::Done) {
            RollingBack::Begin => {
                self.state = match self.shard.writer() {
                    None => RollingBack::Begin,
                    Some(writer) => RollingBack::Write(Box::new(self.prepare(writer)?)),
                };
                Ok(Outcome::Yielded)
            }
            RollingBack::Write(prepared) => self.write(*prepared).map(Outcome::Complete),
            RollingBack::Done => Err(StorageError::Gone),
        }
    }

    fn prepare(&self, writer: WriterGuard) -> Result<Prepared, StorageError> {
        writer.check_open()?;
        let before = self.shard.version(self.vbucket)?;
        let current = before.state().ok_or(StorageError::Closed)?;
        let high_seqno = current.watermarks.high_seqno;
        if self.to > high_seqno {
            let (vbucket, to) = (self.vbucket, self.to);
            return Err(StorageError::RollbackAbove {
                vbucket,
                to,
                high_seqno,
            });
        }
        let is_known = self.to >= before.exact_at(self.to);
        let exact = is_known.then_some(self.to);
        let Some(to) = exact else {
            let state = rollback_state::state_at_zero(&current);
            let mut after = Version::empty(before.place, state.clone());
            after.rollbacks.clone_from(&before.rollbacks);
            return Ok(Prepared {
                writer,
                before,
                after,
                state,
                boundaries: Vec::new(),
                exact,
            });
        };
        let boundaries = boundaries_that_go(&before, to)?;
        let (state, after) = self.at(&before, &current, &boundaries, to)?;
        Ok(Prepared {
            writer,
            before,
            after,
            state,
            boundaries,
            exact,
        })
    }

    /// The vbucket as it was at `to`, still of the old epoch.
    fn at(
        &self,
        before: &Version,
        current: &VbucketStateRecord,
        boundaries: &[Watermarks],
        to: Seqno,
    ) -> Result<(VbucketStateRecord, Version), StorageError> {
        let views = before.views();
        let state = state_at(before, &views, current, to)?;
        let kept: Vec<SegmentMeta> = before
            .segments
            .iter()
            .filter(|view| view.segment.meta().first_seqno <= to)
            .map(|view| cut(view.segment.meta(), to))
            .collect();
        let mut after = Version::clone(before);
        after.segments = open_segments(before.place, &kept, &self.shard.containers)?;
        after.sealed = before.sealed.min(to);
        after.exact_from = before.exact_from.min(to);
        after.dropped = before.dropped_at(to).into();
        after.layers = vec![Arc::new(layer_at(boundaries, &views, &state, to))];
        after.counts = Arc::new(if before.sealed <= to {
            VbucketCounts::clone(&before.counts)
        } else {
            sealed_counts(&after.segments)?
        });
        Ok((state, after))
    }

    fn write(&self, prepared: Prepared) -> Result<RolledBack, StorageError> {
        let Prepared {
            mut writer,
            before,
            mut after,
            state,
            boundaries,
            exact,
        } = prepared;
        let to = exact.unwrap_or(Seqno::ZERO);
        let segments = after
            .segments
            .iter()
            .map(|view| view.segment.meta().clone())
            .collect();
        let edit = Edit::Rollback {
            place: before.place,
            to,
            identity: Arc::clone(&state.identity),
            watermarks: state.watermarks,
            is_reset: exact.is_none(),
            segments,
            boundaries,

            counts: after.counts.since(&before.counts),
        };
        let sequence = writer.write_edits_synced(&[edit])?;
        self.shard.note_synced(&writer);
        let epoch = RollbackEpoch(before.place.epoch.0.saturating_add(1));
        after.place = Place {
            epoch,
            ..before.place
        };
        let (watermarks, is_reset) = (state.watermarks, exact.is_none());
        after.rollbacks.push(RollbackMark {
            epoch,
            to,
            watermarks,
            is_reset,
            sequence,
        });
        let gone: Vec<SegmentMeta> = before
            .segments
            .iter()
            .map(|view| view.segment.meta().clone())
            .filter(|meta| {
                !after
                    .segments
                    .iter()
                    .any(|kept| kept.segment.meta().id == meta.id)
            })
            .collect();
        self.shard.publish(self.vbucket, Slot::Up(Arc::new(after)));
        self.shard.retire(&gone, sequence);
        self.shard.checkpoint_due.tell();
        Ok(match exact {
            Some(seqno) => RolledBack::To { seqno, epoch },
            None => RolledBack::ToZero { epoch },
        })
    }
}

impl Version {
    /// The lowest seqno at or below which `to` must not lie to be known exactly.
    pub(crate) fn exact_at(&self, to: Seqno) -> Seqno {
        let kept = self.segments.iter().map(|view| view.segment.meta());
        let exact = kept
            .filter(|meta| meta.first_seqno <= to)
            .map(|meta| meta.exact_from)
            .max();
        exact.unwrap_or_default().max(self.exact_from)
    }
}

fn cut(meta: &SegmentMeta, to: Seqno) -> SegmentMeta {
    let mut meta = meta.clone();
    if meta.visible_last().min(meta.last_seqno) > to {
        meta.cut = Some(to);
    }
    meta
}

/// The state record of that moment: from the last batch that ended at or below it, and the items since.
pub(crate) fn state_at(
    version: &Version,
    views: &[LayerView],
    current: &VbucketStateRecord,
    to: Seqno,
) -> Result<VbucketStateRecord, StorageError> {
    let unsealed = || views.iter().flat_map(LayerView::boundaries);
    let mut boundary = unsealed().filter(|mark| mark.high_seqno <= to).last();
    let mut next = unsealed().find(|mark| mark.high_seqno > to);
    for view in version.segments.iter().rev() {
        if boundary.is_some() {
            break;
        }
        let marks = view.segment.boundaries()?;
        let limit = to.min(view.high());
        next = marks
            .iter()
            .find(|mark| mark.high_seqno > to)
            .copied()
            .or(next);
        boundary = marks.into_iter().rfind(|mark| mark.high_seqno <= limit);
    }
    let boundary = boundary.unwrap_or_else(|| Watermarks {
        high_seqno: version.exact_from,
        // Known, but not as the end of anything.
        snapshot: SnapshotRange {
            start: Seqno::ZERO,
            end: to.next(),
        },
        ..Watermarks::default()
    });
    let above = operations(version, views, boundary.high_seqno, to)?;
    // The end of a batch that a snapshot of the past cuts off is not one of its own.
    let next = next.filter(|next| next.high_seqno <= current.watermarks.high_seqno);
    let since_ms = next.map(|next| next.commit_time_ms);
    let state = rollback_state::state_at(current, &boundary, since_ms, above, to);
    Ok(state)
}

/// The operations above `after` up to `to`, by seqno.
fn operations(
    version: &Version,
    views: &[LayerView],
    after: Seqno,
    to: Seqno,
) -> Result<Vec<(Seqno, Operation)>, StorageError> {
    let mut operations = Vec::new();
    let mut take = |seqno: Seqno, operation: Operation| {
        if seqno > after && seqno <= to {
            operations.push((seqno, operation));
        }
    };
    for view in &version.segments {
        if view.high() <= after || view.segment.meta().first_seqno > to {
            continue;
        }
        each_record(view, after.next(), &mut |item| {
            take(item.seqno, item.operation);
        })?;
    }
    for item in views.iter().flat_map(LayerView::items) {
        take(item.seqno, item.operation);
    }
    Ok(operations)
}

/// Hands every readable record from `from` on to `visit`, dead ones too.
fn each_record(
    view: &SegmentView,
    from: Seqno,
    visit: &mut dyn FnMut(&ItemView<'_>),
) -> Result<(), StorageError> {
    let mut cursor = SeqnoCursor::new(Arc::clone(&view.segment), from);
    while let Some(mut chunk) = cursor.next_chunk(STEP_BYTES)? {
        while let Some(record) = chunk.next() {
            let item = record?.item;
            if item.seqno > view.high() {
                return Ok(());
            }
            if item.seqno >= from {
                visit(&item);
            }
        }
    }
    Ok(())
}

/// Batch ends at or below `to` in segments that begin above it.
fn boundaries_that_go(version: &Version, to: Seqno) -> Result<Vec<Watermarks>, StorageError> {
    let mut marks = Vec::new();
    for view in &version.segments {
        if view.segment.meta().first_seqno > to {
            let known = view.segment.boundaries()?;
            marks.extend(known.into_iter().filter(|mark| mark.high_seqno <= to));
        }
    }
    Ok(marks)
}

/// The unsealed items up to `to`, in a layer of their own that begins with `boundaries`.
fn layer_at(
    boundaries: &[Watermarks],
    views: &[LayerView],
    state: &VbucketStateRecord,
    to: Seqno,
) -> Layer {
    let before = views.first().map(|view| view.layer().base().watermarks);
    let before = boundaries
        .iter()
        .copied()
        .chain(before)
        .filter(|mark| mark.high_seqno <= to);
    let mut before = before.map(|mark| VbucketStateRecord {
        watermarks: mark,
        ..state.clone()
    });
    let layer = Layer::new(before.next().unwrap_or_else(|| state.clone()));
    for mark in before {
        layer.append(&[], mark, LogPosition::default());
    }
    for view in views {
        let place = view.layer().begin().unwrap_or_default();
        let mut begin = 0;
        for batch in view.batches() {
            let items: Vec<_> = (begin..batch.entries_end)
                .filter_map(|index| view.item(index))
                .take_while(|item| item.seqno <= to)
                .cloned()
                .collect();
            begin = batch.entries_end;
            let is_whole = batch.state.watermarks.high_seqno <= to;
            if items.is_empty() && !is_whole {
                continue;
            }
            let batch_state = if is_whole {
                batch.state.clone()
            } else {
                state.clone()
            };
            layer.append(&items, batch_state, place);
        }
    }
    layer.append(&[], state.clone(), LogPosition::default());
    layer
}

/// Counts of what lives in the segments.
pub(crate) fn sealed_counts(segments: &[SegmentView]) -> Result<VbucketCounts, StorageError> {
    let mut counts = VbucketCounts::default();
    for view in segments {
        each_record(view, Seqno::ZERO, &mut |item| {
            let Ok((collection, _)) = split(item.key) else {
                return;
            };
            if view.dead.contains(item.seqno.0) {
                counts.saw(collection, item.seqno);
            } else {
                counts.gained(collection, Weight::of_view(item), item.seqno);
            }
        })?;
    }
    Ok(counts)
}

impl Job for RollbackJob {
    type Output = RolledBack;
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<RolledBack> {
        self.advance().unwrap_or_else(Outcome::Failed)
    }
}
