//! The worker that rolls back: one claim in hand, a step at a time.
//!
//! Invariant: a claim in hand goes back when the worker ends, in order or by a panic; one that made it panic again and
//! again ends with its vbucket out of service. A failure of the disk is told once for each try.

use std::sync::Arc;
use std::time::Duration;

use super::job::{Claim, Held, Stepped};
use super::{Next, Shared};
use crate::environment::FailureReport;
use crate::executor::{Step, Worker};
use messages::failure::ScanPurpose;
use messages::replication::RollbackEnd;
use messages::{DownCause, FailureCause, FailureKind, Generation, NextStep};
use storage::{Advice, StorageError};

/// When a claim that waits for others is looked at again.
const LATER: Duration = Duration::from_millis(50);
/// Panics with one vbucket in hand, after which it goes out of service.
const PANICS_MAX: u32 = 3;

/// One life of the worker.
pub(super) struct RollbackWorker {
    shared: Arc<Shared>,
    generation: Generation,
    // Dropped before the claim goes back.
    held: Held,
    claim: Option<Claim>,
    /// Set while the store works for us: if it stays set, a panic left the store half done.
    is_in_store: bool,
}

impl RollbackWorker {
    pub(super) fn new(shared: Arc<Shared>, generation: Generation) -> RollbackWorker {
        RollbackWorker {
            shared,
            generation,
            held: Held::Nothing,
            claim: None,
            is_in_store: false,
        }
    }

    /// The claim goes back and is gone on with after this time.
    fn put_back(&mut self, after: Duration) {
        self.held = Held::Nothing;
        if let Some(claim) = self.claim.take() {
            let at = self.shared.now().saturating_add(after);
            self.shared.put_back(claim, at);
        }
    }

    fn end(&mut self, end: RollbackEnd) {
        self.held = Held::Nothing;
        if let Some(claim) = self.claim.take() {
            claim.end(end);
        }
    }

    fn refused(&mut self, cause: StorageError) {
        let store = &self.shared.config.store;
        if cause.advice() == Advice::Reopen {
            store.recall(store.generation(), cause.clone());
        }
        // The lease must be back before the store can be opened anew.
        self.held = Held::Nothing;
        let Some(claim) = &mut self.claim else { return };
        if cause.advice() == Advice::Repair {
            let down = DownCause::Storage(Arc::new(cause.clone()));
            claim.core.take_down(down);
            return self.fail(FailureKind::Rollback, cause.into());
        }
        claim.failures = claim.failures.saturating_add(1);
        let (failures, environment) = (claim.failures, &self.shared.config.environment);
        let random = environment.random.next_u64();
        let wait = self.shared.config.backoff.wait(failures, random);
        let at = environment.clock.since_epoch().saturating_add(wait);
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let next = NextStep::RetryAt { at_ms };
        self.report(FailureKind::Rollback, cause.into(), next);
        self.put_back(wait);
    }

    fn report(&self, kind: FailureKind, cause: FailureCause, next: NextStep) {
        let config = &self.shared.config;
        config.environment.failures.report(FailureReport {
            child: config.name.clone(),
            generation: self.generation,
            vbucket: self.claim.as_ref().map(|claim| claim.core.id()),
            kind,
            cause,
            next,
        });
    }

    fn fail(&mut self, kind: FailureKind, cause: FailureCause) {
        self.report(kind, cause.clone(), NextStep::OutOfService);
        self.end(RollbackEnd::Failed(cause));
    }

    fn panicked(&mut self) {
        let Some(claim) = &mut self.claim else { return };
        claim.panics = claim.panics.saturating_add(1);
        if claim.panics < PANICS_MAX {
            return self.put_back(Duration::ZERO);
        }
        let what = format!("rolling it back panicked {} times", claim.panics);
        claim.core.take_down(DownCause::Escalated(what.clone()));
        self.fail(FailureKind::Rollback, FailureCause::Panic(what));
    }
}

impl Worker for RollbackWorker {
    fn step(&mut self) -> Step {
        let Some(claim) = &mut self.claim else {
            match self.shared.next() {
                Next::Claim(claim) => self.claim = Some(claim),
                Next::WaitUntil(at) => return Step::IdleFor(at.saturating_sub(self.shared.now())),
                Next::Wait => return Step::Idle,
                Next::End => return Step::Ended,
            }
            return Step::Again;
        };
        if self.shared.is_stopped() {
            self.end(RollbackEnd::Aborted);
            return Step::Ended;
        }
        self.is_in_store = true;
        let stepped = self.held.step(claim, &self.shared.config);
        self.is_in_store = false;
        match stepped {
            Stepped::Again => {}
            Stepped::Later => self.put_back(LATER),
            Stepped::Refused(cause) => self.refused(cause),
            Stepped::GivenUp => {
                self.held = Held::Nothing;
                if let Some(claim) = self.claim.take() {
                    claim.give_up();
                }
            }
            Stepped::Complete(to) => self.end(RollbackEnd::Complete(to)),
            Stepped::Failed(cause) => {
                let purpose = ScanPurpose::Rollback;
                self.fail(FailureKind::Scan { purpose }, cause);
            }
        }
        Step::Again
    }
}

impl Drop for RollbackWorker {
    fn drop(&mut self) {
        self.held = Held::Nothing;
        if self.is_in_store {
            // The panic may have left the store half done: it is never used on as it is.
            let store = &self.shared.config.store;
            store.recall(store.generation(), StorageError::Closed);
        }
        self.panicked();
    }
}

impl std::fmt::Debug for RollbackWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RollbackWorker")
            .field("generation", &self.generation)
            .field("claim", &self.claim)
            .finish_non_exhaustive()
    }
}
