//! A compaction worker: steps one vbucket's compaction to its end, beside its flusher, as fast as the budget allows.
//!
//! Invariant: a run in hand is settled exactly once, whatever happens: at its end, when it is told to abort (between two
//! steps, never in the middle of a publish), when the store must be opened anew, or by the drop guard. What failed is
//! told to the bus before it is told to whoever asked.

use std::sync::Arc;
use std::time::Duration;

use super::budget::rest;
use super::desk::Compactor;
use super::policy::VbucketFigures;
use super::state::{Assignment, Purge, RunEnd, Taken};
use super::vbucket::{Compactable, Expiring};
use crate::environment::FailureReport;
use crate::executor::{Step, Worker};
use crate::hooks::{FaultPoint, HoldPoint};
use crate::store_handle::StoreLease;
use messages::compactor::CompactError;
use messages::{ChildName, DownCause, FailureCause, FailureKind, Generation, NextStep};
use storage::disk::{DiskError, DiskErrorKind, Verb};
use storage::{
    AbortReason, Advice, Compacted, CompactionFailure, CompactionJob, CompactionProgress,
    CompactionRequest, CompactionStage, Job, Outcome, StorageError, VbucketId,
};

/// One life of a compaction worker.
pub struct CompactionWorker {
    compactor: Compactor,
    name: ChildName,
    generation: Generation,
    /// Taken and not settled: from before there is anything to work with until after that is let go.
    in_hand: Option<Assignment>,
    working: Option<Working>,
    /// Set during a step: if it stays set, the step panicked.
    is_stepping: bool,
    /// Set while the store works for us: if it stays set, a panic left the store half done.
    is_in_store: bool,
}

/// A run in hand.
struct Working {
    assignment: Assignment,
    span: tracing::Span,
    vbucket: Arc<dyn Compactable>,
    // Dropped before the lease: see `StoreLease`.
    job: Option<CompactionJob>,
    lease: StoreLease,
    /// How the vbucket stood before it read anything.
    began: Option<VbucketFigures>,
    /// Bytes read and written so far.
    spent: u64,
    /// From then on (monotonic) the budget lets it go on.
    resume_at: Duration,
    /// A step of the publish was done: what it did cannot be taken back.
    is_publishing: bool,
    /// A fault a test asked for, as the store will tell it.
    injected: Option<(StorageError, FailureCause)>,
}

impl CompactionWorker {
    /// A new life.
    #[must_use]
    pub fn new(compactor: Compactor, name: ChildName, generation: Generation) -> CompactionWorker {
        CompactionWorker {
            compactor,
            name,
            generation,
            in_hand: None,
            working: None,
            is_stepping: false,
            is_in_store: false,
        }
    }

    /// Takes the next run; without one, has the policy look for some.
    fn begin(&mut self) -> Step {
        let now = self.compactor.now();
        // First: neither a store that is away nor a queue that never ends is a reason to keep it.
        let tell_again = self.compactor.tell_prepares();
        let Ok(lease) = self.compactor.config().store.lease() else {
            // Woken when the store is back.
            let rest = tell_again.map(|at| at.saturating_sub(now));
            return rest.map_or(Step::Idle, Step::IdleFor);
        };
        let later = match self.compactor.take() {
            Taken::Run(assignment) => {
                self.in_hand = Some(assignment);
                return self.assign(assignment, lease);
            }
            Taken::Later(at) => Some(at),
            Taken::Nothing => None,
        };
        self.is_in_store = true;
        let is_more = self.compactor.look(lease.store());
        self.is_in_store = false;
        if is_more {
            return Step::Again;
        }
        let next_look = Some(self.compactor.next_look());
        let times = [later, next_look, tell_again];
        match times.into_iter().flatten().min() {
            Some(at) => Step::IdleFor(at.saturating_sub(now)),
            None => Step::Idle,
        }
    }

    fn assign(&mut self, assignment: Assignment, lease: StoreLease) -> Step {
        match self.compactor.config().table.vbucket(assignment.vbucket) {
            Err(error) => self.end(RunEnd::Refused(error)),
            Ok(vbucket) => {
                self.working = Some(Working {
                    assignment,
                    span: tracing::debug_span!(
                        "compaction",
                        vbucket = assignment.vbucket.get(),
                        generation = self.generation.0,
                    ),
                    vbucket,
                    job: None,
                    lease,
                    began: None,
                    spent: 0,
                    resume_at: Duration::ZERO,
                    is_publishing: false,
                    injected: None,
                });
            }
        }
        Step::Again
    }

