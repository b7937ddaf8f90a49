//! The seal: unsealed items of many vbuckets become segments in one container file, with one sync.
//!
//! Invariant: the commit path is touched to freeze the layers and to publish, both a few vbuckets at a time, a few
//! pointers for each; what grows with a vbucket is made ready, and freed, without the writer's lock. Until the publish
//! the items are served from the frozen layers; a seal that fails leaves them there, and the next one takes them.
//! Versions whose killer is above the history floor are kept (rule R11).

mod freezing;
mod ready;
mod run;

use std::collections::VecDeque;
use std::sync::Arc;

use crate::compaction::CompactionRequest;
use crate::counts::VbucketCounts;
use crate::error::StorageError;
use crate::log_store::containers::EXTENT_ALIGNMENT;
use crate::log_store::layer::{Layer, LayerView};
use crate::log_store::log::payload::{Edit, Place};
use crate::log_store::output::Output;
use crate::log_store::seal::freezing::{freeze, frozen_layers, has_unsealed};
use crate::log_store::seal::ready::{Opened, Ready};
use crate::log_store::seal::run::Run;
use crate::log_store::segment::{
    ExtentWriter, Kill, SegmentIdent, SegmentMeta, SegmentTail, SegmentWriter,
};
use crate::log_store::shard::{Shard, Slot};
use crate::log_store::version::{Version, last_at_each_seqno};
use crate::outcome::{AbortReason, Job, Outcome};
use crate::seqno::Seqno;
use crate::vbucket::VbucketId;

/// Seals vbuckets of one shard.
#[derive(Debug)]
pub(crate) struct SealJob {
    shard: Arc<Shard>,
    history_floor: Seqno,
    which: Which,
    /// What to do while another seal is at work.
    meeting: Meeting,
    /// Why a vbucket could not be sealed while the others were.
    failed: Option<StorageError>,
    /// Vbuckets that begin again because something was purged since.
    again: VecDeque<Arc<Version>>,
    /// Why a vbucket needs no seal any more.
    gone: Option<AbortReason>,
    has_published: bool,
    /// Log files that can go after the next manifest: something was published, and nobody knows.
    frees_log: bool,
    output: Output,
    state: Sealing,
}

#[derive(Clone, Copy, Debug)]
enum Which {
    One(VbucketId),
    /// Every vbucket that is up when the seal begins.
    All,
}

/// What a seal does that finds another one at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meeting {
    Waits,
    Aborts,
}

#[derive(Debug)]
enum Sealing {
    Begin,
    /// A few at a time: those still to be frozen, and those that are.
    Freeze(VecDeque<VbucketId>, VecDeque<Arc<Version>>),
    Write {
        extent: ExtentWriter,
        todo: VecDeque<Arc<Version>>,
        sealed: Vec<Sealed>,
    },
    Sync(Vec<Sealed>),
    SyncDirectory(Vec<Sealed>),
    /// To be made ready and published, a few at a time.
    Prepare(VecDeque<Opened>),
    Publish(Vec<Ready>, VecDeque<Opened>),
    Done,
}

/// One vbucket's new segment, and what it changes.
#[derive(Debug)]
struct Sealed {
    place: Place,
    /// The layers whose items are in it now.
    layers: Vec<Arc<Layer>>,
    meta: SegmentMeta,
    kills: Vec<Kill>,
    counts: VbucketCounts,
    /// [`Version::purges`] of the version its kills and counts were worked out against.
    purges: u64,
}

impl SealJob {
    /// Seals one vbucket.
    pub(crate) fn one(shard: Arc<Shard>, vbucket: VbucketId, history_floor: Seqno) -> Self {
        SealJob::new(shard, Which::One(vbucket), history_floor)
    }

    /// Seals all vbuckets of the shard. One that cannot be sealed, because its segments are damaged, does not keep
    /// the others from it, but the job ends as failed.
    pub(crate) fn all(shard: Arc<Shard>, history_floor: Seqno) -> Self {
        SealJob::new(shard, Which::All, history_floor)
    }

    /// As [`SealJob::all`], but aborted where another seal is at work: for whoever has other work to do.
    pub(crate) fn all_unless_at_work(shard: Arc<Shard>, history_floor: Seqno) -> Self {
        let mut job = SealJob::new(shard, Which::All, history_floor);
        job.meeting = Meeting::Aborts;
        job
    }

    fn new(shard: Arc<Shard>, which: Which, history_floor: Seqno) -> Self {
        let output = Output::new(Arc::clone(&shard));
        SealJob {
            shard,
            history_floor,
            which,
            meeting: Meeting::Waits,
            failed: None,
            again: VecDeque::new(),
            gone: None,
            has_published: false,
            frees_log: false,
            output,
            state: Sealing::Begin,
        }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        self.state = match std::mem::replace(&mut self.state, Sealing::Done) {
            Sealing::Begin => return self.begin(),
            Sealing::Freeze(left, frozen) => return self.freeze(left, frozen),
            Sealing::Write {
                extent,
                todo,
                sealed,
            } => self.write_next(extent, todo, sealed)?,
            Sealing::Sync(sealed) => {
                self.output.sync()?;
                Sealing::SyncDirectory(sealed)
            }
            Sealing::SyncDirectory(sealed) => self.open(sealed)?,
            Sealing::Prepare(left) => self.prepare(left),
            Sealing::Publish(ready, left) => return self.publish(ready, left),
            Sealing::Done => return Ok(Outcome::Complete(())),
        };
        Ok(Outcome::Yielded)
    }

