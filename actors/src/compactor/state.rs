//! Which compactions wait, which run, and who wants to know: a plain state machine.
//!
//! Invariant: a vbucket has at most one run under way and one that waits; requests that wait are merged, and every
//! waiter is answered exactly once. Never more runs are under way than the limit, and whatever waits is taken as soon as
//! one ends (MB-50941). A request joins a run only as long as that has read nothing; later it gets the next one, so that
//! whoever is answered knows that everything on disk before the request was looked at.

mod entry;
mod settle;

use std::collections::BTreeMap;
use std::time::Duration;

use self::entry::{Entry, Queued, Running};
use crate::backoff::Backoff;
use messages::compactor::{CompactError, CompactionStatus};
use messages::{Busy, ChildName, FailureCause};
use storage::{AbortReason, Compacted, CompactionProgress, CompactionStage, VbucketId};

/// Somebody who waits for a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaiterId(pub u64);

/// One run of a compaction; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunId(pub u64);

/// What a run shall let go. More is stronger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// Every tombstone that no rule keeps, whatever its age.
    pub drop_deletes: bool,
    /// Tombstones deleted before this, in seconds since the Unix epoch.
    pub purge_before_s: u32,
}

impl Purge {
    /// What satisfies both.
    #[must_use]
    pub fn and(self, other: Purge) -> Purge {
        Purge {
            drop_deletes: self.drop_deletes || other.drop_deletes,
            purge_before_s: self.purge_before_s.max(other.purge_before_s),
        }
    }
}

/// What a run shall do. More is stronger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Work {
    /// Make one of the newest segments. Nothing is let go but what is superseded in them.
    #[default]
    MergeNewest,
    /// Rewrite all segments, and let this go.
    Rewrite(Purge),
}

impl Work {
    /// What satisfies both.
    #[must_use]
    pub fn and(self, other: Work) -> Work {
        match (self, other) {
            (Work::Rewrite(one), Work::Rewrite(other)) => Work::Rewrite(one.and(other)),
            (rewrite @ Work::Rewrite(_), Work::MergeNewest) => rewrite,
            (Work::MergeNewest, other) => other,
        }
    }
}

impl From<Purge> for Work {
    fn from(purge: Purge) -> Work {
        Work::Rewrite(purge)
    }
}

/// A run for a worker to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// Which run.
    pub run: RunId,
    /// Of which vbucket.
    pub vbucket: VbucketId,
}

/// What a worker that asks for work gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// This.
    Run(Assignment),
    /// Nothing now, but at that time (monotonic).
    Later(Duration),
    /// Nothing, until it is woken.
    Nothing,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// All done.
    Complete(Compacted),
    /// Nobody's fault.
    Aborted(AbortReason),
    /// It failed, and was told as a failure.
    Failed {
        /// Where.
        stage: CompactionStage,
        /// Why.
        cause: FailureCause,
        /// What was published all the same.
        published: Option<Box<Compacted>>,
    },
    /// It could not begin: the vbucket is not one that is compacted.
    Refused(CompactError),
    /// The worker was made anew, or the store is to be opened anew: to be begun again.
    Interrupted,
    /// The worker panicked in the middle of a step.
    Crashed(ChildName),
}

/// What is to be done outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Answer a waiter.
    Answer(WaiterId, Result<Compacted, CompactError>),
    /// There may be work for workers that idle.
    WakeWorkers,
}

/// Figures since the bucket was opened, but the last two, which are of now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CompactionFigures {
    /// Runs that were completed.
    pub completed: u64,
    /// Runs that failed.
    pub failed: u64,
    /// Runs that were aborted.
    pub aborted: u64,
    /// Tombstones that were let go.
    pub tombstones_purged: u64,
    /// Prepares that were let go, those of dropped collections included.
    pub prepares_purged: u64,
    /// Documents of dropped collections that were erased.
    pub collection_items_purged: u64,
    /// Documents that compactions found to be expired, and that were deleted for it.
    pub expired: u64,
    /// Compactions that wait or run.
    pub pending: u64,
    /// Those of them that run.
    pub running: u64,
}

/// How patient it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactorLimits {
    /// Compactions that may run at once.
    pub running_max: usize,
    /// Requests that may wait for an answer at once.
    pub waiters_max: usize,
    /// How long the engine leaves a vbucket alone whose compaction failed.
    pub backoff: Backoff,
}

/// How long a run waits that found another job at work on its segments.
const BUSY_REST: Duration = Duration::from_millis(20);
/// How long the engine leaves a vbucket alone of which somebody cancelled the compaction.
const CANCEL_REST: Duration = Duration::from_secs(60);

