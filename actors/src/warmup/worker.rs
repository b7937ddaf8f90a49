//! A worker of a warmup: several run, each with one task in hand, a step at a time.
//!
//! Invariant: a task in hand goes back when the worker ends, in order or by a panic; a vbucket with which workers
//! panicked again and again goes out of service. Whatever is read twice is inserted once (rule R21).

use std::sync::Arc;
use std::time::Duration;

use crate::environment::FailureReport;
use crate::executor::{Step, Worker};
use crate::hooks::FaultPoint;
use crate::store_handle::StoreLease;
use crate::warmup::Warmup;
use crate::warmup::clean_shutdown::CleanMark;
use crate::warmup::plan::{Load, Task, by_shard};
use crate::warmup::prepares::PreparesReading;
use crate::warmup::reading::{Reading, Stepped};
use crate::warmup::states::{Found, StatesJob};
use messages::failure::{ScanPurpose, WarmupPhase};
use messages::{ChildName, DownCause, FailureCause, FailureKind, Generation, NextStep};
use storage::{
    Advice, Batch, CommitDurability, Job, KvStore, LogStore, Outcome, SeqnoRange, StorageError,
    VbucketId, VbucketIdentity,
};

type Results = Vec<Result<(), StorageError>>;

/// Panics with one vbucket in hand, after which it goes out of service.
const PANICS_MAX: u32 = 3;

/// One life of a worker.
pub struct WarmupWorker {
    warmup: Warmup,
    name: ChildName,
    generation: Generation,
    task: Option<InHand>,
    /// Around the load in hand.
    span: tracing::Span,
    /// What goes back to the plan if this life ends with it undone.
    claim: Option<Claim>,
    /// Set while the store works for us: if it stays set, a panic left the store half done.
    is_in_store: bool,
    /// Tries to persist that failed in a row.
    failures: u32,
}

enum Claim {
    States,
    Persist(Vec<Batch>),
    Load(Load),
}

enum InHand {
    States(StatesJob, StoreLease),
    Persist(Persisting),
    // The scans are dropped before the lease.
    Prepares(Load, PreparesReading, StoreLease),
    Load(Load, Reading, StoreLease),
}

/// New state records on their way, one log shard after the other.
struct Persisting {
    // Dropped before the lease: see `StoreLease`.
    job: Option<Box<dyn Job<Output = Results, Failure = StorageError> + Send>>,
    results: Option<Results>,
    group: Arc<[Batch]>,
    waiting: Vec<(u16, Vec<Batch>)>,
    failed: Vec<Batch>,
    cause: Option<StorageError>,
    is_mark_cleared: bool,
    lease: StoreLease,
}

impl WarmupWorker {
    /// A new life of the worker of that name.
    #[must_use]
    pub fn new(warmup: Warmup, name: ChildName, generation: Generation) -> WarmupWorker {
        WarmupWorker {
            warmup,
            name,
            generation,
            task: None,
            span: tracing::Span::none(),
            claim: None,
            is_in_store: false,
            failures: 0,
        }
    }

    fn now(&self) -> Duration {
        self.warmup.config.environment.clock.monotonic()
    }

    fn report(
        &self,
        phase: WarmupPhase,
        vbucket: Option<VbucketId>,
        cause: FailureCause,
        next: NextStep,
    ) {
        let environment = &self.warmup.config.environment;
        environment.failures.report(FailureReport {
            child: self.name.clone(),
            generation: self.generation,
            vbucket,
            kind: FailureKind::Warmup { phase },
            cause,
            next,
        });
    }

    fn begin(&mut self) -> Step {
        let now = self.now();
        let task = self.warmup.plan.lock().next(now);
        match task {
            Task::End => return Step::Ended,
            Task::Wait(None) => return Step::Idle,
            Task::Wait(Some(time)) => return Step::IdleFor(time),
            Task::States => {
                self.claim = Some(Claim::States);
                return self.begin_states();
            }
            Task::Persist(batches) => {
                self.claim = Some(Claim::Persist(batches.clone()));
                self.begin_persist(batches);
            }
            Task::Load(load) => {
                self.claim = Some(Claim::Load(load.clone()));
                return self.begin_load(load);
            }
        }
        Step::Again
    }

    /// Nothing is claimed any more: what became of it was told to the plan.
    fn release(&mut self) {
        self.claim = None;
    }

