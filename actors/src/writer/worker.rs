//! The worker: one group at a time through written, synced, applied; then everybody is answered.
//!
//! Invariant: whoever is in hand is answered before he is let go, so the drop guard finds exactly those who were
//! not. A commit that failed is told once on the failure bus, whatever the number of batches; until its retry time
//! the disk is left alone and batches are handed back at once, so that nobody waits here for a disk to heal.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::environment::FailureReport;
use crate::executor::{Step, Worker};
use crate::flusher::answers::{Committed, FlusherEdge, Placed, Ticket};
use crate::flusher::flushable::Flushable;
use crate::hooks::FaultPoint;
use crate::store_handle::{Reopening, StoreLease};
use crate::writer::group::{Intake, Next, bytes_of};
use crate::writer::{BarrierRequest, CommitRequest, Request, WriterConfig, WriterQueue};
use messages::{FailureCause, FailureKind, Generation, NextStep};
use storage::{
    Advice, Batch, CommitDurability, Job, KvStore, LogStore, Outcome, StorageError, VbucketId,
    VbucketPosition,
};

type Results = Vec<Result<(), StorageError>>;

/// Bytes committed after which maintenance looks whether there is work. Its thresholds are megabytes; a look at each
/// commit would cost a switch of threads and the right to write.
const MAINTENANCE_BYTES: u64 = 128 << 10;

/// One life of a writer.
pub struct WriterWorker {
    config: WriterConfig,
    generation: Generation,
    intake: Intake,
    /// Whose batches are in the group, in its order.
    in_hand: VecDeque<InHand>,
    committing: Option<Committing>,
    placing: Option<BarrierRequest>,
    /// Set while the store works for us: if it stays set, a panic left the store half done.
    is_in_store: bool,
    /// Bytes committed since maintenance was woken.
    unmaintained: u64,
    /// Commits, or openings, that failed in a row.
    failures: u32,
    /// Why the disk is left alone, and until when (monotonic).
    put_off: Option<(FailureCause, Duration)>,
}

struct InHand {
    ticket: Ticket,
    vbucket: Arc<dyn Flushable>,
    reply: Arc<FlusherEdge>,
    id: VbucketId,
}

struct Committing {
    span: tracing::Span,
    // Dropped before the lease: see `StoreLease`.
    job: Box<dyn Job<Output = Results, Failure = StorageError> + Send>,
    group: Arc<[Batch]>,
    lease: StoreLease,
}

/// What an error of a commit means.
enum Meaning {
    Refused(storage::Refusal),
    Unserved,
    /// The whole group failed.
    Disk,
}

fn meaning(error: &StorageError) -> Meaning {
    if let StorageError::Refused { refusal, .. } = error {
        return Meaning::Refused(*refusal);
    }
    let is_unserved = error.advice() == Advice::Repair
        || matches!(
            error,
            StorageError::UnknownVbucket(_) | StorageError::VbucketDown { .. }
        );
    if is_unserved {
        Meaning::Unserved
    } else {
        Meaning::Disk
    }
}

impl WriterWorker {
    /// A new life of the writer that reads `queue`.
    #[must_use]
    pub fn new(config: WriterConfig, queue: &WriterQueue, generation: Generation) -> WriterWorker {
        WriterWorker {
            config,
            generation,
            intake: Intake::new(queue.receiver.clone()),
            in_hand: VecDeque::new(),
            committing: None,
            placing: None,
            is_in_store: false,
            // The first commit wakes it: something may be left from an earlier life.
            unmaintained: MAINTENANCE_BYTES,
            failures: 0,
            put_off: None,
        }
    }

    fn now(&self) -> Duration {
        self.config.environment.clock.monotonic()
    }

    /// Why the disk is left alone now, and until when.
    fn put_off(&mut self) -> Option<(FailureCause, Duration)> {
        let now = self.now();
        self.put_off.take_if(|(_, until)| *until <= now);
        self.put_off.clone()
    }

