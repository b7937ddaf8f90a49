//! The merge: all segments of one vbucket become one, without their dead versions.
//!
//! Invariant: the commit path is touched once, for the publish, which neither copies nor waits: what was sealed
//! meanwhile stays on top, and kills recorded meanwhile are carried over to the output (rule R7). If the vbucket was
//! rolled back or deleted meanwhile, nothing is published (rule R2).

use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::error::StorageError;
use crate::log_store::containers::{EXTENT_ALIGNMENT, NewContainer};
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::segment::{
    ExtentWriter, IndexEntry, KeyCursor, Kill, RecordLocation, Segment, SegmentIdent, SegmentMeta,
    SegmentTail, SegmentWriter, SeqnoCursor,
};
use crate::log_store::shard::{BusyGuard, Shard, Slot};
use crate::log_store::version::{SegmentView, Version};
use crate::outcome::{AbortReason, Job, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::{VbucketId, Watermarks};

/// Bytes read per step.
const STEP_BYTES: usize = 1 << 20;
/// Index entries written per step.
const STEP_ENTRIES: usize = 8192;

/// Merges one vbucket's segments.
#[derive(Debug)]
pub(crate) struct MergeJob {
    shard: Arc<Shard>,
    vbucket: VbucketId,
    history_floor: Seqno,
    busy: Option<BusyGuard>,
    state: Merging,
}

#[derive(Debug)]
enum Merging {
    Begin,
    Copy(Box<Copying>),
    Index(Box<Copying>, Vec<KeyCursor>),
    Finish(Box<Copying>),
    Sync(Box<Merged>),
    SyncDirectory(Box<Merged>),
    Publish(Box<Merged>, Arc<Segment>),
    Done,
}

/// The merge while records are copied.
#[derive(Debug)]
struct Copying {
    place: Place,
    inputs: Vec<SegmentView>,
    kills: Vec<Kill>,
    container: NewContainer,
    writer: SegmentWriter,
    /// Which input is being read.
    input: usize,
    cursor: Option<SeqnoCursor>,
    /// Where each record went, by seqno.
    locations: Vec<(Seqno, RecordLocation)>,
    dropped: RoaringTreemap,
    dropped_bytes: u64,
    exact_from: Seqno,
}

/// A merge with its output written.
#[derive(Debug)]
struct Merged {
    place: Place,
    inputs: Vec<SegmentView>,
    container: Option<NewContainer>,
    meta: SegmentMeta,
    dropped: RoaringTreemap,
    dropped_bytes: u64,
}

impl MergeJob {
    pub(crate) fn new(shard: Arc<Shard>, vbucket: VbucketId, history_floor: Seqno) -> MergeJob {
        MergeJob { shard, vbucket, history_floor, busy: None, state: Merging::Begin }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        self.state = match std::mem::replace(&mut self.state, Merging::Done) {
            Merging::Begin => match self.begin()? {
                Ok(copying) => Merging::Copy(copying),
                Err(outcome) => return Ok(outcome),
            },
            Merging::Copy(copying) => self.copy(copying)?,
            Merging::Index(copying, cursors) => self.index(copying, cursors)?,
            Merging::Finish(copying) => self.finish(*copying)?,
            Merging::Sync(merged) => {
                let synced = merged.container.as_ref().map_or(Ok(()), |new| new.file.sync());
                self.or_discard(synced.map_err(Into::into), &merged)?;
                Merging::SyncDirectory(merged)
            }
            Merging::SyncDirectory(merged) => {
                let synced = self.shard.disk.sync_directory();
                self.or_discard(synced.map_err(Into::into), &merged)?;
                self.open(merged)?
            }
            Merging::Publish(merged, segment) => return self.publish(merged, segment),
            Merging::Done => return Ok(Outcome::Complete(())),
        };
        Ok(Outcome::Yielded)
    }

    fn begin(&mut self) -> Result<Result<Box<Copying>, Outcome<()>>, StorageError> {
        let Some(busy) = self.shard.merging.try_begin() else {
            return Ok(Err(Outcome::Aborted(AbortReason::Superseded)));
        };
        let version = self.shard.version(self.vbucket)?;
        if version.segments.is_empty() {
            return Ok(Err(Outcome::Complete(())));
        }
        self.busy = Some(busy);
        let mut kills = Vec::new();
        for view in &version.segments {
            kills.extend(view.kills()?);
        }
        kills.sort_unstable_by_key(|kill| kill.victim);
        let container = self.shard.containers.create()?;
        let writer = self.new_writer(&container, version.place).inspect_err(|_| {
            self.shard.containers.discard(&container);
        })?;
        let newest = version.segments.iter().map(|view| view.segment.meta().exact_from).max();
        Ok(Ok(Box::new(Copying {
            place: version.place,
            inputs: version.segments.clone(),
            kills,
            container,
            writer,
            input: 0,
            cursor: None,
            locations: Vec::new(),
            dropped: RoaringTreemap::new(),
            dropped_bytes: 0,
            exact_from: newest.unwrap_or(Seqno::ZERO),
        })))
    }

    fn new_writer(
        &self,
        container: &NewContainer,
        place: Place,
    ) -> Result<SegmentWriter, StorageError> {
        let extent = ExtentWriter::new(
            Arc::clone(&container.file),
            Arc::clone(&container.name),
            EXTENT_ALIGNMENT,
        );
        let ident = SegmentIdent {
            vbucket: place.vbucket,
            incarnation: place.incarnation,
            epoch: place.epoch,
        };
        SegmentWriter::new(extent, self.shard.options.segment_options(), ident)
    }

    fn copy(&self, mut copying: Box<Copying>) -> Result<Merging, StorageError> {
        if let Some(reason) = self.overtaken(&copying) {
            return Err(reason);
        }
        let more = copying.copy_chunk(self.history_floor);
        let more = self.or_discard_new(more, &copying.container)?;
        if more {
            return Ok(Merging::Copy(copying));
        }
        let begun = copying.writer.begin_index();
        self.or_discard_new(begun, &copying.container)?;
        let cursors = copying.inputs.iter();
        let cursors = cursors.map(|view| KeyCursor::new(Arc::clone(&view.segment), &[])).collect();
        Ok(Merging::Index(copying, cursors))
    }
}
