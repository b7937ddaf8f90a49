//! The compaction: all segments of one vbucket become one, without what nobody can ask for any more.
//!
//! Invariant: passes over the indexes find what goes and write nothing; the commit path is touched once, for the
//! publish, which neither copies nor waits for more than a sync (rules R7, R12). If the vbucket was rolled back or
//! deleted meanwhile, nothing is published (rule R2).
//!
//! ```text
//!   seal -> read -> pass over each dropped collection -> prepares -> system events -> copy -> index -> sync -> publish
//!                   '--------- find: seqnos that go, what they counted ---------'    '- what stays -'
//! ```

mod found;
mod passes;
mod kills;
mod marks;
mod places;
mod run;
mod copying;
mod publish;
mod retained;
mod merge;
#[cfg(feature = "planted")]
mod replaced;

use std::sync::Arc;

use crate::collections::DroppedCollection;
use crate::compaction::{
    Compacted, CompactionFailure, CompactionProgress, CompactionRequest, CompactionStage,
    ExpiredDocument, Highest, Rules,
};
use crate::error::StorageError;
use crate::log_store::log::payload::Place;
use crate::log_store::output::Output;
use crate::log_store::seal::SealJob;
use crate::log_store::segment::{KeyCursor, Segment, SegmentIdent, SegmentWriter};
#[cfg(feature = "planted")]
use crate::log_store::shard::WriterGuard;
use crate::log_store::shard::{Busy, Shard};
use crate::log_store::version::Version;
use crate::outcome::{AbortReason, Job, Outcome};
#[cfg(feature = "planted")]
use crate::planted::{self, Bug};
use crate::vbucket::VbucketId;

use copying::Copying;
pub(crate) use merge::MergeJob;
use passes::Pass;
use publish::Merged;
use run::Run;

/// Compacts one vbucket, in steps.
#[derive(Debug)]
pub struct CompactionJob {
    shard: Arc<Shard>,
    vbucket: VbucketId,
    request: CompactionRequest,
    work: Work,
    output: Output,
    state: Compacting,
    /// The past that is compacted, since the first step.
    place: Option<Place>,
    /// The first pass over a dropped collection that failed, and why.
    failed: Option<(CompactionStage, StorageError)>,
    /// Why the next step is to fail.
    injected: Option<StorageError>,
    expired: Vec<ExpiredDocument>,
    bytes: Bytes,
    #[cfg(feature = "planted")]
    held: Option<WriterGuard>,
    #[cfg(feature = "planted")]
    then: Option<Arc<Version>>,
}

/// What a compaction does besides leaving out what is superseded, and to how many segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// What the request says, to all.
    Purge,
    /// Nothing, to all.
    MergeAll,
    /// Nothing, to the newest ([`merge::first_of_newest`]).
    MergeNewest,
}

/// Bytes of records, and of the output.
#[derive(Clone, Copy, Debug, Default)]
struct Bytes {
    read: u64,
    total: u64,
    written: u64,
}

#[derive(Debug)]
enum Compacting {
    Begin,
    Seal(Box<SealJob>),
    Read,
    Highest(Box<Run>, Pass, Highest),
    Collection(Box<Run>, DroppedCollection, Pass),
    Prepare(Box<Run>, Pass),
    SystemEvent(Box<Run>, Pass),
    Copy(Box<Copying>),
    Index(Box<Copying>, Vec<KeyCursor>),
    Finish(Box<Copying>),
    Sync(Box<Merged>),
    SyncDirectory(Box<Merged>),
    Publish(Box<Merged>, Arc<Segment>),
    Done,
}

impl CompactionJob {
    pub(crate) fn new(
        shard: Arc<Shard>,
        vbucket: VbucketId,
        request: CompactionRequest,
    ) -> CompactionJob {
        let output = Output::new(Arc::clone(&shard));
        let work = if request.newest_only {
            Work::MergeNewest
        } else {
            Work::Purge
        };
        CompactionJob {
            shard,
            vbucket,
            request,
            work,
            output,
            state: Compacting::Begin,
            place: None,
            failed: None,
            injected: None,
            expired: Vec::new(),
            bytes: Bytes::default(),
            #[cfg(feature = "planted")]
            held: None,
            #[cfg(feature = "planted")]
            then: None,
        }
    }