    /// Something failed that is tried again later: says so once, and when that is.
    fn fail(&mut self, cause: FailureCause, vbucket: Option<VbucketId>) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let environment = &self.config.environment;
        let random = environment.random.next_u64();
        let wait = self.config.backoff.wait(self.failures, random);
        let at = environment.clock.since_epoch().saturating_add(wait);
        let at_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        environment.failures.report(FailureReport {
            child: self.config.name.clone(),
            generation: self.generation,
            vbucket,
            kind: FailureKind::Flush,
            cause: cause.clone(),
            next: NextStep::RetryAt { at_ms },
        });
        let until = self.now().saturating_add(wait);
        self.put_off = Some((cause, until));
        until
    }

    /// Opens the store anew. `None` when it is open and work may go on.
    fn reopen(&mut self) -> Option<Step> {
        if let Some((_, until)) = self.put_off() {
            return Some(self.hand_back(until));
        }
        match self.config.store.reopen() {
            Reopening::Open | Reopening::Closed => None,
            Reopening::Reopened(generation) => {
                tracing::info!(writer = %self.config.name, generation = generation.0, "store reopened");
                self.failures = 0;
                Some(Step::Again)
            }
            Reopening::Waiting => Some(Step::Idle),
            Reopening::Failed(cause) => {
                let until = self.fail(cause.into(), None);
                Some(self.hand_back(until))
            }
        }
    }

    /// A failed commit may leave work, too: only a manifest settles a failed sync. Where memory is short every commit
    /// does, for whatever it replaces is free only once it is sealed.
    fn wake_maintenance(&mut self, group: &[Batch], has_failed: bool) {
        let bytes = group.iter().map(bytes_of).fold(0, u64::saturating_add);
        self.unmaintained = self.unmaintained.saturating_add(bytes);
        let is_due =
            has_failed || self.unmaintained >= MAINTENANCE_BYTES || self.config.memory.is_short();
        if is_due && let Some(maintenance) = &self.config.maintenance {
            self.unmaintained = 0;
            maintenance.wake();
        }
    }

    /// Without a store: gives everything back that is there.
    fn hand_back(&mut self, until: Duration) -> Step {
        match self.intake.next(self.config.limits) {
            Next::Nothing => Step::IdleFor(until.saturating_sub(self.now())),
            next @ (Next::Group(_) | Next::Barrier(_)) => self.serve(next),
        }
    }

    fn serve(&mut self, next: Next) -> Step {
        match next {
            Next::Nothing => Step::Idle,
            Next::Barrier(barrier) => {
                self.placing = Some(barrier);
                self.place();
                Step::Again
            }
            Next::Group(requests) => {
                self.begin(requests);
                Step::Again
            }
        }
    }

    fn place(&mut self) {
        let later = self.put_off().map(|(_, until)| until);
        let later = later.unwrap_or_else(|| self.now().saturating_add(self.config.backoff.first));
        let Some(barrier) = &self.placing else { return };
        let placed = match self.config.store.lease() {
            Ok(lease) => {
                let at = |id: &VbucketId| (*id, position(lease.store(), *id));
                Placed::At(barrier.vbuckets.iter().map(at).collect())
            }
            Err(_) => Placed::Later(later),
        };
        self.answer_barrier(placed);
    }

    fn answer_barrier(&mut self, placed: Placed) {
        if let Some(BarrierRequest { ticket, reply, .. }) = self.placing.take() {
            reply.answer_barrier(self.config.log_shard, ticket, placed);
            reply.nudge();
        }
    }

    fn begin(&mut self, requests: Vec<CommitRequest>) {
        let mut group = Vec::with_capacity(requests.len());
        for request in requests {
            self.in_hand.push_back(InHand {
                ticket: request.ticket,
                vbucket: request.vbucket,
                reply: request.reply,
                id: request.batch.vbucket,
            });
            group.push(request.batch);
        }
        if let Some((cause, until)) = self.put_off() {
            return self.give_back(group, &cause, until);
        }
        let hooks = &self.config.environment.hooks;
        if let Err(cause) = hooks.fault(FaultPoint::FlushCommit) {
            let retry_at = self.fail(cause.clone(), only_vbucket(&group));
            return self.give_back(group, &cause, retry_at);
        }
        let lease = match self.config.store.lease() {
            Ok(lease) => lease,
            // Recalled a moment ago: the next step opens it anew.
            Err(cause) => {
                let until = self.now().saturating_add(self.config.backoff.first);
                return self.give_back(group, &cause.into(), until);
            }
        };
        let group: Arc<[Batch]> = group.into();
        let (shard, durability) = (self.config.log_shard, CommitDurability::Synced);
        let job = lease
            .store()
            .shared_commit_job(shard, Arc::clone(&group), durability);
        match job {
            Ok(job) => {
                self.committing = Some(Committing {
                    span: tracing::debug_span!(
                        "flush_commit",
                        log_shard = shard,
                        generation = self.generation.0,
                        batches = group.len(),
                        vbucket = only_vbucket(&group).map(VbucketId::get),
                    ),
                    job: Box::new(job),
                    group,
                    lease,
                });
            }
            Err(cause) => self.answer_all(&Committed::Unserved { cause }),
        }
    }

    fn give_back(&mut self, group: Vec<Batch>, cause: &FailureCause, retry_at: Duration) {
        for batch in group {
            self.answer(Committed::Failed {
                batch: Box::new(batch),
                cause: cause.clone(),
                retry_at,
            });
        }
    }

    fn answer_all(&mut self, committed: &Committed) {
        while !self.in_hand.is_empty() {
            self.answer(committed.clone());
        }
    }

    /// Answers the first in hand, and lets him go.
    fn answer(&mut self, committed: Committed) {
        if let Some(InHand {
            ticket, reply, id, ..
        }) = self.in_hand.front()
        {
            reply.answer_batch(*id, *ticket, committed);
            reply.nudge();
        }
        self.in_hand.pop_front();
    }

    /// Does the next step of the commit in hand; what it came to, when it ended.
    fn advance(&mut self) -> Option<Results> {
        // Stays in its place, so that a panic finds it held.
        let committing = self.committing.as_mut()?;
        self.is_in_store = true;
        let outcome = committing.span.in_scope(|| committing.job.step());
        self.is_in_store = false;
        let all = |error: StorageError| vec![Err(error); committing.group.len()];
        match outcome {
            Outcome::Yielded => None,
            Outcome::Complete(results) => Some(results),
            Outcome::Failed(error) => Some(all(error)),
            Outcome::Aborted(_) => Some(all(StorageError::Closed)),
        }
    }

    /// Tells everybody what became of his batch.
    fn settle(&mut self, results: Results, group: &Arc<[Batch]>, lease: &StoreLease) {
        let is_failure = |error: &&StorageError| matches!(meaning(error), Meaning::Disk);
        let mut errors = results.iter().filter_map(|result| result.as_ref().err());
        let failed = errors.find(is_failure).cloned();
        let retry_at = match &failed {
            Some(cause) => {
                if cause.advice() == Advice::Reopen {
                    self.config.store.recall(lease.generation(), cause.clone());
                }
                self.fail(cause.clone().into(), only_vbucket(group))
            }
            None => Duration::ZERO,
        };
        if failed.is_none() && results.iter().any(Result::is_ok) {
            self.failures = 0;
            self.put_off = None;
        }
        for (result, batch) in results.into_iter().zip(group.iter()) {
            let committed = match result {
                Ok(()) => {
                    let seqno = batch.watermarks.high_seqno;
                    if let Some(one) = self.in_hand.front() {
                        one.vbucket.note_persisted(seqno);
                    }
                    Committed::Persisted { seqno }
                }
                Err(cause) => match meaning(&cause) {
                    Meaning::Refused(refusal) => Committed::Refused {
                        refusal,
                        position: position(lease.store(), batch.vbucket),
                    },
                    Meaning::Unserved => Committed::Unserved { cause },
                    Meaning::Disk => Committed::Failed {
                        batch: Box::new(batch.clone()),
                        cause: cause.into(),
                        retry_at,
                    },
                },
            };
            self.answer(committed);
        }
        // A store that gave fewer answers than it got batches.
        self.answer_all(&Committed::Lost);
    }
}