    /// Gives what is undone back to the plan.
    fn put_back(&mut self, has_panicked: bool) {
        self.task = None;
        match self.claim.take() {
            None => {}
            Some(Claim::States) => self.warmup.plan.lock().states_undone(),
            Some(Claim::Persist(batches)) => {
                let at = self.now();
                self.warmup.plan.lock().persist_undone(batches, at);
            }
            Some(Claim::Load(mut load)) if has_panicked => {
                load.panics = load.panics.saturating_add(1);
                if load.panics < PANICS_MAX {
                    self.warmup.plan.lock().load_undone(load);
                } else {
                    self.fail_for_panics(&load);
                }
            }
            Some(Claim::Load(load)) => self.warmup.plan.lock().load_undone(load),
        }
        if has_panicked {
            self.warmup.wake();
        }
    }

    fn fail_for_panics(&mut self, load: &Load) {
        let what = format!("loading it panicked {} times", load.panics);
        load.core.take_down(DownCause::Escalated(what.clone()));
        let (phase, vbucket) = (WarmupPhase::Documents, Some(load.vbucket));
        let cause = FailureCause::Panic(what);
        self.report(phase, vbucket, cause, NextStep::OutOfService);
        self.warmup.plan.lock().load_failed(load.vbucket);
    }

    // ---- states

    fn begin_states(&mut self) -> Step {
        let config = &self.warmup.config;
        let Ok(lease) = config.store.lease() else {
            self.release();
            self.warmup.plan.lock().states_undone();
            // Woken when the store is back.
            return Step::Idle;
        };
        let known = self.warmup.plan.lock().mark.clone();
        let mark = known.unwrap_or_else(|| CleanMark::read(&*config.disk));
        self.warmup.plan.lock().mark = Some(mark.clone());
        // Before anything may change (MB-45756). Where this fails no write is served before it was done.
        if let Err(cause) = CleanMark::clear(&*config.disk) {
            tracing::warn!(%cause, "the mark of a clean shutdown is not cleared yet");
        }
        let states = StatesJob::new(mark, lease.store());
        self.task = Some(InHand::States(states, lease));
        Step::Again
    }

    fn step_states(&mut self, mut states: StatesJob, lease: StoreLease) {
        if lease.is_recalled() {
            return self.put_back(false);
        }
        self.is_in_store = true;
        let found = states.step(&self.warmup.config, lease.store());
        self.is_in_store = false;
        match found {
            Found::Nothing => {}
            Found::Down(vbucket, cause) => {
                self.warmup.plan.lock().found_down(vbucket);
                let cause = FailureCause::Storage(cause);
                let next = NextStep::OutOfService;
                self.report(WarmupPhase::State, Some(vbucket), cause, next);
            }
            Found::End => {
                let StatesJob {
                    loads, unwritten, ..
                } = states;
                self.release();
                self.warmup.plan.lock().states_done(loads, unwritten);
                return self.warmup.wake();
            }
        }
        self.task = Some(InHand::States(states, lease));
    }

    // ---- persist

    fn begin_persist(&mut self, batches: Vec<Batch>) {
        let Ok(lease) = self.warmup.config.store.lease() else {
            let at = self.now().saturating_add(self.warmup.config.backoff.first);
            self.release();
            return self.warmup.plan.lock().persist_undone(batches, at);
        };
        let waiting = by_shard(batches, |vbucket| lease.store().shard_of(vbucket));
        self.task = Some(InHand::Persist(Persisting {
            job: None,
            results: None,
            group: Vec::new().into(),
            waiting: waiting.into_iter().collect(),
            failed: Vec::new(),
            cause: None,
            is_mark_cleared: false,
            lease,
        }));
    }

    fn step_persist(&mut self, mut persisting: Persisting) {
        if !persisting.is_mark_cleared {
            persisting.is_mark_cleared = true;
            if let Err(cause) = CleanMark::clear(&*self.warmup.config.disk) {
                persisting.cause = Some(cause);
                let waiting = std::mem::take(&mut persisting.waiting);
                persisting
                    .failed
                    .extend(waiting.into_iter().flat_map(|(_, batches)| batches));
            }
        } else if let Some(results) = persisting.results.take() {
            self.settle(&mut persisting, results);
        } else if let Some((shard, mut batches)) = persisting.waiting.pop() {
            let store = persisting.lease.store();
            // A flusher that wrote a newer state meanwhile wrote the branch with it.
            batches.retain(|batch| !has_branch(store, batch));
            let group: Arc<[Batch]> = batches.into();
            let durability = CommitDurability::Synced;
            match store.shared_commit_job(shard, Arc::clone(&group), durability) {
                Ok(job) => persisting.job = Some(Box::new(job)),
                Err(cause) => {
                    persisting.cause = Some(cause);
                    persisting.failed.extend(group.iter().cloned());
                }
            }
            persisting.group = group;
        } else {
            return self.end_persist(persisting);
        }
        self.task = Some(InHand::Persist(persisting));
    }

