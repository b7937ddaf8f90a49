//! Copying out: what still lives of a mostly dead container moves to a new one, so that the old can go.
//!
//! Invariant: a segment's bytes do not depend on where they lie, so they are copied as they are; the move is an
//! edit like any other, and the old extents stay until it is durable and unread (rule R13).

use std::collections::VecDeque;
use std::sync::Arc;

use crate::compaction::CompactionRequest;
use crate::disk::DiskFile;
use crate::error::StorageError;
use crate::log_store::containers::EXTENT_ALIGNMENT;
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::output::Output;
use crate::log_store::segment::{ExtentWriter, Segment, SegmentMeta};
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::version::Version;
use crate::outcome::{AbortReason, Job, Outcome};

const STEP_BYTES: usize = 1 << 20;

/// Moves the live segments of one container.
#[derive(Debug)]
pub(crate) struct CopyOutJob {
    shard: Arc<Shard>,
    from: u64,
    output: Output,
    state: CopyingOut,
}

#[derive(Debug)]
enum CopyingOut {
    Begin,
    Copy {
        extent: ExtentWriter,
        todo: VecDeque<Moving>,
        done: Vec<Moving>,
    },
    Sync(Vec<Moving>),
    SyncDirectory(Vec<Moving>),
    Publish(Vec<(Moving, Arc<Segment>)>),
    Done,
}

/// A segment on the move.
#[derive(Debug)]
struct Moving {
    place: Place,
    source: Arc<dyn DiskFile>,
    /// Keeps the old bytes while they are read.
    _segment: Arc<Segment>,
    old: SegmentMeta,
    new: SegmentMeta,
    copied: u64,
}

impl CopyOutJob {
    pub(crate) fn new(shard: Arc<Shard>, from: u64) -> CopyOutJob {
        let output = Output::new(Arc::clone(&shard));
        CopyOutJob {
            shard,
            from,
            output,
            state: CopyingOut::Begin,
        }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        self.state = match std::mem::replace(&mut self.state, CopyingOut::Done) {
            CopyingOut::Begin => {
                // Compactions go on meanwhile: one that replaces what is being moved makes that copy useless, and one
                // whose input was moved publishes all the same, because edits name segments by their numbers.
                let Some(busy) = self.shard.copying_out.try_begin() else {
                    return Ok(Outcome::Aborted(AbortReason::Superseded));
                };
                self.output.begin(busy);
                let todo = self.live_segments()?;
                if todo.is_empty() {
                    self.shard.containers.leave_sparse(self.from);
                    return Ok(Outcome::Complete(()));
                }
                let extent = self.output.create(CompactionRequest::SYNC_BYTES)?;
                CopyingOut::Copy {
                    extent,
                    todo,
                    done: Vec::new(),
                }
            }
            CopyingOut::Copy { extent, todo, done } => self.copy(extent, todo, done)?,
            CopyingOut::Sync(done) => {
                self.output.sync()?;
                CopyingOut::SyncDirectory(done)
            }
            CopyingOut::SyncDirectory(done) => self.open(done)?,
            CopyingOut::Publish(moved) => return self.publish(moved),
            CopyingOut::Done => return Ok(Outcome::Complete(())),
        };
        Ok(Outcome::Yielded)
    }

    fn live_segments(&self) -> Result<VecDeque<Moving>, StorageError> {
        let mut found = VecDeque::new();
        for version in self.shard.versions() {
            for view in &version.segments {
                let meta = view.segment.meta();
                if meta.container != self.from {
                    continue;
                }
                found.push_back(Moving {
                    place: version.place,
                    source: self.shard.containers.lease(meta)?.0,
                    _segment: Arc::clone(&view.segment),
                    old: meta.clone(),
                    new: meta.clone(),
                    copied: 0,
                });
            }
        }
        Ok(found)
    }

    /// Copies the next piece.
    fn copy(
        &self,
        mut extent: ExtentWriter,
        mut todo: VecDeque<Moving>,
        mut done: Vec<Moving>,
    ) -> Result<CopyingOut, StorageError> {
        let Some(mut moving) = todo.pop_front() else {
            extent.flush()?;
            return Ok(CopyingOut::Sync(done));
        };
        if moving.copied == 0 {
            extent.align(EXTENT_ALIGNMENT)?;
            moving.new.offset = extent.position();
            moving.new.container = self.output.number();
        }
        let left = moving.old.length.saturating_sub(moving.copied);
        let length = usize::try_from(left).unwrap_or(STEP_BYTES).min(STEP_BYTES);
        let mut bytes = vec![0u8; length];
        moving
            .source
            .read_at(&mut bytes, moving.old.offset.saturating_add(moving.copied))?;
        extent.write(&bytes)?;
        moving.copied = moving.copied.saturating_add(length as u64);
        if moving.copied < moving.old.length {
            todo.push_front(moving);
        } else {
            done.push(moving);
        }
        Ok(CopyingOut::Copy { extent, todo, done })
    }

    /// Opens the copies, which verifies their footers. A damaged source is found here, and stays where it is.
    fn open(&mut self, done: Vec<Moving>) -> Result<CopyingOut, StorageError> {
        let metas = done.iter().map(|moving| moving.new.clone());
        self.output.adopt(metas.collect())?;
        let mut moved = Vec::with_capacity(done.len());
        for moving in done {
            let segment = self.shard.containers.open_segment(&moving.new)?;
            moved.push((moving, segment));
        }
        Ok(CopyingOut::Publish(moved))
    }

    fn publish(&mut self, moved: Vec<(Moving, Arc<Segment>)>) -> Result<Outcome<()>, StorageError> {
        let Some(mut writer) = self.shard.writer() else {
            self.state = CopyingOut::Publish(moved);
            return Ok(Outcome::Yielded);
        };
        self.output
            .hand_over(moved.iter().map(|(moving, _)| &moving.new));
        let (still_there, gone): (Vec<_>, Vec<_>) = moved
            .into_iter()
            .partition(|(moving, _)| self.is_there(moving));
        self.shard
            .retire(gone.iter().map(|(moving, _)| &moving.new), 0);
        if still_there.is_empty() {
            return Ok(Outcome::Aborted(AbortReason::Superseded));
        }
        let edits: Vec<Edit> = still_there
            .iter()
            .map(|(moving, _)| moving.edit())
            .collect();
        let next = writer.log.last_sequence().saturating_add(1);
        let sequence = writer.write_edits(&edits).inspect_err(|_| {
            self.shard
                .retire(still_there.iter().map(|(moving, _)| &moving.new), next);
        })?;
        for (moving, segment) in still_there {
            let vbucket = moving.place.vbucket;
            let version = self.shard.version(vbucket)?;
            let mut after = Version::clone(&version);
            for view in &mut after.segments {
                if view.segment.meta().id == moving.old.id {
                    view.segment = Arc::clone(&segment);
                }
            }
            self.shard.publish(vbucket, Slot::Up(Arc::new(after)));
            self.shard.retire([&moving.old], sequence);
        }
        Ok(Outcome::Complete(()))
    }

    fn is_there(&self, moving: &Moving) -> bool {
        self.shard.version_of(moving.place).is_ok_and(|version| {
            version
                .segments
                .iter()
                .any(|view| *view.segment.meta() == moving.old)
        })
    }
}

impl Moving {
    fn edit(&self) -> Edit {
        Edit::Relocate {
            place: self.place,
            segment: self.old.id,
            container: self.new.container,
            offset: self.new.offset,
        }
    }
}

impl Job for CopyOutJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let result = self.advance();
        self.output.after_step(result)
    }
}
