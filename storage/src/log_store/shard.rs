//! A shard: the vbuckets that share one log, and everything that may change them.
//!
//! Invariant: versions change only under the writer's lock, each change being a record of the shard's log (rule
//! R1); readers take a version's `Arc` and never wait for the writer. Jobs hold the lock for a write and a sync at
//! most, and for no work that grows with a vbucket.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::lock_api::ArcMutexGuard;
use parking_lot::{Condvar, Mutex, RawMutex, RwLock};

use crate::admission::Standing;
use crate::counts::VbucketCounts;
use crate::disk::Disk;
use crate::error::StorageError;
use crate::kv_store::VbucketPosition;
use crate::log_store::checkpoint::Due;
use crate::log_store::codec;
use crate::log_store::containers::Containers;
use crate::log_store::image::Image;
use crate::log_store::layer::LayerView;
use crate::log_store::log::frame::{LogPosition, Touched};
use crate::log_store::log::payload::{self, Edit, Place};
use crate::log_store::log::writer::{LogFileSpan, LogWriter};
use crate::log_store::maintenance;
use crate::log_store::manifest::RawEntry;
use crate::log_store::options::OpenOptions;
use crate::log_store::segment::SegmentMeta;
use crate::log_store::version::Version;
use crate::outcome::AbortReason;
use crate::retention::Share;
use crate::vbucket::VbucketId;
use crate::waiting;

/// What there is of a vbucket.
#[derive(Clone, Debug)]
pub(crate) enum Slot {
    /// It does not exist.
    Absent,
    /// It serves.
    Up(Arc<Version>),
    /// It exists but cannot be served.
    Down(Arc<Down>),
}

/// Why a vbucket is down, and its manifest entry as it was found, which later manifests carry on.
#[derive(Clone, Debug)]
pub(crate) struct Down {
    pub(crate) cause: StorageError,
    pub(crate) entry: Option<RawEntry>,
}

impl Down {
    /// Whether nothing is known of the vbucket, not even what the manifest once had of it.
    pub(crate) fn is_unknown(&self) -> bool {
        self.entry.as_ref().is_some_and(RawEntry::is_unreadable)
    }
}

/// The right to change versions.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) log: LogWriter,
    pub(crate) next_manifest: u64,
    /// Where the newest manifest says the log begins.
    pub(crate) begin: LogPosition,
    /// An edit's sync failed: only a manifest written since can say what holds (rule R3).
    pub(crate) needs_manifest: bool,
    pub(crate) is_closed: bool,
    /// Why nothing of the shard may be written since it was opened; it is closed, too, then.
    pub(crate) out_of_service: Option<StorageError>,
}

/// The right to change versions, held.
pub(crate) struct WriterGuard(ArcMutexGuard<RawMutex, Writer>);

impl std::fmt::Debug for WriterGuard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriterGuard")
    }
}

impl std::ops::Deref for WriterGuard {
    type Target = Writer;

    fn deref(&self) -> &Writer {
        &self.0
    }
}

impl std::ops::DerefMut for WriterGuard {
    fn deref_mut(&mut self) -> &mut Writer {
        &mut self.0
    }
}

/// The vbuckets of one log.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) number: u16,
    pub(crate) log_shards: u16,
    pub(crate) store_id: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) options: OpenOptions,
    /// What a vbucket keeps of its past.
    pub(crate) history: Option<Share>,
    pub(crate) slots: Vec<RwLock<Slot>>,
    pub(crate) writer: Arc<Mutex<Writer>>,
    pub(crate) containers: Containers,
    /// Shared by all shards of the store.
    pub(crate) next_incarnation: Arc<AtomicU64>,
    pub(crate) next_segment: AtomicU64,
    /// Bytes that are in no segment yet, as layers count them.
    pub(crate) unsealed_bytes: AtomicU64,
    /// Highest frame known durable.
    pub(crate) synced: AtomicU64,
    /// At most one job of each kind at a time.
    pub(crate) sealing: Busy,
    /// Of each vbucket, as in `slots`: several are compacted at the same time.
    pub(crate) merging: Vec<Busy>,
    pub(crate) copying_out: Busy,
    pub(crate) checkpointing: Busy,
    pub(crate) preparing: Busy,
    /// Log files no manifest needs any more, waiting to be used again or removed.
    pub(crate) obsolete: Mutex<Vec<LogFileSpan>>,
    /// Whether there may be log files to give back.
    pub(crate) checkpoint_due: Due,
    /// The maintenance work that failed last, so that the rest has its turn.
    pub(crate) failed_work: Mutex<Option<maintenance::Work>>,
    /// The log's figures when its writer was last seen, for whoever must not wait for a disk that hangs.
    pub(crate) log_figures: Mutex<LogFigures>,
}

