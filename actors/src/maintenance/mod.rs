//! The store's background work: log files, sealing, checkpoints, giving space back, one piece at a time, in steps.
//! Merging is the compactor's, unless the store is set to merge by itself.
//!
//! Never in the way of a commit for longer than a publish, whatever the size of a merge (MB-38428). Woken by the
//! writers; level-triggered, because what is to be done is a function of the store's own figures. Invariant: what
//! failed is told once a try and waits longer each time, while other kinds of work go on; an aborted piece moves no
//! figure. While memory is short the log shards are sealed before their time, but other work has its turn in between;
//! once nothing more is to be sealed, the checkpoint logs give back what they can, and documents leave. Now and then it looks
//! for documents whose time is up.

mod pager;
mod pressure;
mod sweep;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::backoff::Backoff;
use crate::environment::{Environment, FailureReport};
use crate::executor::{StartError, Step, WakeWorker, Worker, WorkerSpec};
use crate::guardian::Guardian;
use crate::store_handle::{StoreHandle, StoreLease};
use messages::failure::CompactionStage;
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};
use storage::log_store::MaintenanceKind;
use storage::{Advice, Job, LogStore, Outcome, StorageError, VbucketId};

pub use self::pager::{Paged, Pager, Shortage, Side};
pub use self::pressure::{AmpleMemory, MemoryUse};
pub use self::sweep::{ExpirySweep, Sweepable};

use self::sweep::Sweeping;

/// What maintenance works with.
#[derive(Clone, Debug)]
pub struct MaintenanceConfig {
    /// Its name in the tree.
    pub name: ChildName,
    /// The store.
    pub store: StoreHandle,
    /// Time, randomness, failures.
    pub environment: Environment,
    /// How long to leave a kind of work alone that failed.
    pub backoff: Backoff,
    /// Woken after each seal: there may be something to compact.
    pub after_seal: Option<WakeWorker>,
    /// What sealing gives back to.
    pub memory: Arc<dyn MemoryUse>,
    /// How documents in memory are looked through for those whose time is up.
    pub expiry: Option<ExpirySweep>,
}

type Piece = (
    MaintenanceKind,
    Box<dyn Job<Output = (), Failure = StorageError> + Send>,
);

/// One life of the maintenance of a store.
pub struct MaintenanceWorker {
    config: MaintenanceConfig,
    generation: Generation,
    working: Option<Working>,
    /// Set while the store works for us: if it stays set, a panic left the store half done.
    is_in_store: bool,
    next_shard: u16,
    /// The last piece was a seal for lack of memory: the next one is something else, if there is anything.
    has_relieved: bool,
    /// The logs are not asked to give anything back before then (monotonic).
    next_relief: Duration,
    /// Documents are not asked to leave before then.
    next_paging: Duration,
    /// How often in a row hardly any could.
    fruitless: u32,
    /// When what is not in memory is to be counted, and before when not.
    count_at: Option<Duration>,
    /// When documents are looked through that may have expired.
    sweep_at: Option<Duration>,
    next_count: Duration,
    /// Failures in a row, by log shard and kind.
    failures: BTreeMap<(u16, FailureKind), u32>,
    /// Log shards left alone, and until when (monotonic).
    put_off: BTreeMap<u16, Duration>,
}

struct Working {
    span: tracing::Span,
    // Dropped before the lease: see `StoreLease`.
    job: Box<dyn Job<Output = (), Failure = StorageError> + Send>,
    lease: StoreLease,
    log_shard: u16,
    kind: MaintenanceKind,
}

impl MaintenanceWorker {
    /// A new life.
    #[must_use]
    pub fn new(config: MaintenanceConfig, generation: Generation) -> MaintenanceWorker {
        MaintenanceWorker {
            config,
            generation,
            working: None,
            is_in_store: false,
            next_shard: 0,
            has_relieved: false,
            next_relief: Duration::ZERO,
            next_paging: Duration::ZERO,
            fruitless: 0,
            count_at: None,
            sweep_at: None,
            next_count: Duration::ZERO,
            failures: BTreeMap::new(),
            put_off: BTreeMap::new(),
        }
    }