    /// What the next step works on, and how far it has come.
    #[must_use]
    pub fn progress(&self) -> CompactionProgress {
        CompactionProgress {
            stage: self.stage(),
            bytes_read: self.bytes.read,
            bytes_total: self.bytes.total,
            bytes_written: self.bytes.written,
        }
    }

    /// The documents whose time is up that the last step found.
    pub fn take_expired(&mut self) -> Vec<ExpiredDocument> {
        std::mem::take(&mut self.expired)
    }

    /// Lets the next step end with `cause`, as if the disk had said it then: what whoever drives this could not read of the
    /// vbucket, or what a test asks for.
    pub fn fail_next_step(&mut self, cause: StorageError) {
        self.injected = Some(cause);
    }

    fn stage(&self) -> CompactionStage {
        match &self.state {
            Compacting::Begin
            | Compacting::Seal(_)
            | Compacting::Read
            | Compacting::Highest(..) => CompactionStage::Start,
            Compacting::Collection(_, dropped, _) => {
                CompactionStage::Collection(dropped.collection)
            }
            Compacting::Prepare(..) => CompactionStage::Prepare,
            Compacting::SystemEvent(..) => CompactionStage::SystemEvent,
            Compacting::Copy(_)
            | Compacting::Index(..)
            | Compacting::Finish(_)
            | Compacting::Sync(_)
            | Compacting::SyncDirectory(_) => CompactionStage::Merge,
            Compacting::Publish(..) | Compacting::Done => CompactionStage::Publish,
        }
    }

    fn advance(&mut self) -> Result<Outcome<Compacted, CompactionFailure>, StorageError> {
        if let Some(Err(reason)) = self.place.map(|place| self.shard.version_of(place)) {
            return Ok(Outcome::Aborted(reason));
        }
        self.state = match std::mem::replace(&mut self.state, Compacting::Done) {
            Compacting::Begin => {
                let version = self.shard.version(self.vbucket)?;
                let busy = self.shard.merging(self.vbucket);
                let Some(busy) = busy.and_then(Busy::try_begin) else {
                    return Ok(Outcome::Aborted(AbortReason::Superseded));
                };
                self.output.begin(busy);
                self.place = Some(version.place);
                if self.work == Work::Purge {
                    let (shard, floor) = (Arc::clone(&self.shard), self.request.history_floor);
                    Compacting::Seal(Box::new(SealJob::one(shard, self.vbucket, floor)))
                } else {
                    return self.read(&version);
                }
            }
            Compacting::Seal(mut seal) => match seal.step() {
                Outcome::Yielded => Compacting::Seal(seal),
                Outcome::Complete(()) => Compacting::Read,
                Outcome::Aborted(reason) => return Ok(Outcome::Aborted(reason)),
                Outcome::Failed(cause) => return Err(cause),
            },
            Compacting::Read => {
                let version = self.shard.version(self.vbucket)?;
                return self.read(&version);
            }
            Compacting::Highest(run, pass, highest) => self.highest(run, pass, highest)?,
            Compacting::Collection(run, dropped, pass) => self.collection(run, dropped, pass)?,
            Compacting::Prepare(run, pass) => self.prepare(run, pass)?,
            Compacting::SystemEvent(run, pass) => self.system_event(run, pass)?,
            Compacting::Publish(merged, segment) => return self.publish(merged, segment),
            Compacting::Done => {
                return Ok(Outcome::Complete(Compacted::default()));
            }
            writing @ (Compacting::Copy(_)
            | Compacting::Index(..)
            | Compacting::Finish(_)
            | Compacting::Sync(_)
            | Compacting::SyncDirectory(_)) => self.write(writing)?,
        };
        Ok(Outcome::Yielded)
    }