    fn settle(&mut self, persisting: &mut Persisting, results: Results) {
        for (result, batch) in results.into_iter().zip(persisting.group.iter()) {
            let Err(cause) = result else { continue };
            if has_branch(persisting.lease.store(), batch) {
                // A flusher was faster: the branch came with what it wrote.
                continue;
            }
            if let StorageError::Refused { .. } | StorageError::VbucketDown { .. } = cause {
                // It is not what it was when its state was read.
                self.give_up(batch.vbucket, WarmupPhase::Persist, cause);
            } else {
                persisting.failed.push(batch.clone());
                persisting.cause = Some(cause);
            }
        }
    }

    fn end_persist(&mut self, persisting: Persisting) {
        let Persisting {
            failed,
            cause,
            lease,
            ..
        } = persisting;
        self.release();
        let Some(cause) = cause else {
            self.failures = 0;
            self.warmup.plan.lock().persisted();
            return self.warmup.wake();
        };
        if cause.advice() == Advice::Reopen {
            let store = &self.warmup.config.store;
            store.recall(lease.generation(), cause.clone());
        }
        self.failures = self.failures.saturating_add(1);
        let environment = &self.warmup.config.environment;
        let random = environment.random.next_u64();
        let wait = self.warmup.config.backoff.wait(self.failures, random);
        let at = environment.clock.since_epoch().saturating_add(wait);
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let next = NextStep::RetryAt { at_ms };
        let until = self.now().saturating_add(wait);
        self.report(WarmupPhase::Persist, None, cause.into(), next);
        self.warmup.plan.lock().unpersisted(failed, until);
        self.warmup.wake();
    }

    // ---- prepares and documents

    fn begin_load(&mut self, load: Load) -> Step {
        self.span = tracing::debug_span!(
            "warmup_load",
            vbucket = load.vbucket.get(),
            generation = self.generation.0,
        );
        let config = &self.warmup.config;
        let opened = config.store.lease().and_then(|lease| {
            let snapshot = lease.store().snapshot(load.vbucket)?;
            Ok((PreparesReading::of(&*snapshot), lease))
        });
        match opened {
            Ok((Some(reading), lease)) => {
                self.task = Some(InHand::Prepares(load, reading, lease));
                Step::Again
            }
            Ok((None, lease)) => {
                load.core.warm_prepares(Vec::new());
                self.begin_documents(load, lease)
            }
            Err(cause) => self.not_opened(&load, cause, WarmupPhase::Prepares),
        }
    }

    fn begin_documents(&mut self, load: Load, lease: StoreLease) -> Step {
        let snapshot = lease.store().snapshot(load.vbucket);
        match snapshot.map(|snapshot| snapshot.scan_by_seqno(SeqnoRange::ALL)) {
            Ok(scan) => {
                let reading = Reading::new(scan, load.position.high_seqno);
                self.task = Some(InHand::Load(load, reading, lease));
                Step::Again
            }
            Err(cause) => self.not_opened(&load, cause, WarmupPhase::Documents),
        }
    }

    fn not_opened(&mut self, load: &Load, cause: StorageError, phase: WarmupPhase) -> Step {
        if self.warmup.config.store.wants_reopening() {
            self.put_back(false);
            // Woken when the store is back.
            return Step::Idle;
        }
        let around = self.span.clone();
        around.in_scope(|| self.load_failed(load, cause.into(), phase));
        Step::Again
    }

    fn step_prepares(
        &mut self,
        load: Load,
        mut reading: PreparesReading,
        lease: StoreLease,
    ) -> Step {
        if lease.is_recalled() {
            self.put_back(false);
            return Step::Again;
        }
        let phase = WarmupPhase::Prepares;
        if let Err(cause) = self.strike() {
            self.load_failed(&load, cause, phase);
            return Step::Again;
        }
        match reading.step(self.warmup.config.step_bytes) {
            Outcome::Yielded => self.task = Some(InHand::Prepares(load, reading, lease)),
            Outcome::Complete(prepares) => {
                drop(reading);
                load.core.warm_prepares(prepares);
                return self.begin_documents(load, lease);
            }
            Outcome::Failed(cause) => self.load_failed(&load, cause.into(), phase),
            Outcome::Aborted(_) => self.put_back(false),
        }
        Step::Again
    }

