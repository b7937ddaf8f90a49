//! Reading through a cursor, in bounded slices.
//!
//! Invariant: a piece never spans two checkpoints; a call stops behind a disk checkpoint and where the kind of
//! checkpoint changes. What a stream was told of a snapshot stays true until it has read it, in however many calls.

use std::ops::Range;
use std::sync::Arc;

use storage::{Item, Namespace, Seqno, VbucketIdentity};

use super::chain::{Chain, CheckpointId, Place};
use super::content::{Checkpoint, CheckpointKind, Content};
use super::cursor::{Cursor, CursorId, Told};
use super::error::CursorError;
use super::log::CheckpointLog;

/// How much one call takes. The first item is taken whatever its size, and a run of system events is never cut for the
/// flusher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TakeLimits {
    /// Items at most.
    pub items_max: usize,
    /// Bytes of keys and values at most.
    pub bytes_max: usize,
}

impl TakeLimits {
    /// No limits.
    pub const NONE: TakeLimits = TakeLimits {
        items_max: usize::MAX,
        bytes_max: usize::MAX,
    };
}

/// What a cursor read.
#[must_use]
#[derive(Debug, Default)]
pub struct Taken {
    /// The items by rising seqno.
    pub items: Vec<Arc<Item>>,
    /// The snapshots they belong to; together they cover `items`. None is empty.
    pub pieces: Vec<SnapshotPiece>,
    /// For the flusher: the newest identity passed, to be stored with these items.
    pub identity: Option<Arc<VbucketIdentity>>,
    /// Once this is stored, every write up to here is safe: itself, or the newer version that took its place. Between
    /// this and the last item something may be missing whose newer version comes later.
    pub settled: Seqno,
    /// Whether the cursor has more to read at once. Without it [`CheckpointLog::remaining`] may still name items: a
    /// stream on a replica may have to wait until the source's snapshot is whole.
    pub more: bool,
}

/// Items of one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotPiece {
    /// The checkpoint they lie in.
    pub checkpoint: CheckpointId,
    /// Its kind.
    pub kind: CheckpointKind,
    /// Whether the snapshot may hold several versions of a key.
    pub history: bool,
    /// Which of the taken items.
    pub items: Range<usize>,
    /// First seqno of the snapshot. Above the end of the one told before.
    pub start: Seqno,
    /// Last seqno of the snapshot; a later piece may bring it.
    pub end: Seqno,
    /// What a stream sends before the items.
    pub opening: Opening,
    /// Whether the reader now holds the whole snapshot.
    pub completes: bool,
    /// Highest seqno of the checkpoint that readers without sync-writes may see.
    pub visible_end: Option<Seqno>,
    /// Highest completed prepare; always there on a disk checkpoint.
    pub high_completed: Option<Seqno>,
    /// Highest prepare held acknowledged.
    pub high_prepared: Seqno,
    /// Highest tombstone the source had purged.
    pub purge_seqno: Option<Seqno>,
}

/// How a piece begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// First piece of its checkpoint: a marker with the checkpoint flag.
    Checkpoint,
    /// A further snapshot of the same checkpoint: a marker.
    Snapshot,
    /// A further piece of the snapshot told before: no marker.
    Continues,
    /// The snapshot told before was given up by its source, and its end will never come. A stream that sent its marker
    /// cannot go on and ends; the reader is as good as this piece's start.
    AfterCut,
}

