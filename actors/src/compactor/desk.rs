//! The compactor's desk: the machine and all that is known of compactions, shared by the actor, the workers and the
//! bucket.
//!
//! Invariant: nothing is known only to an actor or a worker, so that either may be made anew at any moment. No lock is
//! held while somebody is answered, and none while the store works.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix::Recipient;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::budget::IoBudget;
use super::look::Look;
use super::policy::{CompactionPolicy, Reason, VbucketFigures};
use super::prepares::{ErasedPrepares, PastOf};
use super::state::{
    Assignment, CompactionFigures, CompactorLimits, CompactorState, Effect, Purge, RunEnd, Taken,
    WaiterId, Work,
};
use super::vbucket::{Compactable, CompactionTable};
use super::worker::CompactionWorker;
use crate::environment::Environment;
use crate::executor::{StartError, WakeWorker, Worker, WorkerSpec};
use crate::guardian::Guardian;
use crate::store_handle::{StoreGeneration, StoreHandle};
use messages::compactor::{
    Compact, CompactError, CompactOptions, CompactionStatus, PreparesErased,
};
use messages::{ChildName, Generation};
use storage::{
    AbortReason, Compacted, CompactionProgress, ErasedPrepare, KvStore, LogStore, Seqno, VbucketId,
};

/// What a compactor works with.
#[derive(Clone, Debug)]
pub struct CompactorConfig {
    /// What its workers are called in the tree; each appends its number.
    pub workers: ChildName,
    /// The store.
    pub store: StoreHandle,
    /// Time, randomness, failures.
    pub environment: Environment,
    /// Where the vbuckets are.
    pub table: Arc<dyn CompactionTable>,
    /// How much at once, and how patient.
    pub limits: CompactorLimits,
    /// What it compacts unasked.
    pub policy: CompactionPolicy,
    /// So long tombstones are kept, unless said otherwise.
    pub purge_age: Duration,
    /// Bytes that all its workers may read and write in a second; zero is no limit.
    pub bytes_per_second: u64,
    /// Versions superseded at or below may go (rule R11).
    pub history_floor: Seqno,
}

/// Answered once, when the compaction ended.
pub type WhenCompacted = oneshot::Receiver<Result<Compacted, CompactError>>;

/// The compactor of a bucket. Clones are the same.
#[derive(Clone, Debug)]
pub struct Compactor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: CompactorConfig,
    state: Mutex<CompactorState>,
    replies: Mutex<BTreeMap<WaiterId, oneshot::Sender<Result<Compacted, CompactError>>>>,
    next_waiter: AtomicU64,
    workers: Mutex<Vec<WakeWorker>>,
    budget: Mutex<IoBudget>,
    look: Mutex<Look>,
    prepares: Mutex<ErasedPrepares>,
    /// Their compaction panicked: they may not know up to where the store has purged them.
    unsure: Mutex<BTreeSet<VbucketId>>,
}

/// So long a receiver whose mailbox is full is left alone.
const TELL_AGAIN: Duration = Duration::from_millis(100);

impl Compactor {
    /// A compactor without workers.
    #[must_use]
    pub fn new(config: CompactorConfig) -> Compactor {
        let now = config.environment.clock.monotonic();
        Compactor {
            shared: Arc::new(Shared {
                state: Mutex::new(CompactorState::new(config.limits)),
                replies: Mutex::default(),
                next_waiter: AtomicU64::new(0),
                workers: Mutex::default(),
                budget: Mutex::new(IoBudget::new(config.bytes_per_second)),
                look: Mutex::new(Look::new(now)),
                prepares: Mutex::default(),
                unsure: Mutex::default(),
                config,
            }),
        }
    }

    /// Starts `count` workers (at least one).
    pub fn start(&self, count: u16, guardian: &Arc<dyn Guardian>) -> Result<(), StartError> {
        for number in 0..count.max(1) {
            let config = &self.shared.config;
            let name = ChildName::new(format!("{}-{number}", config.workers));
            let (compactor, called) = (self.clone(), name.clone());
            let make = move |generation: Generation| -> Box<dyn Worker> {
                let worker = CompactionWorker::new(compactor.clone(), called.clone(), generation);
                Box::new(worker)
            };
            let wake = config.environment.executor.start(WorkerSpec {
                name,
                make: Box::new(make),
                guardian: Arc::clone(guardian),
            })?;
            config.store.watch(wake.clone());
            self.shared.workers.lock().push(wake);
        }
        Ok(())
    }