    /// Does the next step of the run in hand, unless something keeps it from that.
    fn advance(&mut self) -> Step {
        let Some(working) = &mut self.working else {
            return Step::Again;
        };
        if let Some(end) = working.must_end(&self.compactor) {
            self.end(end);
            return Step::Again;
        }
        let stage = working.stage();
        if let Some(rest) = rest(stage, working.resume_at, self.compactor.now()) {
            return Step::IdleFor(rest);
        }
        let hooks = &self.compactor.config().environment.hooks;
        let place = HoldPoint {
            vbucket: working.assignment.vbucket,
            stage: stage.into(),
        };
        if hooks.hold(place, || self.compactor.waker()) {
            return Step::Idle;
        }
        if working.job.is_none() {
            let begun = self.compactor.begun(working.assignment);
            self.is_in_store = true;
            let begun = begun.map(|purge| working.make_job(&self.compactor, purge));
            self.is_in_store = false;
            match begun {
                Some(Ok(())) => {}
                Some(Err(end)) => {
                    self.end(end);
                    return Step::Again;
                }
                // Told to abort a moment ago.
                None => return Step::Again,
            }
        }
        if working.injected.is_none()
            && let Err(cause) = hooks.fault(FaultPoint::Compaction {
                stage: stage.into(),
            })
        {
            working.inject(cause);
        }
        let Some(job) = &mut working.job else {
            return Step::Again;
        };
        self.is_in_store = true;
        let outcome = working.span.in_scope(|| job.step());
        self.is_in_store = false;
        working.is_publishing |= stage == CompactionStage::Publish;
        working.account(&self.compactor);
        self.conclude(outcome);
        Step::Again
    }

    /// What a step came to.
    fn conclude(&mut self, outcome: Outcome<Compacted, CompactionFailure>) {
        match outcome {
            Outcome::Yielded => {}
            Outcome::Complete(compacted) => {
                let began = self.working.as_mut().and_then(|working| {
                    let began = working.began.take()?;
                    Some((working.assignment.vbucket, began))
                });
                // First: a panic in what follows costs nobody his answer.
                self.end(RunEnd::Complete(compacted));
                if let Some((vbucket, began)) = began {
                    self.note_compacted(vbucket, &began);
                }
            }
            Outcome::Aborted(reason) => self.end(RunEnd::Aborted(reason)),
            Outcome::Failed(failure) => self.failed(failure),
        }
    }

    fn failed(&mut self, failure: CompactionFailure) {
        let Some(working) = &mut self.working else {
            return;
        };
        let CompactionFailure {
            stage,
            cause,
            published,
        } = failure;
        if let Some(end) = unserved(&cause) {
            return self.end(end);
        }
        if cause.advice() == Advice::Reopen {
            let store = &self.compactor.config().store;
            store.recall(working.lease.generation(), cause.clone());
        }
        let injected = working.injected.take();
        let cause = match injected.filter(|(told, _)| *told == cause) {
            Some((_, asked)) => asked,
            None => cause.into(),
        };
        let (span, vbucket) = (working.span.clone(), working.assignment.vbucket);
        let retry_at = self.compactor.note_failure(working.assignment);
        let environment = &self.compactor.config().environment;
        let next = match retry_at {
            None => NextStep::Nothing,
            Some(at) => {
                let wait = at.saturating_sub(environment.clock.monotonic());
                let at = environment.clock.since_epoch().saturating_add(wait);
                let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
                NextStep::RetryAt { at_ms }
            }
        };
        span.in_scope(|| {
            environment.failures.report(FailureReport {
                child: self.name.clone(),
                generation: self.generation,
                vbucket: Some(vbucket),
                kind: FailureKind::Compaction {
                    stage: stage.into(),
                },
                cause: cause.clone(),
                next,
            });
        });
        self.end(RunEnd::Failed {
            stage,
            cause,
            published,
        });
    }

    /// The run in hand panicked, which its guardian tells; here is told only when there were too many of those.
    fn crashed(&self) {
        let Some(assignment) = self.in_hand else {
            return;
        };
        if !self.compactor.note_crash(assignment) {
            return;
        }
        let cause = "this vbucket is compacted only when it is asked for, until that is complete";
        let environment = &self.compactor.config().environment;
        environment.failures.report(FailureReport {
            child: self.name.clone(),
            generation: self.generation,
            vbucket: Some(assignment.vbucket),
            kind: FailureKind::Escalated,
            cause: FailureCause::GaveUp(cause.to_owned()),
            next: NextStep::Nothing,
        });
    }

    /// Lets go of the run in hand, then settles it.
    fn end(&mut self, end: RunEnd) {
        let mut core = None;
        if let Some(working) = self.working.take() {
            let Working {
                vbucket,
                job,
                lease,
                ..
            } = working;
            // Nobody who is answered finds the store still in use.
            drop(job);
            drop(lease);
            core = Some(vbucket);
        }
        if let Some(assignment) = self.in_hand {
            self.compactor.settle(assignment, core.as_deref(), end);
            self.in_hand = None;
        }
    }

