//! A compaction worker: steps one vbucket's compaction to its end, beside its flusher, as fast as the budget allows.
//!
//! Invariant: a run in hand is settled exactly once, whatever happens: at its end, when it is told to abort (between two
//! steps, never in the middle of a publish), when the store must be opened anew, or by the drop guard. What failed is
//! told to the bus before it is told to whoever asked.

mod working;

use std::time::Duration;

use self::working::{Working, published, unserved};
use super::budget::rest;
use super::desk::Compactor;
use super::policy::VbucketFigures;
use super::state::{Assignment, RunEnd, Taken};
use crate::environment::FailureReport;
use crate::executor::{Step, Worker};
use crate::hooks::{FaultPoint, HoldPoint};
use crate::store_handle::StoreLease;
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep};
use storage::{
    Advice, Compacted, CompactionFailure, CompactionStage, Job, Outcome, StorageError, VbucketId,
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
        let mut tell_again = self.compactor.tell_prepares();
        let Ok(lease) = self.compactor.config().store.lease() else {
            // Woken when the store is back.
            let rest = tell_again.map(|at| at.saturating_sub(now));
            return rest.map_or(Step::Idle, Step::IdleFor);
        };
        self.is_in_store = true;
        let is_settled = self
            .compactor
            .settle_doubts(lease.store(), lease.generation());
        let unsure = self.compactor.next_unsure(lease.store());
        self.is_in_store = false;
        if is_settled {
            tell_again = self.compactor.tell_prepares();
        }
        if let Some((vbucket, purged)) = unsure {
            vbucket.purged(purged);
            return Step::Again;
        }
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
                    of: None,
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
        let is_first = working.job.is_none();
        if is_first {
            let begun = self.compactor.begun(working.assignment);
            self.is_in_store = true;
            let begun = begun.map(|work| working.make_job(&self.compactor, work));
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
        if let Some(of) = working.of {
            // First: a step that fails, or panics, may have published all the same.
            let generation = working.lease.generation();
            let at_stake = job.prepares_at_stake();
            self.compactor
                .note_at_stake(of, generation, at_stake, &working.vbucket);
        }
        self.is_in_store = true;
        let outcome = working.span.in_scope(|| job.step());
        self.is_in_store = false;
        if is_first && !working.is_of_its_past() {
            self.end(RunEnd::Interrupted);
            return Step::Again;
        }
        // First: nobody looks for it again, so a panic from here on must not lose it.
        if let Some((published, of)) = published(&outcome).zip(working.of) {
            let prepares = &published.prepares_erased;
            self.compactor.note_erased(of, prepares, &working.vbucket);
            working.vbucket.purged(published.purge_seqno);
        }
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
                // What came meanwhile, or is still too much, was passed over as long as this run was under way.
                self.compactor.look_soon();
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
        if self.working.as_ref().is_some_and(|run| run.job.is_some()) {
            self.compactor.note_unsure(assignment.vbucket);
        }
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
        // Nobody who is answered finds the store still in use.
        drop(self.working.take());
        if let Some(assignment) = self.in_hand {
            self.compactor.settle(assignment, end);
            self.in_hand = None;
        }
    }

    /// A rewrite is complete and settled: has the policy remember what it could not change.
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

    fn gives_way(&self) -> bool {
        true
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