    /// Chooses the next piece of work; the shards take turns.
    fn begin(&mut self) -> Step {
        let Ok(lease) = self.config.store.lease() else {
            // Woken when the store is back.
            return Step::Idle;
        };
        let now = self.config.environment.clock.monotonic();
        self.put_off.retain(|_, until| *until > now);
        self.count(lease.store(), now);
        let shards = lease.store().shape().log_shards.max(1);
        for turn in 0..shards {
            let log_shard = self.next_shard.wrapping_add(turn).checked_rem(shards);
            let log_shard = log_shard.unwrap_or(0);
            if self.put_off.contains_key(&log_shard) {
                continue;
            }
            if let Some((kind, job)) = self.work_of(lease.store(), log_shard) {
                self.next_shard = log_shard.wrapping_add(1);
                self.working = Some(Working {
                    span: self.span(log_shard, kind),
                    job,
                    lease,
                    log_shard,
                    kind,
                });
                return Step::Again;
            }
        }
        // What the logs give back is freed without the store.
        drop(lease);
        let put_off = self.put_off.values().min().copied();
        let times = [self.relieve(now), put_off, self.count_at, self.sweep_at];
        match times.into_iter().flatten().min() {
            Some(until) => Step::IdleFor(until.saturating_sub(now)),
            None => Step::Idle,
        }
    }

    /// Behind a seal: what was written over documents that are not in memory counts as it should only from then on.
    fn count(&mut self, store: &LogStore, now: Duration) {
        if self.count_at.is_none_or(|at| now < at) {
            return;
        }
        self.next_count = now.saturating_add(pressure::COUNT_EVERY);
        let is_exact = self.config.memory.count_stored(store);
        self.count_at = (!is_exact).then_some(self.next_count);
    }

    /// Has some documents leave memory if it is short, between any two steps of other work; whether more are to. What a seal
    /// is about to free comes first, unless memory is all but used up.
    fn page(&mut self) -> bool {
        let memory = &*self.config.memory;
        let is_relieved = self.has_relieved && self.working.is_some();
        if is_relieved && !memory.is_urgent() {
            return false;
        }
        let now = self.config.environment.clock.monotonic();
        if now < self.next_paging {
            return false;
        }
        match memory.evict() {
            Paged::Enough => {
                self.fruitless = 0;
                false
            }
            Paged::More => true,
            Paged::Nothing => {
                let wait = pressure::paging_wait(self.fruitless);
                self.fruitless = self.fruitless.saturating_add(1);
                self.next_paging = now.saturating_add(wait);
                false
            }
        }
    }

    /// Looks for some documents whose time is up, if it is time to; whether it goes on.
    fn sweep(&mut self) -> bool {
        let now = self.config.environment.clock.monotonic();
        match self.config.expiry.as_ref().map(|expiry| expiry.step(now)) {
            Some(Sweeping::More) => true,
            Some(Sweeping::Until(due)) => {
                self.sweep_at = Some(due);
                false
            }
            None => false,
        }
    }

    /// Behind sealing: has the checkpoint logs give back what they can, if memory is short. When to look again.
    fn relieve(&mut self, now: Duration) -> Option<Duration> {
        if self.next_relief <= now {
            if !pressure::relieve_logs(&*self.config.memory) {
                return None;
            }
            self.next_relief = now.saturating_add(pressure::AGAIN);
        }
        Some(self.next_relief)
    }

    /// The next piece of work of a log shard.
    fn work_of(&mut self, store: &LogStore, log_shard: u16) -> Option<Piece> {
        let usual = || {
            let (kind, job) = store.maintenance_work(log_shard)?;
            Some((kind, Box::new(job) as _))
        };
        let memory = &*self.config.memory;
        let relief = || {
            let from = pressure::seals_from(memory, store.shape().log_shards)?;
            let job = store.seal_shard_job(log_shard, from)?;
            Some((MaintenanceKind::Seal, Box::new(job) as _))
        };
        if std::mem::take(&mut self.has_relieved)
            && let Some(work) = usual()
        {
            return Some(work);
        }
        let relieved = relief();
        self.has_relieved = relieved.is_some();
        relieved.or_else(usual)
    }

    /// Around all of a piece of work.
    fn span(&self, log_shard: u16, kind: MaintenanceKind) -> tracing::Span {
        let (_, vbucket) = failure_of(kind);
        tracing::debug_span!(
            "maintenance",
            job = ?kind,
            log_shard,
            generation = self.generation.0,
            vbucket = vbucket.map(VbucketId::get),
        )
    }