    /// A run is complete and settled: has the policy remember what it could not change.
    fn note_compacted(&mut self, vbucket: VbucketId, began: &VbucketFigures) {
        // Without the store the policy knows less, and at worst has it compacted once more.
        let Ok(lease) = self.compactor.config().store.lease() else {
            return;
        };
        self.is_in_store = true;
        let store = lease.store();
        self.compactor.note_compacted(vbucket, began, store);
        self.is_in_store = false;
    }
}

impl Working {
    /// Why it ends before its next step, if it does.
    fn must_end(&self, compactor: &Compactor) -> Option<RunEnd> {
        if self.is_publishing {
            return None;
        }
        if let Some(reason) = compactor.must_abort(self.assignment) {
            return Some(RunEnd::Aborted(reason));
        }
        self.lease.is_recalled().then_some(RunEnd::Interrupted)
    }

    fn stage(&self) -> CompactionStage {
        let job = self.job.as_ref();
        job.map_or(CompactionStage::Start, |job| job.progress().stage)
    }

    fn make_job(&mut self, compactor: &Compactor, purge: Purge) -> Result<(), RunEnd> {
        let request = CompactionRequest {
            drop_deletes: purge.drop_deletes,
            purge_before_s: purge.purge_before_s,
            expired_at_s: compactor.now_s(),
            history_floor: compactor.config().history_floor,
            ..CompactionRequest::default()
        };
        let vbucket = self.assignment.vbucket;
        // First: what is dropped or sealed between this and its reading it erases or merges, and looks at once more.
        self.began = compactor.before(vbucket, self.lease.store());
        match self.lease.store().compaction_job(vbucket, request) {
            Ok(job) => {
                self.job = Some(job);
                Ok(())
            }
            // Nothing was begun: the store is not to be had for this now.
            Err(error) => Err(unserved(&error).unwrap_or(RunEnd::Interrupted)),
        }
    }

    /// The next step fails, as if the disk had said so.
    fn inject(&mut self, cause: FailureCause) {
        let told = StorageError::Disk(DiskError {
            verb: Verb::Read,
            file: "none".to_owned(),
            kind: DiskErrorKind::Other(cause.to_string()),
        });
        if let Some(job) = &mut self.job {
            job.fail_next_step(told.clone());
        }
        self.injected = Some((told, cause));
    }

    /// What a step found and cost.
    fn account(&mut self, compactor: &Compactor) {
        let Some(job) = &mut self.job else {
            return;
        };
        let mut deleted = 0u64;
        for document in job.take_expired() {
            match self.vbucket.expire(&document) {
                Expiring::Deleted => deleted = deleted.saturating_add(1),
                // The next compaction finds it again, if it is still there.
                Expiring::Left | Expiring::PutOff => {}
            }
        }
        let progress = job.progress();
        let spent = spent(&progress);
        let bytes = spent.saturating_sub(self.spent);
        self.spent = spent;
        self.resume_at = compactor.note_step(self.assignment, progress, bytes, deleted);
    }
}

fn spent(progress: &CompactionProgress) -> u64 {
    let CompactionProgress {
        bytes_read,
        bytes_written,
        ..
    } = progress;
    bytes_read.saturating_add(*bytes_written)
}

/// How a run ends whose vbucket the store does not serve; `None`: the error is a failure.
fn unserved(error: &StorageError) -> Option<RunEnd> {
    if let StorageError::UnknownVbucket(_) = error {
        // It was there when it was asked for.
        return Some(RunEnd::Aborted(AbortReason::Deleted));
    }
    if let StorageError::VbucketDown { vbucket, cause } = error {
        return Some(RunEnd::Refused(CompactError::VbucketDown {
            vbucket: *vbucket,
            cause: DownCause::Storage(Arc::clone(cause)),
        }));
    }
    None
}

impl Worker for CompactionWorker {
    fn step(&mut self) -> Step {
        self.is_stepping = true;
        let step = if self.working.is_some() {
            self.advance()
        } else {
            self.begin()
        };
        self.is_stepping = false;
        step
    }
}

/// A life that ends, by a panic or in order, with a run in hand: whoever waits for it is told, or waits on. No I/O.
impl Drop for CompactionWorker {
    fn drop(&mut self) {
        if self.is_in_store {
            // The panic may have left the store half done: it is never used on as it is.
            let store = &self.compactor.config().store;
            store.recall(store.generation(), StorageError::Closed);
        }
        if self.is_stepping {
            self.crashed();
        }
        let end = if self.is_stepping {
            RunEnd::Crashed(self.name.clone())
        } else {
            RunEnd::Interrupted
        };
        self.end(end);
    }
}

impl std::fmt::Debug for CompactionWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompactionWorker")
            .field("name", &self.name)
            .field("generation", &self.generation)
            .field("in_hand", &self.in_hand)
            .finish_non_exhaustive()
    }
}
