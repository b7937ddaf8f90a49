//! Maintenance: which background work a shard needs next, and doing it.
//!
//! Invariant: the decision is a pure function of figures; doing it never holds up a commit for longer than a
//! publish. Called again and again by whatever thread the embedder gives, or step by step by a simulation.

mod merging;
mod preparing;

use std::mem::discriminant;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::disk::DiskErrorKind;
use crate::error::StorageError;
use crate::log_store::checkpoint::CheckpointJob;
use crate::log_store::compaction::MergeJob;
use crate::log_store::copy_out::CopyOutJob;
use crate::log_store::log::writer::LogFileSpan;
use crate::log_store::seal::SealJob;
use crate::log_store::shard::Shard;
use crate::outcome::{AbortReason, Job, Outcome};
use crate::vbucket::VbucketId;

use merging::{Merging, merging};
use preparing::PrepareJob;

/// Log files that may be live before vbuckets that pin old ones are sealed out.
const LOG_FILES_MAX: usize = 4;
/// Log files kept to be used again, while there is other work; those beyond go first.
const OBSOLETE_MAX: usize = 2;
/// Where merges are wanted, a seal waits for them until there are so many times as many unsealed bytes, or log files, as
/// would make it due: a writer that keeps sealing busy would have the dead pile up otherwise.
const PRESSING: u64 = 2;
/// Dead bytes that wait for nothing but a sync of the log: from so many on they are worth one at once.
const WAITING_BYTES_MAX: u64 = 16 << 20;

/// A piece of background work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    PrepareLogFile,
    Seal,
    Checkpoint,
    Reclaim,
    /// But for so many, to be used again.
    RemoveObsoleteLog(usize),
    /// The newest segments of a vbucket.
    Merge(VbucketId),
    /// All segments of a vbucket.
    Rewrite(VbucketId),
    CopyOut(u64),
}

/// What kind of background work it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaintenanceKind {
    /// Zeroing the next log file ahead.
    PrepareLogFile,
    /// Turning what was written into segments.
    Seal,
    /// Writing a manifest.
    Checkpoint,
    /// Merging the segments of one vbucket.
    Merge(VbucketId),
    /// Copying what lives out of a container that is mostly dead.
    CopyOut,
    /// Giving dead space back to the disk.
    Reclaim,
    /// Removing log files that nothing needs.
    RemoveLog,
}

impl Work {
    pub(crate) fn kind(self) -> MaintenanceKind {
        match self {
            Work::PrepareLogFile => MaintenanceKind::PrepareLogFile,
            Work::Seal => MaintenanceKind::Seal,
            Work::Checkpoint => MaintenanceKind::Checkpoint,
            Work::Reclaim => MaintenanceKind::Reclaim,
            Work::RemoveObsoleteLog(_) => MaintenanceKind::RemoveLog,
            Work::Merge(vbucket) | Work::Rewrite(vbucket) => MaintenanceKind::Merge(vbucket),
            Work::CopyOut(_) => MaintenanceKind::CopyOut,
        }
    }
}

/// What the decision is made from.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "independent observations, no state machine"
)]
pub(crate) struct Figures {
    /// The current log file is in use, and none is prepared to follow it.
    pub(crate) wants_log_file: bool,
    pub(crate) unsealed_bytes: u64,
    pub(crate) unsealed_bytes_max: u64,
    pub(crate) is_sealing: bool,
    /// Log files that a seal and a checkpoint could give back.
    pub(crate) log_files: usize,
    /// A manifest would free log files, or is owed: the last one failed, or a sync did that only a manifest settles.
    pub(crate) wants_checkpoint: bool,
    /// A manifest is being made.
    pub(crate) is_checkpointing: bool,
    /// Log files that nothing needs.
    pub(crate) obsolete_logs: usize,
    pub(crate) has_garbage: bool,
    /// Bytes of dead segments that wait for nothing but a sync of the log.
    pub(crate) waiting_bytes: u64,
    /// The vbucket with the most segments, if those are too many.
    pub(crate) most_segments: Option<VbucketId>,
    /// The vbucket with the largest part of it dead, if too much is.
    pub(crate) most_dead: Option<VbucketId>,
    pub(crate) mostly_dead: Option<u64>,
    /// Another thread merges.
    pub(crate) is_merging: bool,
}

/// The most urgent work. What failed last time steps back behind the rest for once: on a full disk preparing a log
/// file fails, and only what comes behind it makes room.
pub(crate) fn decide(figures: &Figures, failed: Option<Work>) -> Option<Work> {
    let wanted: Vec<Work> = by_urgency(figures).into_iter().flatten().collect();
    // The same kind of work on something else would step in front of the rest as well.
    let is_alike =
        |work: &Work| failed.is_some_and(|failed| discriminant(work) == discriminant(&failed));
    let failed = wanted.iter().position(is_alike);
    let behind = failed.and_then(|at| wanted.get(at.saturating_add(1)));
    behind.or(wanted.first()).copied()
}