    /// Compacts a vbucket, whether or not the answer is waited for.
    #[must_use]
    pub fn compact(&self, Compact { vbucket, options }: Compact) -> WhenCompacted {
        let (sender, answer) = oneshot::channel();
        if let Err(error) = self.shared.config.table.vbucket(vbucket) {
            // Whoever went away needs no answer.
            drop(sender.send(Err(error)));
            return answer;
        }
        let number = self.shared.next_waiter.fetch_add(1, Ordering::Relaxed);
        let waiter = WaiterId(number);
        self.shared.replies.lock().insert(waiter, sender);
        let purge = self.purge(options);
        self.change(|state| state.request(waiter, vbucket, purge));
        answer
    }

    /// Every compaction that waits or runs.
    #[must_use]
    pub fn statuses(&self) -> Vec<CompactionStatus> {
        self.shared.state.lock().statuses()
    }

    /// Figures since the bucket was opened.
    #[must_use]
    pub fn figures(&self) -> CompactionFigures {
        self.shared.state.lock().figures()
    }

    /// Lets at most so many run at once; the limit in force.
    #[must_use]
    pub fn set_limit(&self, running_max: usize) -> usize {
        let workers = self.shared.workers.lock().len().max(1);
        self.change(|state| state.set_limit(running_max.min(workers)))
    }

    /// Gives up compactions of a vbucket, or all; how many those were.
    #[must_use]
    pub fn cancel(&self, only: Option<VbucketId>) -> usize {
        let now = self.now();
        self.change(|state| state.cancel(only, now))
    }

    /// From now on this one is told which prepares were erased.
    pub fn tell_erased_prepares(&self, receiver: Recipient<PreparesErased>) {
        self.shared.prepares.lock().tell_to(receiver);
    }

    /// Something was sealed or dropped: the policy looks at every vbucket again.
    pub fn look_soon(&self) {
        self.shared.look.lock().soon(self.now());
        self.wake();
    }

    /// Takes no more requests; what waits is answered, what runs ends at its next step.
    pub fn stop(&self) {
        self.change(CompactorState::stop);
    }

    /// What is called when the whole bucket goes out of service: with who had too much, and why. Whoever waits is
    /// answered, and whoever asks, until [`Compactor::bring_back`]. Does not keep the compactor.
    pub fn on_out_of_service(&self) -> impl Fn(&ChildName, &str) + Send + Sync + use<> {
        let weak = Arc::downgrade(&self.shared);
        move |child, why| {
            if let Some(shared) = weak.upgrade() {
                let error = CompactError::Down {
                    child: child.clone(),
                    cause: why.into(),
                };
                Compactor { shared }.change(|state| state.take_down(&error));
            }
        }
    }

    /// A child is made anew: if it is one of its workers, there is somebody again to do what is asked.
    pub fn bring_back(&self, child: &ChildName) {
        let workers = format!("{}-", self.shared.config.workers);
        if child.as_str().starts_with(&workers) {
            self.change(CompactorState::bring_back);
        }
    }

    /// No worker lives any more: whoever still waits is answered.
    pub fn close(&self) {
        self.change(CompactorState::close);
    }

    /// Wakes every worker.
    pub(super) fn wake(&self) {
        let workers = self.shared.workers.lock().clone();
        for worker in workers {
            worker.wake();
        }
    }

    /// What a hold of a harness calls when it is over.
    pub(super) fn waker(&self) -> WakeWorker {
        let weak = Arc::downgrade(&self.shared);
        WakeWorker::new(move || {
            if let Some(shared) = weak.upgrade() {
                Compactor { shared }.wake();
            }
        })
    }

    pub(super) fn config(&self) -> &CompactorConfig {
        &self.shared.config
    }

