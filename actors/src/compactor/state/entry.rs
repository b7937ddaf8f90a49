//! What is known of one vbucket: the run under way, and the one that waits.
//!
//! Invariant: what is merged keeps every waiter, the older place in the queue, and the stronger of both wishes.

use std::time::Duration;

use super::{Effect, RunId, WaiterId, Work};
use messages::compactor::{CompactError, CompactionRun};
use storage::{AbortReason, CompactionProgress, CompactionStage};

#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) queued: Option<Queued>,
    pub(super) running: Option<Running>,
    /// In a row.
    pub(super) failures: u32,
    /// Those that were panics, since one was completed.
    pub(super) crashes: u32,
    /// The engine's own wishes wait until then (monotonic).
    pub(super) put_off: Duration,
}

/// What the next run of a vbucket is for.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) place: u64,
    pub(super) work: Work,
    pub(super) waiters: Vec<WaiterId>,
    /// The engine wants it, too: this much of it.
    pub(super) own: Option<Work>,
    /// Nobody's wish is served before (monotonic).
    pub(super) not_before: Duration,
}

#[derive(Debug)]
pub(super) struct Running {
    pub(super) id: RunId,
    pub(super) of: Queued,
    /// It has read something: nobody joins any more.
    pub(super) has_begun: bool,
    pub(super) abort: Option<AbortReason>,
    pub(super) progress: Option<CompactionProgress>,
}

/// After so many panics the engine leaves a vbucket alone: each costs the workers a restart, and enough of those take
/// their group out of service.
const CRASHES_MAX: u32 = 3;

impl Entry {
    /// One more panic; whether that is the one that is one too many.
    pub(super) fn note_crash(&mut self) -> bool {
        self.crashes = self.crashes.saturating_add(1);
        self.crashes == CRASHES_MAX
    }

    /// Whether it is compacted only when somebody asks for it.
    pub(super) fn is_left_alone(&self) -> bool {
        self.crashes >= CRASHES_MAX
    }

    /// When what waits may begin; `None` when nothing waits, or a run is under way.
    pub(super) fn ready_at(&self) -> Option<Duration> {
        let queued = self.queued.as_ref()?;
        if self.running.is_some() {
            return None;
        }
        Some(if queued.waiters.is_empty() {
            queued.not_before.max(self.put_off)
        } else {
            queued.not_before
        })
    }

    /// Gives up what waits, and has what runs end; how many compactions that were.
    pub(super) fn abort(&mut self, reason: AbortReason, effects: &mut Vec<Effect>) -> usize {
        let mut count = 0usize;
        if let Some(queued) = self.queued.take() {
            count = 1;
            let answer = |waiter| Effect::Answer(waiter, Err(CompactError::Aborted(reason)));
            effects.extend(queued.waiters.into_iter().map(answer));
        }
        if let Some(run) = &mut self.running {
            count = count.saturating_add(usize::from(run.abort.is_none()));
            run.abort = Some(run.abort.unwrap_or(reason));
        }
        count
    }

    /// Whether nothing is to be remembered of it.
    pub(super) fn is_blank(&self, now: Duration) -> bool {
        let is_idle = self.queued.is_none() && self.running.is_none();
        is_idle && self.failures == 0 && self.put_off <= now
    }
}

impl Queued {
    pub(super) fn new(place: u64) -> Queued {
        Queued {
            place,
            work: Work::default(),
            waiters: Vec::new(),
            own: None,
            not_before: Duration::ZERO,
        }
    }

    /// The engine wants it, if it does.
    pub(super) fn want(&mut self, work: Option<Work>) {
        let own = self.own.unwrap_or_default();
        self.own = work.map(|work| own.and(work)).or(self.own);
    }

    /// One run for both.
    pub(super) fn merge(&mut self, other: Queued) {
        self.place = self.place.min(other.place);
        self.work = self.work.and(other.work);
        self.waiters.extend(other.waiters);
        self.want(other.own);
        self.not_before = self.not_before.max(other.not_before);
    }
}

impl Running {
    pub(super) fn described(&self) -> CompactionRun {
        let progress = self.progress.as_ref();
        CompactionRun {
            stage: progress.map_or(CompactionStage::Start, |progress| progress.stage),
            bytes_read: progress.map_or(0, |progress| progress.bytes_read),
            bytes_total: progress.map_or(0, |progress| progress.bytes_total),
            bytes_written: progress.map_or(0, |progress| progress.bytes_written),
        }
    }
}