/// The vbucket of a group of one.
fn only_vbucket(group: &[Batch]) -> Option<VbucketId> {
    match group {
        [batch] => Some(batch.vbucket),
        _ => None,
    }
}

/// Where a vbucket stands.
fn position(store: &LogStore, vbucket: VbucketId) -> Result<VbucketPosition, StorageError> {
    let snapshot = store.snapshot(vbucket)?;
    Ok(VbucketPosition {
        incarnation: snapshot.incarnation(),
        epoch: snapshot.epoch(),
        high_seqno: snapshot.high_seqno(),
    })
}

impl Worker for WriterWorker {
    fn step(&mut self) -> Step {
        if self.committing.is_none() {
            if self.config.store.wants_reopening()
                && let Some(step) = self.reopen()
            {
                return step;
            }
            let next = self.intake.next(self.config.limits);
            return self.serve(next);
        }
        let Some(results) = self.advance() else {
            return Step::Again;
        };
        if let Some(Committing {
            span,
            job,
            group,
            lease,
        }) = self.committing.take()
        {
            drop(job);
            let has_failed = results.iter().any(Result::is_err);
            span.in_scope(|| self.settle(results, &group, &lease));
            drop(lease);
            self.wake_maintenance(&group, has_failed);
        }
        Step::Again
    }
}

/// A life that ends, by a panic or in order: whoever was not answered gets to know that nobody knows. No I/O.
impl Drop for WriterWorker {
    fn drop(&mut self) {
        if self.is_in_store {
            // The panic may have left the store half done: it is never used on as it is.
            let generation = self.config.store.generation();
            self.config.store.recall(generation, StorageError::Closed);
        }
        self.committing = None;
        self.answer_all(&Committed::Lost);
        self.answer_barrier(Placed::Lost);
        for request in std::mem::take(&mut self.intake.held) {
            match request {
                Request::Commit(request) => {
                    let CommitRequest { ticket, reply, .. } = *request;
                    reply.answer_batch(request.batch.vbucket, ticket, Committed::Lost);
                    reply.nudge();
                }
                Request::Barrier(BarrierRequest { ticket, reply, .. }) => {
                    reply.answer_barrier(self.config.log_shard, ticket, Placed::Lost);
                    reply.nudge();
                }
            }
        }
    }
}

impl std::fmt::Debug for WriterWorker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriterWorker")
            .field("name", &self.config.name)
            .field("generation", &self.generation)
            .field("in_hand", &self.in_hand.len())
            .finish_non_exhaustive()
    }
}