    /// Takes the right to seal, and freezes the first few.
    fn begin(&mut self) -> Result<Outcome<()>, StorageError> {
        let busy = match self.meeting {
            Meeting::Waits => self.shard.begin(&self.shard.sealing),
            Meeting::Aborts => match self.shard.sealing.try_begin() {
                None => return Ok(Outcome::Aborted(AbortReason::Superseded)),
                busy => busy,
            },
        };
        let Some(busy) = busy else {
            self.state = Sealing::Begin;
            return Ok(Outcome::Yielded);
        };
        self.output.begin(busy);
        let vbuckets = match self.which {
            Which::One(vbucket) => {
                self.shard.version(vbucket)?;
                VecDeque::from([vbucket])
            }
            Which::All => {
                let versions = self.shard.versions().into_iter();
                let unsealed = versions.filter(|version| has_unsealed(version));
                unsealed.map(|version| version.place.vbucket).collect()
            }
        };
        self.freeze(vbuckets, VecDeque::new())
    }

    /// Freezes the newest layers of the next few: what is committed from now on goes to new ones.
    fn freeze(
        &mut self,
        mut left: VecDeque<VbucketId>,
        mut frozen: VecDeque<Arc<Version>>,
    ) -> Result<Outcome<()>, StorageError> {
        let Some(writer) = self.shard.writer() else {
            self.state = Sealing::Freeze(left, frozen);
            return Ok(Outcome::Yielded);
        };
        let count = left.len().min(self.at_once());
        for vbucket in left.drain(..count) {
            // One that is down, or was deleted a moment ago, has nothing to seal.
            let Ok(version) = self.shard.version(vbucket) else {
                continue;
            };
            if has_unsealed(&version) {
                frozen.push_back(freeze(&self.shard, version));
            }
        }
        drop(writer);
        self.state = if !left.is_empty() {
            Sealing::Freeze(left, frozen)
        } else if frozen.is_empty() {
            return Ok(Outcome::Complete(()));
        } else {
            Sealing::Write {
                extent: self.output.create(CompactionRequest::SYNC_BYTES)?,
                todo: frozen,
                sealed: Vec::new(),
            }
        };
        Ok(Outcome::Yielded)
    }

    /// Vbuckets frozen or published at a time: a commit waits for so many at most.
    fn at_once(&self) -> usize {
        self.shard.options.published_at_once.max(1)
    }

    fn write_next(
        &mut self,
        mut extent: ExtentWriter,
        mut todo: VecDeque<Arc<Version>>,
        mut sealed: Vec<Sealed>,
    ) -> Result<Sealing, StorageError> {
        let Some(version) = todo.pop_front() else {
            if sealed.is_empty()
                && let Some(error) = self.failed.take()
            {
                return Err(error);
            }
            extent.flush()?;
            return Ok(Sealing::Sync(sealed));
        };
        let (one, extent) = self.write_segment(extent, &version)?;
        match one {
            Ok(one) => sealed.push(one),
            Err(error) => {
                let vbucket = version.place.vbucket;
                tracing::warn!(%vbucket, %error, "a vbucket cannot be sealed");
                self.failed.get_or_insert(error);
            }
        }
        Ok(Sealing::Write {
            extent,
            todo,
            sealed,
        })
    }

    /// Writes a vbucket's segment, unless the vbucket's own segments cannot be read; then nothing of it is written.
    fn write_segment(
        &self,
        mut extent: ExtentWriter,
        version: &Version,
    ) -> Result<(Result<Sealed, StorageError>, ExtentWriter), StorageError> {
        let frozen = frozen_layers(version);
        let views: Vec<LayerView> = frozen.iter().map(Layer::view).collect();
        // What a seal could let go of a history lies outside of its window in the newest layers: nearly nothing, and nobody
        // says here what time it is.
        let history_floor = match self.shard.history {
            Some(_) => Seqno::ZERO,
            None => self.history_floor,
        };
        let run = match Run::of(&views, version, history_floor) {
            Ok(run) => run,
            Err(error) => return Ok((Err(error), extent)),
        };
        extent.align(EXTENT_ALIGNMENT)?;
        let ident = SegmentIdent {
            vbucket: version.place.vbucket,
            incarnation: version.place.incarnation,
            epoch: version.place.epoch,
        };
        let options = self.shard.options.segment_options();
        let mut writer = SegmentWriter::new(extent, options, ident);
        let locations = run.write_records(&mut writer)?;
        writer.begin_index()?;
        run.write_index(&mut writer, &locations)?;
        let boundaries = last_at_each_seqno(views.iter().flat_map(LayerView::boundaries));
        let tail = SegmentTail {
            id: self.shard.new_segment_id(),
            container: self.output.number(),
            exact_from: run.exact_from,
            kills: &run.kills_with_bytes(&locations),
            boundaries: &boundaries,
            first_seqno_ceiling: run.first(),
            // After a rollback the high seqno may lie above the last item.
            last_seqno_floor: views.last().map_or(Seqno::ZERO, LayerView::high_seqno),
        };
        let kills = tail.kills.to_vec();
        let (meta, extent) = writer.finish(tail)?;
        let (place, layers, counts) = (version.place, frozen.to_vec(), run.counts);
        let sealed = Sealed {
            place,
            layers,
            meta,
            kills,
            counts,
            purges: version.purges,
        };
        Ok((Ok(sealed), extent))
    }