/// The log's files, counted.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LogFigures {
    pub(crate) bytes: u64,
    pub(crate) files: usize,
    pub(crate) abandoned: u64,
    pub(crate) made_inline: u64,
}

impl LogFigures {
    pub(crate) fn of(log: &LogWriter) -> LogFigures {
        LogFigures {
            bytes: log.files().iter().map(|span| span.capacity).sum(),
            files: log.files().len(),
            abandoned: log.abandoned_files,
            made_inline: log.files_made_inline,
        }
    }
}

/// Whether a job of one kind is at work.
#[derive(Clone, Debug, Default)]
pub(crate) struct Busy(Arc<Work>);

#[derive(Debug, Default)]
struct Work {
    is_at_work: Mutex<bool>,
    ended: Condvar,
}

/// Held by the job at work.
#[derive(Debug)]
pub(crate) struct BusyGuard(Arc<Work>);

impl Busy {
    pub(crate) fn try_begin(&self) -> Option<BusyGuard> {
        let was_busy = std::mem::replace(&mut *self.0.is_at_work.lock(), true);
        (!was_busy).then(|| BusyGuard(Arc::clone(&self.0)))
    }

    /// Waits for the job at work.
    fn begin(&self) -> BusyGuard {
        let mut is_at_work = self.0.is_at_work.lock();
        while *is_at_work {
            waiting::wait(|| self.0.ended.wait(&mut is_at_work));
        }
        *is_at_work = true;
        BusyGuard(Arc::clone(&self.0))
    }

    pub(crate) fn is_at_work(&self) -> bool {
        *self.0.is_at_work.lock()
    }
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        *self.0.is_at_work.lock() = false;
        self.0.ended.notify_one();
    }
}

impl Shard {
    fn place_of(&self, vbucket: VbucketId) -> Option<usize> {
        let is_here = vbucket.get() % self.log_shards == self.number;
        is_here.then(|| vbucket.index() / usize::from(self.log_shards))
    }

    fn slot(&self, vbucket: VbucketId) -> Option<&RwLock<Slot>> {
        self.slots.get(self.place_of(vbucket)?)
    }

    /// The compaction of a vbucket: one at a time.
    pub(crate) fn merging(&self, vbucket: VbucketId) -> Option<&Busy> {
        self.merging.get(self.place_of(vbucket)?)
    }

    pub(crate) fn is_merging(&self, vbucket: VbucketId) -> bool {
        self.merging(vbucket).is_some_and(Busy::is_at_work)
    }

    pub(crate) fn is_merging_any(&self) -> bool {
        self.merging.iter().any(Busy::is_at_work)
    }

    /// The vbuckets that may live here.
    pub(crate) fn vbuckets(&self) -> impl Iterator<Item = VbucketId> {
        let step = usize::from(self.log_shards);
        let numbers = (self.number..VbucketId::COUNT_MAX).step_by(step);
        numbers.take(self.slots.len()).filter_map(VbucketId::new)
    }

    pub(crate) fn read_slot(&self, vbucket: VbucketId) -> Slot {
        self.slot(vbucket)
            .map_or(Slot::Absent, |slot| slot.read().clone())
    }

    /// The vbucket's version now.
    pub(crate) fn version(&self, vbucket: VbucketId) -> Result<Arc<Version>, StorageError> {
        match self.read_slot(vbucket) {
            Slot::Up(version) => Ok(version),
            Slot::Absent => Err(StorageError::UnknownVbucket(vbucket)),
            Slot::Down(down) => {
                let cause = Arc::new(down.cause.clone());
                Err(StorageError::VbucketDown { vbucket, cause })
            }
        }
    }

