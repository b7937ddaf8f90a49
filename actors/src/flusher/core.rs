//! The flusher around its state machine: carries effects to writers and waiters, and answers back.
//!
//! Invariant: every look begins by taking back the wake-ups, then reads all shared state there is (store generation,
//! answers, dirty vbuckets), so whatever is put there later wakes again and nothing is missed (rule R18). No actix
//! here: the actor's handlers are calls of these methods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::environment::{Environment, FailureReport};
use crate::flusher::answers::FlusherEdge;
use crate::flusher::batch::FlushLimits;
use crate::flusher::flushable::DirtyQueue;
use crate::flusher::requests::{Told, WaiterId};
use crate::flusher::stage::Stage;
use crate::flusher::state::{Effect, FlushedVbucket, FlusherState, Left};
use crate::store_handle::{StoreGeneration, StoreHandle};
use crate::writer::{BarrierRequest, CommitRequest, Request, WriterLink};
use messages::flusher::FlushReport;
use messages::{ChildName, FailureCause, FailureKind, Generation, NextStep, OperationError};
use storage::{StorageError, VbucketId};

/// What a flusher works with.
#[derive(Clone, Debug)]
pub struct FlusherConfig {
    /// Its name in the tree.
    pub name: ChildName,
    /// Time, randomness, failures.
    pub environment: Environment,
    /// How much is taken at once.
    pub limits: FlushLimits,
    /// Its vbuckets.
    pub vbuckets: Vec<FlushedVbucket>,
    /// The writers, by log shard.
    pub writers: Vec<WriterLink>,
    /// Where the writers' answers come.
    pub edge: Arc<FlusherEdge>,
    /// Where its vbuckets say that they have something.
    pub dirty: Arc<dyn DirtyQueue>,
    /// The store, to see when it was opened anew.
    pub store: StoreHandle,
}

/// Answered when it is so.
pub type WhenDone = oneshot::Receiver<Result<(), OperationError>>;
/// Answered when the flusher has stopped.
pub type WhenStopped = oneshot::Receiver<FlushReport>;

#[derive(Debug)]
enum Reply {
    Done(oneshot::Sender<Result<(), OperationError>>),
    Stopped(oneshot::Sender<FlushReport>),
}

/// One life of a flusher.
#[derive(Debug)]
pub struct Flusher {
    config: FlusherConfig,
    generation: Generation,
    state: FlusherState,
    store_generation: StoreGeneration,
    replies: BTreeMap<WaiterId, Reply>,
    next_waiter: u64,
}

impl Flusher {
    /// A new life; it knows nothing before its first look.
    #[must_use]
    pub fn new(config: FlusherConfig, generation: Generation) -> Flusher {
        let state = FlusherState::new(generation, config.limits, config.vbuckets.clone());
        Flusher {
            store_generation: config.store.generation(),
            config,
            generation,
            state,
            replies: BTreeMap::new(),
            next_waiter: 0,
        }
    }

    /// The stage of its life.
    #[must_use]
    pub fn stage(&self) -> Stage {
        self.state.stage()
    }

    /// Reads all shared state, does a bounded piece of what there is to do, and says what is left.
    #[must_use]
    pub fn look(&mut self) -> Left {
        self.config.edge.begin_look();
        self.config.dirty.clear_wake();
        self.config.dirty.set_flusher_busy(false);
        let generation = self.config.store.generation();
        if generation != self.store_generation {
            self.store_generation = generation;
            self.state.note_store_reopened();
        }
        let answered = self.config.edge.take();
        self.state.note_answers(self.now(), answered);
        // At most one look at each vbucket a slice, however fast they are written.
        for _ in 0..self.config.vbuckets.len() {
            let Some(vbucket) = self.config.dirty.take() else {
                break;
            };
            self.state.note_dirty(vbucket);
        }
        let left = self.state.slice(self.now());
        self.carry_out();
        self.config
            .dirty
            .set_flusher_busy(self.state.under_way() > 0);
        left
    }

    /// Hands nothing more to the writers; answered once nothing is under way.
    pub fn pause(&mut self) -> WhenDone {
        let (waiter, answer) = self.waiter();
        self.state.pause(waiter);
        self.carry_out();
        answer
    }