    fn open(&mut self, sealed: Vec<Sealed>) -> Result<Sealing, StorageError> {
        let metas = sealed.iter().map(|one| one.meta.clone());
        self.output.adopt(metas.collect())?;
        let mut opened = VecDeque::with_capacity(sealed.len());
        for one in sealed {
            let segment = self.shard.containers.open_segment(&one.meta)?;
            opened.push_back(Opened {
                sealed: one,
                segment,
            });
        }
        Ok(Sealing::Prepare(opened))
    }

    /// Makes the next few vbuckets ready: whatever grows with a vbucket is done here, while nobody waits.
    fn prepare(&mut self, mut left: VecDeque<Opened>) -> Sealing {
        let count = left.len().min(self.at_once());
        let mut ready = Vec::with_capacity(count);
        for one in left.drain(..count) {
            match self.shard.version_of(one.sealed.place) {
                Ok(version) if version.purges == one.sealed.purges => {
                    ready.push(one.ready(&version));
                }
                Ok(version) => {
                    // What a compaction took away meanwhile can neither be killed nor taken off the counts.
                    self.output.give_up_one(&one.sealed.meta);
                    self.again.push_back(version);
                }
                Err(reason) => {
                    self.output.give_up_one(&one.sealed.meta);
                    self.gone = Some(reason);
                }
            }
        }
        Sealing::Publish(ready, left)
    }

    fn publish(
        &mut self,
        ready: Vec<Ready>,
        mut left: VecDeque<Opened>,
    ) -> Result<Outcome<()>, StorageError> {
        let Some(mut writer) = self.shard.writer() else {
            self.state = Sealing::Publish(ready, left);
            return Ok(Outcome::Yielded);
        };
        let mut current = Vec::with_capacity(ready.len());
        let mut stale = Vec::new();
        for one in ready {
            match self.shard.version_of(one.opened.sealed.place) {
                Ok(version) if one.is_for(&version) => current.push((one, version)),
                // Compacted, moved, rolled back or deleted since: made ready anew.
                Ok(_) | Err(_) => stale.push(one),
            }
        }
        let metas = current.iter().map(|(one, _)| &one.opened.sealed.meta);
        self.output.hand_over(metas);
        if !current.is_empty() {
            let edits: Vec<Edit> = current.iter().map(|(one, _)| one.opened.edit()).collect();
            let next = writer.log.last_sequence().saturating_add(1);
            if let Err(error) = writer.write_edits(&edits) {
                let metas = current.iter().map(|(one, _)| &one.opened.sealed.meta);
                self.shard.retire(metas, next);
                self.note_published();
                drop(writer);
                return Err(error);
            }
            (self.has_published, self.frees_log) = (true, true);
        }
        let mut before = Vec::with_capacity(current.len());
        for (one, version) in current {
            let vbucket = one.opened.sealed.place.vbucket;
            let published = one.applied_to(&version);
            self.shard.publish(vbucket, Slot::Up(Arc::new(published)));
            before.push((one, version));
        }
        // `before` holds the last references to the layers that are sealed now, and `stale` those to what was made
        // ready in vain: both grow with a vbucket, and no commit should wait while they are freed.
        drop(writer);
        drop(before);
        left.extend(stale.into_iter().map(|one| one.opened));
        if !left.is_empty() {
            self.state = Sealing::Prepare(left);
            return Ok(Outcome::Yielded);
        }
        self.end()
    }

    /// The log files whose items are sealed now can go after the next manifest.
    fn note_published(&mut self) {
        if std::mem::take(&mut self.frees_log) {
            self.shard.checkpoint_due.tell();
        }
    }

    /// All that can be published is.
    fn end(&mut self) -> Result<Outcome<()>, StorageError> {
        self.note_published();
        if !self.again.is_empty() {
            self.state = Sealing::Write {
                extent: self.output.create(CompactionRequest::SYNC_BYTES)?,
                todo: std::mem::take(&mut self.again),
                sealed: Vec::new(),
            };
            return Ok(Outcome::Yielded);
        }
        if let Some(error) = self.failed.take() {
            return Ok(Outcome::Failed(error));
        }
        Ok(match self.gone.take() {
            Some(reason) if !self.has_published => Outcome::Aborted(reason),
            Some(_) | None => Outcome::Complete(()),
        })
    }
}

/// A job given up between two groups has published the first.
impl Drop for SealJob {
    fn drop(&mut self) {
        self.note_published();
    }
}

impl Job for SealJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let result = self.advance();
        self.output.after_step(result)
    }
}
