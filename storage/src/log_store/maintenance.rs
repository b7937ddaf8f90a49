//! Maintenance: which background work a shard needs next, and doing it.
//!
//! Invariant: the decision is a pure function of figures; doing it never holds up a commit for longer than a
//! publish. Called again and again by whatever thread the embedder gives, or step by step by a simulation.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::DiskErrorKind;
use crate::error::StorageError;
use crate::log_store::checkpoint::CheckpointJob;
use crate::log_store::copy_out::CopyOutJob;
use crate::log_store::log::file::{LogFile, PrepareLogFile};
use crate::log_store::merge::MergeJob;
use crate::log_store::seal::SealJob;
use crate::log_store::shard::{BusyGuard, Shard};
use crate::outcome::{AbortReason, Job, Outcome};
use crate::vbucket::VbucketId;

/// Log files that may be live before vbuckets that pin old ones are sealed out.
const LOG_FILES_MAX: usize = 4;

/// A piece of background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    PrepareLogFile,
    Seal,
    Checkpoint,
    Reclaim,
    RemoveObsoleteLog,
    Merge(VbucketId),
    CopyOut(u64),
}

/// What the decision is made from.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent observations, no state machine"
)]
pub(crate) struct Figures {
    /// The current log file is half full, and none is prepared to follow it.
    pub(crate) wants_log_file: bool,
    pub(crate) unsealed_bytes: u64,
    pub(crate) unsealed_bytes_max: u64,
    pub(crate) log_files: usize,
    /// A seal since the last checkpoint, or a failed sync that only a manifest settles.
    pub(crate) wants_checkpoint: bool,
    pub(crate) has_obsolete_log: bool,
    pub(crate) has_garbage: bool,
    /// The vbucket with the most segments, if those are too many.
    pub(crate) most_segments: Option<VbucketId>,
    pub(crate) mostly_dead: Option<u64>,
}

/// The most urgent work: first what the commit path will need, then what frees memory and log, then space.
pub(crate) fn decide(figures: &Figures) -> Option<Work> {
    if figures.wants_log_file {
        return Some(Work::PrepareLogFile);
    }
    let has_unsealed = figures.unsealed_bytes > 0;
    let is_pinned = has_unsealed && figures.log_files > LOG_FILES_MAX && !figures.wants_checkpoint;
    if figures.unsealed_bytes > figures.unsealed_bytes_max || is_pinned {
        return Some(Work::Seal);
    }
    if figures.wants_checkpoint {
        return Some(Work::Checkpoint);
    }
    if figures.has_garbage {
        return Some(Work::Reclaim);
    }
    if let Some(vbucket) = figures.most_segments {
        return Some(Work::Merge(vbucket));
    }
    if let Some(container) = figures.mostly_dead {
        return Some(Work::CopyOut(container));
    }
    figures.has_obsolete_log.then_some(Work::RemoveObsoleteLog)
}

/// A shard's figures now.
pub(crate) fn figures(shard: &Shard) -> Option<Figures> {
    let writer = shard.writer()?;
    let wants_log_file = writer.log.wants_spare();
    let log_files = writer.log.files().len();
    let needs_manifest = writer.needs_manifest;
    let is_closed = writer.is_closed;
    drop(writer);
    if is_closed {
        return Some(Figures::default());
    }
    let reclaimable = shard.reclaimable();
    let most_segments = shard
        .versions()
        .into_iter()
        .map(|version| (version.segments.len(), version.place.vbucket))
        .max()
        .filter(|(count, _)| *count > shard.options.segments_max.max(1))
        .map(|(_, vbucket)| vbucket);
    let unsealed_bytes = shard.unsealed_bytes.load(Ordering::Relaxed);
    // States without items are never sealed: only a manifest frees the log of them.
    let only_states = unsealed_bytes == 0 && log_files > LOG_FILES_MAX && !shard.holds_everything();
    Some(Figures {
        wants_log_file,
        unsealed_bytes,
        unsealed_bytes_max: shard.options.unsealed_bytes,
        log_files,
        wants_checkpoint: needs_manifest
            || shard.wants_checkpoint.load(Ordering::Acquire)
            || only_states,
        has_obsolete_log: !shard.obsolete.lock().is_empty(),
        has_garbage: reclaimable > 0 && shard.containers.has_garbage(reclaimable),
        most_segments,
        mostly_dead: shard
            .containers
            .mostly_dead(shard.options.container_bytes_min),
    })
}

/// One piece of background work, in steps.
#[derive(Debug)]
pub(crate) enum MaintenanceJob {
    Prepare(PrepareJob),
    Seal(SealJob),
    Checkpoint(CheckpointJob),
    Merge(MergeJob),
    CopyOut(CopyOutJob),
    Reclaim(Arc<Shard>),
    RemoveObsoleteLog(Arc<Shard>),
}