impl CheckpointLog {
    /// Takes what lies behind a cursor, and moves it.
    pub fn take(&mut self, cursor: CursorId, limits: TakeLimits) -> Result<Taken, CursorError> {
        let reader = self.cursors.get_mut(cursor);
        let reader = reader.ok_or(CursorError::Gone(cursor))?;
        let mut taken = Taken::default();
        let is_whole = reader.is_flush() && self.whole_flushes;
        // A checkpoint is bounded by itself.
        let mut budget = if is_whole { TakeLimits::NONE } else { limits };
        let mut waits = false;
        while let Some(checkpoint) = self.chain.get(reader.at.checkpoint) {
            match read(reader, checkpoint, &mut budget, &mut taken) {
                Stopped::EndOfTold => continue,
                Stopped::Budget => break,
                Stopped::NotWhole => {
                    waits = true;
                    break;
                }
                Stopped::EndOfCheckpoint if checkpoint.id == self.chain.open.id => break,
                Stopped::EndOfCheckpoint => {}
            }
            reader.at = Place {
                checkpoint: checkpoint.id.next(),
                position: 0,
            };
            reader.begun = false;
            if must_stop(&self.chain, reader, &taken) {
                break;
            }
            if is_whole && !taken.items.is_empty() {
                // Only what may not be parted from it follows.
                budget = TakeLimits {
                    items_max: 0,
                    bytes_max: 0,
                };
            }
        }
        taken.settled = settled(&self.chain, reader);
        taken.more = !waits && has_more(reader, self.items_queued, self.identities_queued);
        self.free_unneeded();
        Ok(taken)
    }

    /// How many items a cursor has yet to read.
    pub fn remaining(&self, cursor: CursorId) -> Result<u64, CursorError> {
        let reader = self.cursors.get(cursor);
        let reader = reader.ok_or(CursorError::Gone(cursor))?;
        Ok(self.items_queued.saturating_sub(reader.items_done))
    }

    /// Whether more lies behind a cursor than two full checkpoints hold, in items or in bytes, what is left of the one it
    /// stands in included.
    #[must_use]
    pub fn is_far_behind(&self, cursor: CursorId) -> bool {
        let Some(reader) = self.cursors.get(cursor) else {
            return false;
        };
        let items = self.items_queued.saturating_sub(reader.items_done);
        let items_max = self.limits.items_max.saturating_mul(2);
        let kept = self.chain.iter();
        let bytes = kept
            .filter(|one| one.id >= reader.at.checkpoint)
            .fold(0usize, |sum, one| sum.saturating_add(one.bytes));
        items > items_max as u64 || bytes > self.limits.bytes_max.saturating_mul(2)
    }

    /// Whether the flusher has anything to take: items, or a change of identity.
    #[must_use]
    pub fn has_unflushed(&self) -> bool {
        let flush = &self.cursors.flush;
        has_more(flush, self.items_queued, self.identities_queued)
    }
}

fn has_more(reader: &Cursor, items_queued: u64, identities_queued: u64) -> bool {
    let has_identities = reader.is_flush() && reader.identities_done < identities_queued;
    has_identities || reader.items_done < items_queued
}

/// Whether a call ends before the checkpoint the reader stands in.
fn must_stop(chain: &Chain, reader: &Cursor, taken: &Taken) -> bool {
    let (Some(last), Some(next)) = (taken.pieces.last(), chain.get(reader.at.checkpoint)) else {
        return false;
    };
    last.kind.is_disk() || last.kind != next.kind || last.history != next.history
}

/// Where reading of one piece stopped.
enum Stopped {
    EndOfCheckpoint,
    /// What lies behind was queued after the reader was told of its snapshot, and is the next one.
    EndOfTold,
    /// Snapshots taken as one are told only when they are whole: till then an item may still give way to one that
    /// the same marker would cover.
    NotWhole,
    Budget,
}