    pub(super) fn now(&self) -> Duration {
        self.shared.config.environment.clock.monotonic()
    }

    /// Seconds since the Unix epoch.
    pub(super) fn now_s(&self) -> u32 {
        let now = self.shared.config.environment.clock.since_epoch();
        u32::try_from(now.as_secs()).unwrap_or(u32::MAX)
    }

    /// What a request asks for, by the purge age of the bucket where it says nothing.
    pub(super) fn purge(&self, options: CompactOptions) -> Purge {
        let age = self.shared.config.purge_age.as_secs();
        let age = u32::try_from(age).unwrap_or(u32::MAX);
        let usual = self.now_s().saturating_sub(age);
        Purge {
            drop_deletes: options.drop_deletes,
            purge_before_s: options.purge_before_s.unwrap_or(usual),
        }
    }

    pub(super) fn take(&self) -> Taken {
        let now = self.now();
        self.shared.state.lock().take(now)
    }

    pub(super) fn begun(&self, of: Assignment) -> Option<Work> {
        self.shared.state.lock().begun(of)
    }

    pub(super) fn must_abort(&self, of: Assignment) -> Option<AbortReason> {
        self.shared.state.lock().must_abort(of)
    }

    /// Notes how far a run is, and spends what it read and wrote since; from when on it may go on.
    pub(super) fn note_step(
        &self,
        of: Assignment,
        progress: CompactionProgress,
        bytes: u64,
        expired: u64,
    ) -> Duration {
        let now = self.now();
        let mut state = self.shared.state.lock();
        state.note_progress(of, progress);
        state.note_expired(expired);
        drop(state);
        self.shared.budget.lock().spend(bytes, now)
    }

    /// A run failed; when it is tried again without being asked for, if it is.
    pub(super) fn note_failure(&self, of: Assignment) -> Option<Duration> {
        let (now, random) = (self.now(), self.shared.config.environment.random.next_u64());
        let mut state = self.shared.state.lock();
        state.note_failure(of, now, random)
    }

    /// A run panicked; whether the engine leaves its vbucket alone for it from now on.
    pub(super) fn note_crash(&self, of: Assignment) -> bool {
        let (now, random) = (self.now(), self.shared.config.environment.random.next_u64());
        self.shared.state.lock().note_crash(of, now, random)
    }

    /// A run panicked, behind its publish perhaps.
    pub(super) fn note_unsure(&self, vbucket: VbucketId) {
        self.shared.unsure.lock().insert(vbucket);
    }

    /// The next vbucket whose compaction panicked, and up to where the store has purged it: that is told to it once more,
    /// for it may have been behind the publish. One that panics again hears of it from its next compaction.
    pub(super) fn next_unsure(&self, store: &LogStore) -> Option<(Arc<dyn Compactable>, Seqno)> {
        let vbucket = self.shared.unsure.lock().pop_first()?;
        // One that is not served says so until it is made anew from what is stored.
        let state = store.state(vbucket).ok()?;
        let vbucket = self.shared.config.table.vbucket(vbucket).ok()?;
        Some((vbucket, state.watermarks.purge_seqno))
    }

    /// A run ended. Whoever waits for it is answered after everybody else was told what it did.
    pub(super) fn settle(&self, of: Assignment, end: RunEnd) {
        // One that panicked is unwinding. What is left, or finds no room, is told by whoever looks for work next.
        if !matches!(end, RunEnd::Crashed(_)) {
            self.shared.prepares.lock().tell();
        }
        let now = self.now();
        self.change(|state| state.settle(of, end, now));
    }

    /// A publish that erases these prepares begins.
    pub(super) fn note_at_stake(
        &self,
        of: PastOf,
        now: StoreGeneration,
        prepares: &[ErasedPrepare],
        vbucket: &Arc<dyn Compactable>,
    ) {
        let mut erased = self.shared.prepares.lock();
        erased.begins(of, now, prepares, vbucket);
    }