    /// A test's fault strikes where the store's own would.
    fn strike(&self) -> Result<(), FailureCause> {
        let purpose = ScanPurpose::Warmup;
        let hooks = &self.warmup.config.environment.hooks;
        hooks.fault(FaultPoint::Scan { purpose })
    }

    fn step_load(&mut self, load: Load, mut reading: Reading, lease: StoreLease) {
        if lease.is_recalled() {
            return self.put_back(false);
        }
        let outcome = match self.read(&mut reading, &load) {
            Ok(outcome) => outcome,
            Err(cause) => return self.load_failed(&load, cause, WarmupPhase::Documents),
        };
        match outcome {
            Outcome::Yielded => self.task = Some(InHand::Load(load, reading, lease)),
            Outcome::Complete(()) => {
                self.release();
                self.warmup.plan.lock().loaded(&load);
                self.warmup.wake();
            }
            Outcome::Failed(cause) => {
                self.load_failed(&load, cause.into(), WarmupPhase::Documents);
            }
            Outcome::Aborted(_) => self.put_back(false),
        }
    }

    fn read(&self, reading: &mut Reading, load: &Load) -> Result<Outcome<()>, FailureCause> {
        self.strike()?;
        let Stepped {
            items,
            bytes,
            outcome,
        } = reading.step(&*load.core, self.warmup.config.step_bytes);
        self.warmup.plan.lock().note_read(items, bytes);
        Ok(outcome)
    }

    fn load_failed(&mut self, load: &Load, cause: FailureCause, phase: WarmupPhase) {
        let down = if let FailureCause::Storage(cause) = &cause {
            DownCause::Storage(Arc::new(cause.clone()))
        } else {
            DownCause::Escalated(cause.to_string())
        };
        load.core.take_down(down);
        self.release();
        let (next, vbucket) = (NextStep::OutOfService, Some(load.vbucket));
        self.report(phase, vbucket, cause, next);
        self.warmup.plan.lock().load_failed(load.vbucket);
        self.warmup.wake();
    }

    fn give_up(&mut self, vbucket: VbucketId, phase: WarmupPhase, cause: StorageError) {
        let down = DownCause::Storage(Arc::new(cause.clone()));
        self.warmup.config.table.note_down(vbucket, down);
        self.warmup.plan.lock().note_down(vbucket);
        self.report(phase, Some(vbucket), cause.into(), NextStep::OutOfService);
    }
}

/// Whether the store has the branch already that the batch brings.
fn has_branch(store: &LogStore, batch: &Batch) -> bool {
    let newest = |identity: &VbucketIdentity| identity.failover_table.entries().first().copied();
    let brought = batch.identity.as_deref().and_then(newest);
    let stored = store.state(batch.vbucket);
    stored.is_ok_and(|stored| {
        let entries = stored.identity.failover_table.entries();
        brought.is_some_and(|branch| entries.contains(&branch))
    })
}

impl Worker for WarmupWorker {
    fn step(&mut self) -> Step {
        if self.warmup.plan.lock().is_stopped() {
            self.put_back(false);
            return Step::Ended;
        }
        // A job of the store stays in its place while it works, so that a panic finds it held.
        if let Some(InHand::Persist(persisting)) = &mut self.task
            && let Some(job) = &mut persisting.job
        {
            self.is_in_store = true;
            let outcome = job.step();
            self.is_in_store = false;
            let all = |cause: StorageError| vec![Err(cause); persisting.group.len()];
            persisting.results = match outcome {
                Outcome::Yielded => return Step::Again,
                Outcome::Complete(results) => Some(results),
                Outcome::Failed(cause) => Some(all(cause)),
                Outcome::Aborted(_) => Some(all(StorageError::Closed)),
            };
            persisting.job = None;
            return Step::Again;
        }
        match self.task.take() {
            None => return self.begin(),
            Some(InHand::States(states, lease)) => self.step_states(states, lease),
            Some(InHand::Persist(persisting)) => self.step_persist(persisting),
            Some(InHand::Prepares(load, scan, lease)) => {
                let around = self.span.clone();
                return around.in_scope(|| self.step_prepares(load, scan, lease));
            }
            Some(InHand::Load(load, scan, lease)) => {
                let around = self.span.clone();
                around.in_scope(|| self.step_load(load, scan, lease));
            }
        }
        Step::Again
    }
}

impl Drop for WarmupWorker {
    fn drop(&mut self) {
        if self.is_in_store {
            // The panic may have left the store half done: it is never used on as it is.
            let store = &self.warmup.config.store;
            store.recall(store.generation(), StorageError::Closed);
        }
        self.put_back(true);
    }
}

impl std::fmt::Debug for WarmupWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WarmupWorker")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}