/// Reads a piece of one checkpoint.
fn read(
    reader: &mut Cursor,
    checkpoint: &Checkpoint,
    budget: &mut TakeLimits,
    taken: &mut Taken,
) -> Stopped {
    let (first, before) = (taken.items.len(), reader.seen);
    let last = if reader.is_inside_told() {
        reader.told.end
    } else if reader.is_stream() && checkpoint.is_extended && !checkpoint.is_whole() {
        return Stopped::NotWhole;
    } else {
        Seqno::MAX
    };
    let mut stopped = Stopped::EndOfCheckpoint;
    for slot in checkpoint.slots_from(reader.at.position) {
        match &slot.content {
            Content::Item { item, .. } => {
                if slot.seqno > last {
                    stopped = Stopped::EndOfTold;
                    break;
                }
                if !fits(item, budget, taken.items.last(), reader.is_flush()) {
                    stopped = Stopped::Budget;
                    break;
                }
                taken.items.push(Arc::clone(item));
                reader.seen = slot.seqno;
                reader.items_done = reader.items_done.saturating_add(1);
            }
            Content::Identity(identity) if reader.is_flush() => {
                taken.identity = Some(Arc::clone(identity));
                reader.identities_done = reader.identities_done.saturating_add(1);
            }
            Content::Identity(_) | Content::Hole => {}
        }
        reader.at.position = reader.at.position.saturating_add(1);
    }
    if taken.items.len() > first {
        let items = first..taken.items.len();
        let piece = piece(reader, checkpoint, items, before);
        taken.pieces.push(piece);
        reader.begun = true;
    }
    if matches!(stopped, Stopped::EndOfTold) {
        // It was read to its end; said again so that going on never depends on that.
        reader.told.end = reader.seen;
    }
    stopped
}

/// Whether there is room for an item. The first one always goes, and to the store so do system events behind each other:
/// they are one change of the manifest, which it gets as a whole. A stream sends them one by one.
fn fits(
    item: &Item,
    budget: &mut TakeLimits,
    before: Option<&Arc<Item>>,
    is_for_store: bool,
) -> bool {
    let bytes = usize::try_from(item.user_bytes()).unwrap_or(usize::MAX);
    let is_event = |item: &Item| item.namespace() == Namespace::SystemEvent;
    let is_one_change = |before: &Item| is_for_store && is_event(before) && is_event(item);
    let must_go = before.is_none_or(|before| is_one_change(before));
    if !must_go && (budget.items_max == 0 || bytes > budget.bytes_max) {
        return false;
    }
    budget.items_max = budget.items_max.saturating_sub(1);
    budget.bytes_max = budget.bytes_max.saturating_sub(bytes);
    true
}

/// Describes what was read of `checkpoint` by a reader that had seen everything up to `before`.
fn piece(
    reader: &mut Cursor,
    checkpoint: &Checkpoint,
    items: Range<usize>,
    before: Seqno,
) -> SnapshotPiece {
    let opening = if reader.told.was_cut {
        Opening::AfterCut
    } else if before < reader.told.end {
        Opening::Continues
    } else if reader.begun {
        Opening::Snapshot
    } else {
        Opening::Checkpoint
    };
    let told = match opening {
        Opening::Continues => reader.told,
        Opening::Checkpoint | Opening::Snapshot | Opening::AfterCut => Told {
            start: checkpoint.snapshot_start.max(before.next()),
            end: checkpoint.snapshot_end,
            was_cut: false,
        },
    };
    if reader.is_stream() {
        reader.told = told;
    }
    SnapshotPiece {
        checkpoint: checkpoint.id,
        kind: checkpoint.kind,
        history: checkpoint.history,
        items,
        start: told.start,
        end: told.end,
        opening,
        completes: reader.seen == told.end,
        visible_end: checkpoint.visible_end,
        high_completed: checkpoint.high_completed,
        high_prepared: checkpoint.high_prepared,
        purge_seqno: checkpoint.purge_seqno,
    }
}

/// Up to where the reader holds every version or its successor.
fn settled(chain: &Chain, reader: &Cursor) -> Seqno {
    let Some(checkpoint) = chain.get(reader.at.checkpoint) else {
        return reader.seen;
    };
    match checkpoint.first_hole {
        Some(hole) if hole <= reader.seen && reader.at.position < checkpoint.end() => {
            Seqno(hole.0.saturating_sub(1))
        }
        _ => reader.seen,
    }
}