    /// Asks a store that was opened anew what became of publishes that did not come back; whether anything was in doubt.
    pub(super) fn settle_doubts(&self, store: &LogStore, generation: StoreGeneration) -> bool {
        let doubts = self.shared.prepares.lock().doubts_before(generation);
        let is_any = !doubts.is_empty();
        for (of, doubt) in doubts {
            match doubt.gone_from(of, store) {
                Ok(gone) => self.shared.prepares.lock().is_settled(of, &gone),
                // Asked again with the next look for work; a vbucket that is down may be served again one day.
                Err(error) => {
                    tracing::debug!(vbucket = %of.0, %error, "erased prepares stay in doubt");
                }
            }
        }
        is_any
    }

    /// These prepares are erased, and that is on disk: from now on they are told, whatever becomes of whoever found it.
    pub(super) fn note_erased(
        &self,
        of: PastOf,
        prepares: &[ErasedPrepare],
        vbucket: &Arc<dyn Compactable>,
    ) {
        self.shared.prepares.lock().erased(of, prepares, vbucket);
        self.forget_erased();
    }

    /// Has the vbuckets forget what was erased: without our lock, and known until each has done so.
    fn forget_erased(&self) {
        loop {
            let next = self.shared.prepares.lock().next_to_forget();
            let Some((vbucket, erased)) = next else {
                return;
            };
            vbucket.forget_erased(&erased);
            self.shared.prepares.lock().forgotten(&erased);
        }
    }

    /// Tells what is to be told; when (monotonic) to try again, if there was no room for all of it.
    pub(super) fn tell_prepares(&self) -> Option<Duration> {
        // A panic may have kept one from it.
        self.forget_erased();
        let is_done = self.shared.prepares.lock().tell();
        (!is_done).then(|| self.now().saturating_add(TELL_AGAIN))
    }

    /// Has the policy look at the next few vbuckets, if it is time. Whether there is more to look at.
    pub(super) fn look(&self, store: &LogStore) -> bool {
        // One worker looks at a time; the others find nothing to do.
        let Some(mut look) = self.shared.look.try_lock() else {
            return false;
        };
        let wanted = look.slice(self, store);
        let is_more = look.is_under_way();
        drop(look);
        let purge = self.purge(CompactOptions::default());
        for (vbucket, reason) in wanted {
            let work = match reason {
                Reason::Segments => Work::MergeNewest,
                Reason::DroppedCollection
                | Reason::Overdue
                | Reason::Fragmentation
                | Reason::Tombstones => Work::Rewrite(purge),
            };
            self.change(|state| state.want(vbucket, work));
        }
        is_more
    }

    /// When (monotonic) the policy looks next.
    pub(super) fn next_look(&self) -> Duration {
        self.shared.look.lock().next_at()
    }

    /// How a vbucket stands before a compaction.
    pub(super) fn before(&self, vbucket: VbucketId, store: &LogStore) -> Option<VbucketFigures> {
        self.shared.look.lock().before(self, vbucket, store)
    }

    /// A rewrite that began at those figures is complete: the policy remembers what another one could not change.
    pub(super) fn note_compacted(
        &self,
        vbucket: VbucketId,
        began: &VbucketFigures,
        store: &LogStore,
    ) {
        let mut look = self.shared.look.lock();
        look.note_compacted(self, vbucket, began, store);
    }

    /// Whether a compaction of it waits or runs.
    pub(super) fn has(&self, vbucket: VbucketId) -> bool {
        self.shared.state.lock().has(vbucket)
    }

    /// Changes the state, then does outside what comes of it.
    fn change<T>(&self, change: impl FnOnce(&mut CompactorState) -> T) -> T {
        let (result, effects) = {
            let mut state = self.shared.state.lock();
            let result = change(&mut state);
            (result, state.take_effects())
        };
        let mut wakes = false;
        for effect in effects {
            match effect {
                Effect::WakeWorkers => wakes = true,
                Effect::Answer(waiter, answer) => {
                    let reply = self.shared.replies.lock().remove(&waiter);
                    // Whoever went away needs no answer.
                    drop(reply.map(|reply| reply.send(answer)));
                }
            }
        }
        if wakes {
            self.wake();
        }
        result
    }
}