/// First what the commit path will need; then what only gives back, which costs little; then what makes it possible to
/// give back. Seals and merges take turns, as long as sealing is not pressing.
fn by_urgency(figures: &Figures) -> [Option<Work>; 11] {
    let seal = wants_seal(figures, 1).then_some(Work::Seal);
    // In one place or the other: what failed steps back behind the rest, not behind itself.
    let is_pressing = figures.is_merging || wants_seal(figures, PRESSING);
    let has_garbage = figures.has_garbage || figures.waiting_bytes >= WAITING_BYTES_MAX;
    let has_surplus_logs = figures.obsolete_logs > OBSOLETE_MAX;
    [
        figures.wants_log_file.then_some(Work::PrepareLogFile),
        figures.wants_checkpoint.then_some(Work::Checkpoint),
        has_surplus_logs.then_some(Work::RemoveObsoleteLog(OBSOLETE_MAX)),
        has_garbage.then_some(Work::Reclaim),
        seal.filter(|_| is_pressing),
        figures.most_segments.map(Work::Merge),
        figures.most_dead.map(Work::Rewrite),
        seal.filter(|_| !is_pressing),
        figures.mostly_dead.map(Work::CopyOut),
        (figures.obsolete_logs > 0).then_some(Work::RemoveObsoleteLog(0)),
        // Where nobody commits, nobody else syncs.
        (figures.waiting_bytes > 0).then_some(Work::Reclaim),
    ]
}

/// Whether there is `times` as much to seal, or in the log, as there may be.
fn wants_seal(figures: &Figures, times: u64) -> bool {
    let log_files = figures.log_files as u64;
    let is_pinned = figures.unsealed_bytes > 0
        && log_files > times.saturating_mul(LOG_FILES_MAX as u64)
        && !figures.wants_checkpoint
        && !figures.is_checkpointing;
    let is_much = figures.unsealed_bytes > times.saturating_mul(figures.unsealed_bytes_max);
    (is_much || is_pinned) && !figures.is_sealing
}

/// A shard's figures now.
pub(crate) fn figures(shard: &Shard) -> Option<Figures> {
    let writer = shard.writer()?;
    let wants_log_file = writer.log.wants_spare() && !shard.preparing.is_at_work();
    // While a vbucket is down no log file is given back, whatever is sealed.
    let holds = shard.holds_everything();
    let log_files = if holds { 0 } else { writer.log.files().len() };
    let needs_manifest = writer.needs_manifest;
    let is_closed = writer.is_closed;
    let last_sequence = writer.log.last_sequence();
    let current_file = writer.log.current_file();
    let first_file = writer.log.files().first();
    let first_file = first_file.map_or(current_file, |file| file.number);
    drop(writer);
    if is_closed {
        return Some(Figures::default());
    }
    let reclaimable = shard.reclaimable();
    let failed = *shard.failed_work.lock();
    let Merging {
        most_segments,
        most_dead,
    } = merging(shard, failed);
    let oldest_needed = || shard.oldest_log_file_needed(current_file);
    let due = &shard.checkpoint_due;
    let frees_log = log_files > 1 && due.frees(first_file, current_file, oldest_needed);
    let wants_checkpoint = frees_log || (!holds && due.is_owed());
    let is_checkpointing = shard.checkpointing.is_at_work();
    let mut after = None;
    if let Some(Work::CopyOut(last)) = failed {
        after = Some(last);
    }
    let mostly_dead = shard
        .containers
        .mostly_dead(shard.options.container_bytes_min, after)
        .filter(|_| !shard.copying_out.is_at_work());
    let unsealed_bytes = shard.unsealed_bytes.load(Ordering::Relaxed);
    // States without items are never sealed: only a manifest frees the log of them.
    let only_states = unsealed_bytes == 0 && log_files > LOG_FILES_MAX;
    Some(Figures {
        wants_log_file,
        unsealed_bytes,
        unsealed_bytes_max: shard.options.unsealed_bytes,
        is_sealing: shard.sealing.is_at_work(),
        log_files,
        wants_checkpoint: (needs_manifest || wants_checkpoint || only_states) && !is_checkpointing,
        is_checkpointing,
        obsolete_logs: shard.obsolete.lock().len(),
        has_garbage: reclaimable > 0 && shard.containers.has_garbage(reclaimable),
        waiting_bytes: if reclaimable > 0 {
            shard.containers.waiting_bytes(reclaimable, last_sequence)
        } else {
            0
        },
        most_segments,
        most_dead,
        mostly_dead,
        is_merging: shard.is_merging_any(),
    })
}