    fn failed(&mut self, working: &Working, cause: StorageError) {
        let (kind, vbucket) = failure_of(working.kind);
        if cause.advice() == Advice::Reopen {
            let generation = working.lease.generation();
            self.config.store.recall(generation, cause.clone());
        }
        let failures = self.failures.entry((working.log_shard, kind)).or_insert(0);
        *failures = failures.saturating_add(1);
        let environment = &self.config.environment;
        let random = environment.random.next_u64();
        let wait = self.config.backoff.wait(*failures, random);
        let until = environment.clock.monotonic().saturating_add(wait);
        self.put_off.insert(working.log_shard, until);
        let at = environment.clock.since_epoch().saturating_add(wait);
        environment.failures.report(FailureReport {
            child: self.config.name.clone(),
            generation: self.generation,
            vbucket,
            kind,
            cause: FailureCause::Storage(cause),
            next: NextStep::RetryAt {
                at_ms: u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
            },
        });
    }
}

/// As what the failure of a kind of work counts.
fn failure_of(kind: MaintenanceKind) -> (FailureKind, Option<VbucketId>) {
    let compaction = |stage| FailureKind::Compaction { stage };
    match kind {
        MaintenanceKind::PrepareLogFile | MaintenanceKind::Seal | MaintenanceKind::Checkpoint => {
            (FailureKind::Seal, None)
        }
        MaintenanceKind::Merge(vbucket) => (compaction(CompactionStage::Merge), Some(vbucket)),
        MaintenanceKind::CopyOut => (compaction(CompactionStage::Merge), None),
        MaintenanceKind::Reclaim | MaintenanceKind::RemoveLog => {
            (compaction(CompactionStage::Publish), None)
        }
    }
}

impl Worker for MaintenanceWorker {
    fn step(&mut self) -> Step {
        let is_paging = self.page();
        let goes_on = self.sweep() || is_paging;
        // Stays in its place, so that a panic finds it held.
        let Some(working) = &mut self.working else {
            return match self.begin() {
                Step::Idle | Step::IdleFor(_) if goes_on => Step::Again,
                step @ (Step::Again | Step::Idle | Step::IdleFor(_) | Step::Ended) => step,
            };
        };
        if working.lease.is_recalled() {
            self.working = None;
            return Step::Again;
        }
        self.is_in_store = true;
        let outcome = working.span.in_scope(|| working.job.step());
        self.is_in_store = false;
        if matches!(outcome, Outcome::Yielded) {
            return Step::Again;
        }
        if let Some(working) = self.working.take() {
            match outcome {
                Outcome::Complete(()) => {
                    let (kind, _) = failure_of(working.kind);
                    self.failures.remove(&(working.log_shard, kind));
                    let is_seal = working.kind == MaintenanceKind::Seal;
                    if is_seal {
                        // What was sealed may leave, and is counted.
                        self.next_paging = Duration::ZERO;
                        self.fruitless = 0;
                        self.count_at = Some(self.next_count);
                    }
                    if let Some(after_seal) = self.config.after_seal.as_ref().filter(|_| is_seal) {
                        after_seal.wake();
                    }
                }
                Outcome::Failed(cause) => {
                    let span = working.span.clone();
                    span.in_scope(|| self.failed(&working, cause));
                }
                Outcome::Yielded | Outcome::Aborted(_) => {}
            }
        }
        Step::Again
    }
}

impl Drop for MaintenanceWorker {
    fn drop(&mut self) {
        if self.is_in_store {
            // The panic may have left the store half done: it is never used on as it is.
            let generation = self.config.store.generation();
            self.config.store.recall(generation, StorageError::Closed);
        }
        self.working = None;
    }
}

impl std::fmt::Debug for MaintenanceWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = self.working.as_ref().map(|working| working.kind);
        f.debug_struct("MaintenanceWorker")
            .field("generation", &self.generation)
            .field("working", &kind)
            .finish_non_exhaustive()
    }
}

/// Starts the maintenance of a store; hand the waker to the writers.
pub fn start(
    config: MaintenanceConfig,
    guardian: Arc<dyn Guardian>,
) -> Result<WakeWorker, StartError> {
    let executor = Arc::clone(&config.environment.executor);
    let (name, store) = (config.name.clone(), config.store.clone());
    let make = move |generation: Generation| -> Box<dyn Worker> {
        Box::new(MaintenanceWorker::new(config.clone(), generation))
    };
    let make = Box::new(make);
    let wake = executor.start(WorkerSpec {
        name,
        make,
        guardian,
    })?;
    store.watch(wake.clone());
    Ok(wake)
}