/// The machine.
#[derive(Debug)]
pub struct CompactorState {
    limits: CompactorLimits,
    vbuckets: BTreeMap<VbucketId, Entry>,
    life: Life,
    /// Nobody works any more, until that is undone: what is answered instead.
    down: Option<CompactError>,
    /// Numbers runs, and the places in the queue.
    next_number: u64,
    figures: CompactionFigures,
    effects: Vec<Effect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    Stopping,
}

impl CompactorState {
    /// Nothing to do yet.
    #[must_use]
    pub fn new(limits: CompactorLimits) -> CompactorState {
        CompactorState {
            limits,
            vbuckets: BTreeMap::new(),
            life: Life::Open,
            down: None,
            next_number: 0,
            figures: CompactionFigures::default(),
            effects: Vec::new(),
        }
    }

    /// Somebody asks for a compaction. Who it is must be answered when there is an error, too.
    pub fn request(&mut self, waiter: WaiterId, vbucket: VbucketId, purge: Purge) {
        let refused = match self.life {
            Life::Stopping => Some(CompactError::Closed),
            Life::Open if self.waiting() >= self.limits.waiters_max => {
                Some(CompactError::TemporaryFailure(Busy::Queue))
            }
            Life::Open => self.down.clone(),
        };
        match refused {
            Some(error) => self.effects.push(Effect::Answer(waiter, Err(error))),
            None => self.enqueue(vbucket, purge.into(), Some(waiter)),
        }
    }

    /// The engine itself wants a compaction. Not while one is under way: it looks again after that. Nor of a vbucket
    /// whose compaction always panics.
    pub fn want(&mut self, vbucket: VbucketId, work: impl Into<Work>) {
        let entry = self.vbuckets.get(&vbucket);
        let is_not_now = |entry: &Entry| entry.running.is_some() || entry.is_left_alone();
        if self.life == Life::Open && !entry.is_some_and(is_not_now) {
            self.enqueue(vbucket, work.into(), None);
        }
    }

    /// Whether a compaction of it waits or runs.
    #[must_use]
    pub fn has(&self, vbucket: VbucketId) -> bool {
        let entry = self.vbuckets.get(&vbucket);
        entry.is_some_and(|entry| entry.queued.is_some() || entry.running.is_some())
    }

    fn enqueue(&mut self, vbucket: VbucketId, work: Work, waiter: Option<WaiterId>) {
        let place = self.number();
        let entry = self.vbuckets.entry(vbucket).or_default();
        let joinable = entry.running.as_mut();
        let joinable = joinable.filter(|run| !run.has_begun && run.abort.is_none());
        let wish = match joinable {
            Some(run) => &mut run.of,
            None => entry.queued.get_or_insert_with(|| Queued::new(place)),
        };
        wish.work = wish.work.and(work);
        wish.want(waiter.is_none().then_some(work));
        wish.waiters.extend(waiter);
        self.effects.push(Effect::WakeWorkers);
    }

    /// The next run, if one may begin. Those somebody waits for come first, each in the order they were asked for.
    pub fn take(&mut self, now: Duration) -> Taken {
        if self.life == Life::Stopping || self.running() >= self.limits.running_max {
            return Taken::Nothing;
        }
        let mut soonest: Option<Duration> = None;
        let mut first: Option<(bool, u64, VbucketId)> = None;
        for (vbucket, entry) in &self.vbuckets {
            let Some(at) = entry.ready_at() else {
                continue;
            };
            if at > now {
                soonest = Some(soonest.map_or(at, |soonest| soonest.min(at)));
                continue;
            }
            let Some(queued) = &entry.queued else {
                continue;
            };
            let order = (queued.waiters.is_empty(), queued.place, *vbucket);
            first = Some(first.map_or(order, |first| first.min(order)));
        }
        match first.and_then(|(_, _, vbucket)| self.begin(vbucket)) {
            Some(assignment) => Taken::Run(assignment),
            None => soonest.map_or(Taken::Nothing, Taken::Later),
        }
    }

    fn begin(&mut self, vbucket: VbucketId) -> Option<Assignment> {
        let run = RunId(self.number());
        let entry = self.vbuckets.get_mut(&vbucket)?;
        let of = entry.queued.take()?;
        entry.running = Some(Running {
            id: run,
            of,
            has_begun: false,
            abort: None,
            progress: None,
        });
        Some(Assignment { run, vbucket })
    }

    /// The run reads from now on, with what was wanted of it until now. `None`: it is to be aborted instead.
    pub fn begun(&mut self, of: Assignment) -> Option<Work> {
        let run = self.run(of)?;
        if run.abort.is_some() {
            return None;
        }
        run.has_begun = true;
        Some(run.of.work)
    }

    /// How far a run is.
    pub fn note_progress(&mut self, of: Assignment, progress: CompactionProgress) {
        if let Some(run) = self.run(of) {
            run.progress = Some(progress);
        }
    }

    /// Documents were found to be expired, and deleted for it.
    pub fn note_expired(&mut self, documents: u64) {
        self.figures.expired = self.figures.expired.saturating_add(documents);
    }