    /// Reads what is compacted, and decides what is to be found.
    fn read(
        &mut self,
        version: &Arc<Version>,
    ) -> Result<Outcome<Compacted, CompactionFailure>, StorageError> {
        if version.segments.is_empty() {
            let state = version.state().ok_or(StorageError::Closed)?;
            return Ok(Outcome::Complete(Compacted {
                purge_seqno: state.watermarks.purge_seqno,
                ..Compacted::default()
            }));
        }
        #[cfg(feature = "planted")]
        if planted::is(Bug::MergeHoldsCommits) {
            self.held = self.shard.writer();
        }
        #[cfg(feature = "planted")]
        if planted::is(Bug::PublishReplacesAll) {
            self.then = replaced::frozen(version);
        }
        let first = match self.work {
            Work::Purge | Work::MergeAll => 0,
            Work::MergeNewest => merge::first_of_newest(&version.segments),
        };
        let mut run = Box::new(Run::from(version, first));
        if let Some(history) = &self.shard.history {
            let floor = retained::floor(&run, version, history, self.request.now_ms)?;
            self.request.history_floor = floor.min(self.request.history_floor);
        }
        if self.work == Work::Purge {
            run.purges(version, &self.request)?;
        }
        let views = run.views.iter().map(|view| view.segment.meta().data_bytes);
        self.bytes.total = views.sum();
        self.state = if run.rules.as_ref().is_some_and(Rules::has_history) {
            Compacting::Highest(run, Pass::over_all(), Highest::default())
        } else {
            self.next_pass(run)?
        };
        Ok(Outcome::Yielded)
    }

    /// Below a history floor what is highest is not what the counts say.
    fn highest(
        &mut self,
        mut run: Box<Run>,
        mut pass: Pass,
        mut highest: Highest,
    ) -> Result<Compacting, StorageError> {
        let floor = self.request.history_floor;
        if pass.step_highest(&run.views, floor, &mut highest)? {
            return Ok(Compacting::Highest(run, pass, highest));
        }
        if let Some(rules) = &mut run.rules {
            rules.set_highest(highest);
        }
        self.next_pass(run)
    }

    /// The next pass there is, or the writing.
    fn next_pass(&mut self, mut run: Box<Run>) -> Result<Compacting, StorageError> {
        if run.rules.is_none() {
            return self.begin_copy(run);
        }
        Ok(match run.dropped.pop_front() {
            Some(dropped) => {
                let pass = Pass::over_collection(dropped.collection);
                Compacting::Collection(run, dropped, pass)
            }
            None => Compacting::Prepare(run, Pass::over_prepares()),
        })
    }

    /// A failed pass over one collection leaves that one as it is, and the others go on (MB-49742).
    fn collection(
        &mut self,
        mut run: Box<Run>,
        dropped: DroppedCollection,
        mut pass: Pass,
    ) -> Result<Compacting, StorageError> {
        let stepped = match self.injected.take() {
            Some(cause) => Err(cause),
            None => pass.step_collection(&run.views, &dropped, &run.found.seqnos),
        };
        match stepped {
            Ok(true) => return Ok(Compacting::Collection(run, dropped, pass)),
            Ok(false) => run.found.absorb_collection(pass.found, dropped),
            Err(cause) => {
                let stage = CompactionStage::Collection(dropped.collection);
                tracing::warn!(vbucket = %self.vbucket, %stage, %cause, "a pass failed");
                self.failed.get_or_insert((stage, cause));
                if let Some(rules) = &mut run.rules {
                    rules.keep(dropped);
                }
            }
        }
        self.next_pass(run)
    }

    /// A failed pass over the prepares fails the whole run (MB-50060).
    fn prepare(&mut self, mut run: Box<Run>, mut pass: Pass) -> Result<Compacting, StorageError> {
        let stepped = match (self.injected.take(), &run.rules) {
            (Some(cause), _) => Err(cause),
            (None, Some(rules)) => pass.step_prepares(&run.views, rules, &run.found.erased),
            (None, None) => Ok(false),
        };
        #[cfg(feature = "planted")]
        let stepped = match stepped {
            Err(_) if planted::is(Bug::FailedPreparePassIsComplete) => Ok(false),
            stepped => stepped,
        };
        if stepped? {
            return Ok(Compacting::Prepare(run, pass));
        }
        run.found.absorb(pass.found);
        Ok(Compacting::SystemEvent(run, Pass::over_system_events()))
    }