impl MaintenanceJob {
    pub(crate) fn new(shard: &Arc<Shard>, work: Work) -> MaintenanceJob {
        let floor = shard.options.history_floor;
        let shard = Arc::clone(shard);
        match work {
            Work::PrepareLogFile => MaintenanceJob::Prepare(PrepareJob::new(shard)),
            Work::Seal => {
                let vbuckets = shard.versions().iter().map(|v| v.place.vbucket).collect();
                MaintenanceJob::Seal(SealJob::new(shard, vbuckets, floor))
            }
            Work::Checkpoint => MaintenanceJob::Checkpoint(CheckpointJob::new(shard, false)),
            Work::Merge(vbucket) => MaintenanceJob::Merge(MergeJob::new(shard, vbucket, floor)),
            Work::CopyOut(container) => MaintenanceJob::CopyOut(CopyOutJob::new(shard, container)),
            Work::Reclaim => MaintenanceJob::Reclaim(shard),
            Work::RemoveObsoleteLog => MaintenanceJob::RemoveObsoleteLog(shard),
        }
    }
}

impl Job for MaintenanceJob {
    type Output = ();

    fn step(&mut self) -> Outcome<()> {
        match self {
            MaintenanceJob::Prepare(job) => job.step(),
            MaintenanceJob::Seal(job) => job.step(),
            MaintenanceJob::Checkpoint(job) => job.step(),
            MaintenanceJob::Merge(job) => job.step(),
            MaintenanceJob::CopyOut(job) => job.step(),
            MaintenanceJob::Reclaim(shard) => match shard.containers.reclaim(shard.reclaimable()) {
                Ok(()) => Outcome::Complete(()),
                Err(error) => Outcome::Failed(error),
            },
            MaintenanceJob::RemoveObsoleteLog(shard) => match remove_obsolete(shard) {
                Ok(()) => Outcome::Complete(()),
                Err(error) => Outcome::Failed(error),
            },
        }
    }
}

/// Removes log files that nothing needs and that were not used again.
fn remove_obsolete(shard: &Shard) -> Result<(), StorageError> {
    loop {
        let next = shard.obsolete.lock().pop();
        let Some(span) = next else { return Ok(()) };
        match shard.disk.remove(&span.name) {
            Ok(()) => {}
            Err(error) if error.kind == DiskErrorKind::NotFound => {}
            Err(error) => {
                shard.obsolete.lock().push(span);
                return Err(error.into());
            }
        }
    }
}

/// Prepares the next log file, from an obsolete one where that has the size wanted.
#[derive(Debug)]
pub(crate) struct PrepareJob {
    shard: Arc<Shard>,
    busy: Option<BusyGuard>,
    preparing: Option<PrepareLogFile>,
    /// Prepared, not handed over yet.
    ready: Option<LogFile>,
}

impl PrepareJob {
    fn new(shard: Arc<Shard>) -> PrepareJob {
        PrepareJob {
            shard,
            busy: None,
            preparing: None,
            ready: None,
        }
    }

    fn advance(&mut self) -> Result<Outcome<()>, StorageError> {
        if let Some(file) = self.ready.take() {
            return self.hand_over(file);
        }
        let Some(preparing) = &mut self.preparing else {
            return Ok(self.begin());
        };
        self.ready = preparing.step()?;
        if self.ready.is_some() {
            self.preparing = None;
        }
        Ok(Outcome::Yielded)
    }

    fn hand_over(&mut self, file: LogFile) -> Result<Outcome<()>, StorageError> {
        let Some(mut writer) = self.shard.writer() else {
            self.ready = Some(file);
            return Ok(Outcome::Yielded);
        };
        writer.log.offer_spare(file);
        let discarded = writer.log.take_discarded();
        drop(writer);
        for name in discarded {
            self.shard.disk.remove(&name)?;
        }
        Ok(Outcome::Complete(()))
    }

    fn begin(&mut self) -> Outcome<()> {
        self.busy = self.shard.preparing.try_begin();
        if self.busy.is_none() {
            return Outcome::Aborted(AbortReason::Superseded);
        }
        let Some(mut writer) = self.shard.writer() else {
            return Outcome::Yielded;
        };
        if !writer.log.wants_spare() {
            return Outcome::Complete(());
        }
        let wanted = writer.log.capacity_wanted();
        let recycled = {
            let mut obsolete = self.shard.obsolete.lock();
            let found = obsolete.iter().position(|span| span.capacity == wanted);
            found.map(|index| obsolete.swap_remove(index))
        };
        let header = writer.log.next_header(wanted);
        drop(writer);
        let name = recycled.map(|span| span.name);
        self.preparing = Some(PrepareLogFile::new(
            Arc::clone(&self.shard.disk),
            header,
            name,
        ));
        Outcome::Yielded
    }
}

impl Job for PrepareJob {
    type Output = ();

    fn step(&mut self) -> Outcome<()> {
        let outcome = self.advance().unwrap_or_else(Outcome::Failed);
        if !matches!(outcome, Outcome::Yielded) {
            if let Some(preparing) = self.preparing.take() {
                preparing.clean_up();
            }
            self.busy = None;
        }
        outcome
    }
}