    /// Goes on.
    pub fn resume(&mut self) -> WhenDone {
        let (waiter, answer) = self.waiter();
        self.state.resume(waiter);
        self.carry_out();
        answer
    }

    /// Answered once everything the vbucket (or each) has now is on disk.
    pub fn flush_now(&mut self, only: Option<VbucketId>) -> WhenDone {
        let (waiter, answer) = self.waiter();
        self.state.flush_now(waiter, only);
        self.carry_out();
        answer
    }

    /// Writes everything there is, for at most so long, then does nothing any more.
    pub fn stop(&mut self, within: Duration) -> WhenStopped {
        let (sender, answer) = oneshot::channel();
        let waiter = self.next_waiter();
        self.replies.insert(waiter, Reply::Stopped(sender));
        let until = self.now().saturating_add(within);
        self.state.stop(waiter, until);
        self.carry_out();
        answer
    }

    /// How long it is until `at`, by the injected clock.
    #[must_use]
    pub fn until(&self, at: Duration) -> Duration {
        at.saturating_sub(self.now())
    }

    fn now(&self) -> Duration {
        self.config.environment.clock.monotonic()
    }

    fn next_waiter(&mut self) -> WaiterId {
        self.next_waiter = self.next_waiter.saturating_add(1);
        WaiterId(self.next_waiter)
    }

    fn waiter(&mut self) -> (WaiterId, WhenDone) {
        let (sender, answer) = oneshot::channel();
        let waiter = self.next_waiter();
        self.replies.insert(waiter, Reply::Done(sender));
        (waiter, answer)
    }

    fn carry_out(&mut self) {
        for effect in self.state.take_effects() {
            match effect {
                Effect::Tell(waiter, told) => self.tell(waiter, told),
                Effect::Report {
                    vbucket,
                    cause,
                    is_down,
                } => self.report(vbucket, cause, is_down),
                Effect::Commit {
                    log_shard,
                    ticket,
                    batch,
                    vbucket,
                } => {
                    let request = Request::Commit(Box::new(CommitRequest {
                        ticket,
                        batch,
                        vbucket,
                        reply: Arc::clone(&self.config.edge),
                    }));
                    self.submit(log_shard, request);
                }
                Effect::Ask {
                    log_shard,
                    ticket,
                    vbuckets,
                } => {
                    let request = Request::Barrier(BarrierRequest {
                        ticket,
                        vbuckets,
                        reply: Arc::clone(&self.config.edge),
                    });
                    self.submit(log_shard, request);
                }
            }
        }
    }

    fn submit(&mut self, log_shard: u16, request: Request) {
        let back = match self.config.writers.get(usize::from(log_shard)) {
            Some(writer) => writer.submit(request).err(),
            None => Some(request),
        };
        let now = self.now();
        match back {
            None => {}
            Some(Request::Commit(request)) => self.state.unsent(now, request.ticket, request.batch),
            Some(Request::Barrier(request)) => self.state.unasked(now, log_shard, request.ticket),
        }
    }

    fn report(&self, vbucket: VbucketId, cause: StorageError, is_down: bool) {
        let environment = &self.config.environment;
        let at_ms = environment.clock.since_epoch().as_millis();
        let next = if is_down {
            NextStep::OutOfService
        } else {
            NextStep::RetryAt {
                at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
            }
        };
        environment.failures.report(FailureReport {
            child: self.config.name.clone(),
            generation: self.generation,
            vbucket: Some(vbucket),
            kind: FailureKind::Flush,
            cause: FailureCause::Storage(cause),
            next,
        });
    }

    fn tell(&mut self, waiter: WaiterId, told: Told) {
        // Whoever went away needs no answer.
        match (self.replies.remove(&waiter), told) {
            (Some(Reply::Done(sender)), Told::Done(result)) => drop(sender.send(result)),
            (Some(Reply::Stopped(sender)), Told::Stopped(report)) => drop(sender.send(report)),
            (Some(Reply::Done(_) | Reply::Stopped(_)) | None, Told::Done(_) | Told::Stopped(_)) => {
            }
        }
    }
}