    fn system_event(
        &mut self,
        mut run: Box<Run>,
        mut pass: Pass,
    ) -> Result<Compacting, StorageError> {
        if let Some(cause) = self.injected.take() {
            return Err(cause);
        }
        let more = match &run.rules {
            Some(rules) => pass.step_system_events(&run.views, rules)?,
            None => false,
        };
        if more {
            return Ok(Compacting::SystemEvent(run, pass));
        }
        run.found.absorb(pass.found);
        self.begin_copy(run)
    }

    fn begin_copy(&mut self, run: Box<Run>) -> Result<Compacting, StorageError> {
        let Place {
            vbucket,
            incarnation,
            epoch,
        } = run.place;
        let extent = self.output.create(self.request.sync_bytes)?;
        let ident = SegmentIdent {
            vbucket,
            incarnation,
            epoch,
        };
        let writer = SegmentWriter::new(extent, self.shard.options.segment_options(), ident);
        let batch_ends_max = match self.shard.history {
            Some(_) => retained::BATCH_ENDS_MAX.max(self.shard.options.batch_ends_max),
            None => self.shard.options.batch_ends_max,
        };
        let copying = Copying::new(*run, writer, batch_ends_max)?;
        Ok(Compacting::Copy(Box::new(copying)))
    }

    /// The steps in which the output is written.
    fn write(&mut self, state: Compacting) -> Result<Compacting, StorageError> {
        Ok(match state {
            Compacting::Copy(mut copying) => {
                let floor = self.request.history_floor;
                let more = copying.copy_chunk(floor, &mut self.expired)?;
                self.bytes.read = copying.bytes_read();
                self.bytes.written = copying.bytes_written();
                if more {
                    Compacting::Copy(copying)
                } else {
                    let cursors = copying.begin_index()?;
                    Compacting::Index(copying, cursors)
                }
            }
            Compacting::Index(mut copying, mut cursors) => {
                let more = copying.index_entries(&mut cursors)?;
                self.bytes.written = copying.bytes_written();
                if more {
                    Compacting::Index(copying, cursors)
                } else {
                    Compacting::Finish(copying)
                }
            }
            Compacting::Finish(copying) => {
                let id = self.shard.new_segment_id();
                let merged = copying.finish(id, self.output.number())?;
                self.bytes.written = merged.meta.length;
                Compacting::Sync(Box::new(merged))
            }
            Compacting::Sync(merged) => {
                self.output.sync()?;
                Compacting::SyncDirectory(merged)
            }
            Compacting::SyncDirectory(merged) => {
                self.output.adopt(vec![merged.meta.clone()])?;
                let segment = self.shard.containers.open_segment(&merged.meta)?;
                Compacting::Publish(merged, segment)
            }
            other @ (Compacting::Begin
            | Compacting::Seal(_)
            | Compacting::Read
            | Compacting::Highest(..)
            | Compacting::Collection(..)
            | Compacting::Prepare(..)
            | Compacting::SystemEvent(..)
            | Compacting::Publish(..)
            | Compacting::Done) => other,
        })
    }

    /// Whether the next step passes over something, and so decides itself what a failure means.
    fn is_passing(&self) -> bool {
        matches!(
            self.state,
            Compacting::Collection(..) | Compacting::Prepare(..) | Compacting::SystemEvent(..)
        )
    }
}

impl Job for CompactionJob {
    type Output = Compacted;
    type Failure = CompactionFailure;

    fn step(&mut self) -> Outcome<Compacted, CompactionFailure> {
        let stage = self.stage();
        self.expired.clear();
        let injected = if self.is_passing() {
            None
        } else {
            self.injected.take()
        };
        let result = match injected {
            Some(cause) => Err(cause),
            None => self.advance(),
        };
        let result = result.map_err(|cause| CompactionFailure::at(stage, cause));
        let outcome = self.output.after_step(result);
        if !matches!(outcome, Outcome::Yielded) {
            self.state = Compacting::Done;
        }
        outcome
    }
}