/// One piece of background work, in steps.
#[derive(Debug)]
pub(crate) struct MaintenanceJob {
    shard: Arc<Shard>,
    work: Work,
    doing: Doing,
}

#[derive(Debug)]
enum Doing {
    Prepare(PrepareJob),
    Seal(SealJob),
    Checkpoint(CheckpointJob),
    Merge(Box<MergeJob>),
    CopyOut(CopyOutJob),
    Reclaim,
    RemoveObsoleteLog(usize),
}

impl MaintenanceJob {
    pub(crate) fn new(shard: &Arc<Shard>, work: Work) -> MaintenanceJob {
        let floor = shard.options.history_floor;
        let of = Arc::clone(shard);
        let doing = match work {
            Work::PrepareLogFile => Doing::Prepare(PrepareJob::new(of)),
            Work::Seal => Doing::Seal(SealJob::all_unless_at_work(of, floor)),
            Work::Checkpoint => Doing::Checkpoint(CheckpointJob::unless_at_work(of)),
            Work::Merge(vbucket) => Doing::Merge(Box::new(MergeJob::of_newest(of, vbucket, floor))),
            Work::Rewrite(vbucket) => Doing::Merge(Box::new(MergeJob::of_all(of, vbucket, floor))),
            Work::CopyOut(container) => Doing::CopyOut(CopyOutJob::new(of, container)),
            Work::Reclaim => Doing::Reclaim,
            Work::RemoveObsoleteLog(keep) => Doing::RemoveObsoleteLog(keep),
        };
        let shard = Arc::clone(shard);
        MaintenanceJob { shard, work, doing }
    }

    fn advance(&mut self) -> Outcome<()> {
        let shard = &self.shard;
        match &mut self.doing {
            Doing::Prepare(job) => job.step(),
            Doing::Seal(job) => job.step(),
            Doing::Checkpoint(job) => job.step(),
            Doing::Merge(job) => match job.step() {
                // It was deleted after it was chosen.
                Outcome::Failed(StorageError::UnknownVbucket(_)) => {
                    Outcome::Aborted(AbortReason::Deleted)
                }
                other @ (Outcome::Complete(())
                | Outcome::Yielded
                | Outcome::Aborted(_)
                | Outcome::Failed(_)) => other,
            },
            Doing::CopyOut(job) => job.step(),
            Doing::Reclaim => reclaim(shard),
            Doing::RemoveObsoleteLog(keep) => ended(remove_obsolete(shard, *keep)),
        }
    }
}

/// Gives back what may go; where that only waits for the log to be durable, it is made so first.
fn reclaim(shard: &Shard) -> Outcome<()> {
    let durable = shard.reclaimable();
    if shard.containers.has_garbage(durable) {
        return ended(shard.containers.reclaim(durable));
    }
    let Some(mut writer) = shard.writer() else {
        return Outcome::Yielded;
    };
    let last = writer.log.last_sequence();
    if shard.containers.waiting_bytes(durable, last) == 0 {
        return Outcome::Complete(());
    }
    let synced = writer.check_open().and_then(|()| writer.sync());
    shard.note_synced(&writer);
    ended(synced)
}

fn ended(result: Result<(), StorageError>) -> Outcome<()> {
    result.map_or_else(Outcome::Failed, Outcome::Complete)
}

impl Job for MaintenanceJob {
    type Output = ();
    type Failure = StorageError;

    fn step(&mut self) -> Outcome<()> {
        let outcome = self.advance();
        match &outcome {
            Outcome::Complete(()) => *self.shard.failed_work.lock() = None,
            Outcome::Failed(_) => *self.shard.failed_work.lock() = Some(self.work),
            Outcome::Yielded | Outcome::Aborted(_) => {}
        }
        outcome
    }
}

/// Removes log files that nothing needs and that were not used again, but for the `keep` largest.
fn remove_obsolete(shard: &Shard, keep: usize) -> Result<(), StorageError> {
    loop {
        let Some(span) = smallest_beyond(&mut shard.obsolete.lock(), keep) else {
            return Ok(());
        };
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

/// Takes the smallest out, if there are more than `keep`.
fn smallest_beyond(obsolete: &mut Vec<LogFileSpan>, keep: usize) -> Option<LogFileSpan> {
    let sizes = obsolete.iter().map(|span| span.capacity).enumerate();
    let (smallest, _) = sizes.min_by_key(|(_, capacity)| *capacity)?;
    (obsolete.len() > keep).then(|| obsolete.swap_remove(smallest))
}

#[cfg(test)]
mod tests;