    /// Why a run shall end, if it shall. One that is not known any more shall, too.
    pub fn must_abort(&mut self, of: Assignment) -> Option<AbortReason> {
        match self.run(of) {
            Some(run) => run.abort,
            None => Some(AbortReason::Cancelled),
        }
    }

    /// Lets at most so many run at once; those that run are not ended for it. The limit in force.
    pub fn set_limit(&mut self, running_max: usize) -> usize {
        self.limits.running_max = running_max.max(1);
        self.effects.push(Effect::WakeWorkers);
        self.limits.running_max
    }

    /// Gives up what waits, and tells what runs to end. How many compactions that concerns.
    pub fn cancel(&mut self, only: Option<VbucketId>, now: Duration) -> usize {
        let reason = AbortReason::Cancelled;
        let put_off = now.saturating_add(CANCEL_REST);
        let is_meant = |vbucket: &VbucketId| only.is_none_or(|only| only == *vbucket);
        let mut count = 0usize;
        for (_, entry) in self.vbuckets.iter_mut().filter(|(id, _)| is_meant(id)) {
            count = count.saturating_add(entry.abort(reason, &mut self.effects));
            entry.put_off = entry.put_off.max(put_off);
        }
        self.effects.push(Effect::WakeWorkers);
        count
    }

    /// Its workers were taken out of service: whoever waits, or asks from now on, is answered with `error`.
    pub fn take_down(&mut self, error: &CompactError) {
        for entry in self.vbuckets.values_mut() {
            let run = entry.running.as_mut().map(|run| &mut run.of);
            let wishes = run.into_iter().chain(entry.queued.as_mut());
            let waiters = wishes.flat_map(|wish| std::mem::take(&mut wish.waiters));
            let told = |waiter| Effect::Answer(waiter, Err(error.clone()));
            self.effects.extend(waiters.map(told));
        }
        self.down = Some(error.clone());
    }

    /// There are workers again.
    pub fn bring_back(&mut self) {
        self.down = None;
        self.effects.push(Effect::WakeWorkers);
    }

    /// Takes no more requests: what waits is answered, what runs is told to end at its next step (MB-49512).
    pub fn stop(&mut self) {
        self.life = Life::Stopping;
        for entry in self.vbuckets.values_mut() {
            entry.abort(AbortReason::ShuttingDown, &mut self.effects);
        }
        self.effects.push(Effect::WakeWorkers);
    }

    /// Nothing will run any more: whoever still waits is answered.
    pub fn close(&mut self) {
        self.stop();
        for entry in std::mem::take(&mut self.vbuckets).into_values() {
            let waiters = entry.running.into_iter().flat_map(|run| run.of.waiters);
            let closed = |waiter| Effect::Answer(waiter, Err(CompactError::Closed));
            self.effects.extend(waiters.map(closed));
        }
    }

    /// Whether it is being stopped.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.life == Life::Stopping
    }

    /// What is to be done outside, in order.
    #[must_use]
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Every compaction that waits or runs, in the order of the vbuckets.
    #[must_use]
    pub fn statuses(&self) -> Vec<CompactionStatus> {
        let status = |(vbucket, entry): (&VbucketId, &Entry)| {
            let run = entry.running.as_ref();
            let wishes = [run.map(|run| &run.of), entry.queued.as_ref()];
            let waiters = wishes.iter().flatten().map(|wish| wish.waiters.len());
            Some(CompactionStatus {
                vbucket: *vbucket,
                running: run.map(Running::described),
                waiters: waiters.sum(),
                failures: entry.failures,
            })
            .filter(|_| wishes.iter().any(Option::is_some))
        };
        self.vbuckets.iter().filter_map(status).collect()
    }

    /// Its figures.
    #[must_use]
    pub fn figures(&self) -> CompactionFigures {
        let of = |entry: &Entry| {
            let queued = u64::from(entry.queued.is_some());
            queued.saturating_add(u64::from(entry.running.is_some()))
        };
        CompactionFigures {
            pending: self.vbuckets.values().map(of).sum(),
            running: self.running() as u64,
            ..self.figures
        }
    }

    fn running(&self) -> usize {
        let entries = self.vbuckets.values();
        entries.filter(|entry| entry.running.is_some()).count()
    }

    fn waiting(&self) -> usize {
        self.statuses().iter().map(|status| status.waiters).sum()
    }

    fn run(&mut self, of: Assignment) -> Option<&mut Running> {
        let entry = self.vbuckets.get_mut(&of.vbucket)?;
        entry.running.as_mut().filter(|run| run.id == of.run)
    }

    fn number(&mut self) -> u64 {
        self.next_number = self.next_number.saturating_add(1);
        self.next_number
    }
}

#[cfg(test)]
mod tests;