    /// Every version there is.
    pub(crate) fn versions(&self) -> Vec<Arc<Version>> {
        self.vbuckets()
            .filter_map(|vbucket| self.version(vbucket).ok())
            .collect()
    }

    pub(crate) fn position(&self, vbucket: VbucketId) -> Result<VbucketPosition, StorageError> {
        self.standing(vbucket).map(|standing| standing.position)
    }

    pub(crate) fn standing(&self, vbucket: VbucketId) -> Result<Standing, StorageError> {
        let version = self.version(vbucket)?;
        let Place {
            incarnation, epoch, ..
        } = version.place;
        let state = version.state().ok_or(StorageError::Closed)?;
        Ok(Standing {
            position: VbucketPosition {
                incarnation,
                epoch,
                high_seqno: state.watermarks.high_seqno,
            },
            purge_seqno: state.watermarks.purge_seqno,
        })
    }

    /// The right to write: waits for it, or (stepped) says `None` when somebody has it.
    pub(crate) fn writer(&self) -> Option<WriterGuard> {
        let guard = if self.options.is_stepped {
            self.writer.try_lock_arc()
        } else {
            let free = self.writer.try_lock_arc();
            Some(free.unwrap_or_else(|| waiting::wait(|| self.writer.lock_arc())))
        };
        guard.map(WriterGuard)
    }

    /// The right to do work of one kind: waits for it, or (stepped) says `None` when another job is at it.
    pub(crate) fn begin(&self, busy: &Busy) -> Option<BusyGuard> {
        if self.options.is_stepped {
            busy.try_begin()
        } else {
            Some(busy.begin())
        }
    }

    /// Puts a slot in place. The caller holds the writer.
    pub(crate) fn publish(&self, vbucket: VbucketId, slot: Slot) {
        let unsealed = |slot: &Slot| match slot {
            Slot::Up(version) => version.unsealed_bytes(),
            Slot::Absent | Slot::Down(_) => 0,
        };
        if let Some(place) = self.slot(vbucket) {
            let after = unsealed(&slot);
            let before = std::mem::replace(&mut *place.write(), slot);
            self.unsealed_bytes.fetch_add(after, Ordering::Relaxed);
            self.unsealed_bytes
                .fetch_sub(unsealed(&before), Ordering::Relaxed);
        }
    }

    /// Takes note of bytes that were added to a layer.
    pub(crate) fn note_unsealed(&self, bytes: u64) {
        self.unsealed_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// The vbucket's version if it is still of this past, or why a job on it is pointless now.
    pub(crate) fn version_of(&self, place: Place) -> Result<Arc<Version>, AbortReason> {
        match self.read_slot(place.vbucket) {
            Slot::Up(version) if version.place == place => Ok(version),
            Slot::Up(version) if version.place.incarnation == place.incarnation => {
                Err(AbortReason::RolledBack)
            }
            Slot::Up(_) | Slot::Absent | Slot::Down(_) => Err(AbortReason::Deleted),
        }
    }

    /// Whether a vbucket is down: then nothing that it may need is given back.
    pub(crate) fn holds_everything(&self) -> bool {
        self.vbuckets()
            .any(|vbucket| matches!(self.read_slot(vbucket), Slot::Down(_)))
    }

    /// Takes note of how far the log is durable.
    pub(crate) fn note_synced(&self, writer: &Writer) {
        self.synced
            .fetch_max(writer.log.synced().sequence, Ordering::Release);
        *self.log_figures.lock() = LogFigures::of(&writer.log);
    }

    /// The log's figures: now, or after the last sync while somebody writes. Never waits for the disk.
    pub(crate) fn log_figures(&self) -> LogFigures {
        if let Some(writer) = self.writer.try_lock() {
            *self.log_figures.lock() = LogFigures::of(&writer.log);
        }
        *self.log_figures.lock()
    }

    /// Highest frame whose retired extents may go.
    pub(crate) fn reclaimable(&self) -> u64 {
        let held = self.holds_everything();
        // A busy shard must not keep its space for ever, so this waits for the writer.
        match self.writer() {
            Some(writer) if !held && !writer.needs_manifest => self.synced.load(Ordering::Acquire),
            Some(_) | None => 0,
        }
    }

    /// The oldest log file that items in no segment need, or the current one; none while a vbucket is down.
    pub(crate) fn oldest_log_file_needed(&self, current: u64) -> Option<u64> {
        let mut oldest = current;
        for vbucket in self.vbuckets() {
            match self.read_slot(vbucket) {
                Slot::Absent => {}
                Slot::Up(version) => {
                    oldest = oldest.min(version.log_begin().map_or(current, |begin| begin.file));
                }
                Slot::Down(_) => return None,
            }
        }
        Some(oldest)
    }

    pub(crate) fn new_segment_id(&self) -> u64 {
        self.next_segment.fetch_add(1, Ordering::Relaxed)
    }

    /// Retires segments that an edit in frame `sequence` took out.
    pub(crate) fn retire<'m>(
        &self,
        metas: impl IntoIterator<Item = &'m SegmentMeta>,
        sequence: u64,
    ) {
        for meta in metas {
            self.containers.retire(meta, sequence);
        }
    }
}

impl Writer {
    /// Refuses when nothing may be written any more.
    pub(crate) fn check_open(&self) -> Result<(), StorageError> {
        match &self.out_of_service {
            Some(cause) => Err(cause.clone()),
            None if self.is_closed => Err(StorageError::Closed),
            None => Ok(()),
        }
    }

    /// Writes edits as one frame, without a sync, and returns its sequence. After an error nothing of them counts.
    pub(crate) fn write_edits(&mut self, edits: &[Edit]) -> Result<u64, StorageError> {
        self.check_open()?;
        let mut touched = Touched::default();
        let mut encoded = Vec::with_capacity(edits.len());
        for edit in edits {
            touched.insert(edit.place().vbucket);
            let bytes = codec::encode(edit).map_err(|error| {
                StorageError::Setting(format!("edit beyond its limit: {error}"))
            })?;
            encoded.push(bytes);
        }
        let before = self.log.last_sequence();
        let sequence = self.log.push_frame(touched, |out| {
            for edit in &encoded {
                payload::put_edit(out, edit);
            }
        });
        let abandoned = self.log.abandoned_files;
        let written = self.log.write();
        self.needs_manifest |= self.log.abandoned_files != abandoned;
        if let Err(error) = written {
            self.log.forget_after(before);
            return Err(error.into());
        }
        Ok(sequence)
    }

    /// As [`Writer::write_edits`], durable when it returns.
    pub(crate) fn write_edits_synced(&mut self, edits: &[Edit]) -> Result<u64, StorageError> {
        let before = self.log.last_sequence();
        let sequence = self.write_edits(edits)?;
        if let Err(error) = self.sync() {
            self.log.forget_after(before);
            return Err(error);
        }
        Ok(sequence)
    }

    /// Makes everything written durable.
    pub(crate) fn sync(&mut self) -> Result<(), StorageError> {
        let abandoned = self.log.abandoned_files;
        let synced = self.log.sync();
        self.needs_manifest |= self.log.abandoned_files != abandoned;
        synced.map_err(StorageError::from)
    }
}

/// A version, with so much of its layers, as the manifest remembers it.
pub(crate) fn image_of(version: &Version, views: &[LayerView], covers: u64) -> Option<Image> {
    let state = views.last()?.state().clone();
    let after = covers.saturating_add(1);
    Some(Image {
        place: version.place,
        rollbacks: version.rollbacks.clone(),
        identity: state.identity,
        watermarks: state.watermarks,
        base: Version::base(views),
        segments: version
            .segments
            .iter()
            .map(|view| view.segment.meta().clone())
            .collect(),
        sealed: version.sealed,
        exact_from: version.exact_from,
        counts: VbucketCounts::clone(&version.counts),
        dropped: version.dropped.to_vec(),
        covers,
        needs_from: version
            .log_begin()
            .map_or(after, |begin| begin.sequence.min(after)),
    })
}
