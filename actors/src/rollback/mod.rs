//! Rollbacks: a replica vbucket goes back to where its history parts from its source's, on disk and then in memory.
//!
//! Whoever wants one asks [`Rollbacks`] and holds a [`RollbackTicket`]; one worker takes turns at them. Invariant: a
//! rollback of which the store was told is brought to its end, over failures of the disk and panics of the worker: memory and
//! store must not stay of two pasts. Only then does its ticket say [`RollbackEnd::Complete`]; a vbucket that cannot be loaded
//! behind it is out of service.

mod job;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::backoff::Backoff;
use crate::environment::Environment;
use crate::executor::{StartError, WakeWorker, Worker, WorkerSpec};
use crate::guardian::Guardian;
use crate::store_handle::StoreHandle;
use crate::vbucket::VbucketCore;
use messages::replication::RollbackEnd;
use messages::{ChildName, DownCause, Generation, OperationError};
use storage::Seqno;

use self::job::Claim;
use self::worker::RollbackWorker;

/// What the worker works with.
#[derive(Clone, Debug)]
pub struct RollbackConfig {
    /// Its name in the tree.
    pub name: ChildName,
    /// The store.
    pub store: StoreHandle,
    /// Time, randomness, failures.
    pub environment: Environment,
    /// How long to wait after the disk refused.
    pub backoff: Backoff,
    /// Bytes read in one step.
    pub step_bytes: usize,
}

/// The rollbacks of a bucket. A clone is the same.
#[derive(Clone, Debug)]
pub struct Rollbacks {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    config: RollbackConfig,
    queue: Mutex<Queue>,
    worker: Mutex<Option<WakeWorker>>,
}

#[derive(Debug, Default)]
struct Queue {
    claims: VecDeque<Claim>,
    is_stopped: bool,
    /// Why nobody does them, if nobody does.
    down: Option<DownCause>,
}

/// A rollback that was asked for.
#[derive(Clone, Debug, Default)]
pub struct RollbackTicket(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    end: Mutex<Option<RollbackEnd>>,
    is_cancelled: AtomicBool,
}

impl RollbackTicket {
    /// How it ended, if it did.
    #[must_use]
    pub fn end(&self) -> Option<RollbackEnd> {
        self.0.end.lock().clone()
    }

    fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }
}

impl Rollbacks {
    /// None yet, and nobody to do them.
    #[must_use]
    pub fn new(config: RollbackConfig) -> Rollbacks {
        Rollbacks {
            shared: Arc::new(Shared {
                config,
                queue: Mutex::default(),
                worker: Mutex::default(),
            }),
        }
    }

    /// Starts the worker.
    pub fn start(&self, guardian: &Arc<dyn Guardian>) -> Result<(), StartError> {
        let config = &self.shared.config;
        let shared = Arc::clone(&self.shared);
        let make = move |generation: Generation| -> Box<dyn Worker> {
            Box::new(RollbackWorker::new(Arc::clone(&shared), generation))
        };
        let wake = config.environment.executor.start(WorkerSpec {
            name: config.name.clone(),
            make: Box::new(make),
            guardian: Arc::clone(guardian),
        })?;
        config.store.watch(wake.clone());
        self.shared.worker.lock().replace(wake);
        Ok(())
    }

    /// Takes a replica back to `to`, or to what its disk has where that is less, or to nothing where that moment is no
    /// longer known. `wake` is called once it ended. From now on no stream writes there.
    pub fn ask(
        &self,
        core: &Arc<VbucketCore>,
        to: Seqno,
        wake: WakeWorker,
    ) -> Result<RollbackTicket, OperationError> {
        let ticket = RollbackTicket::default();
        {
            let mut queue = self.shared.queue.lock();
            if queue.is_stopped {
                return Err(OperationError::Closed);
            }
            if let Some(cause) = queue.down.clone() {
                let child = self.shared.config.name.clone();
                return Err(OperationError::ActorDown { child, cause });
            }
            core.begin_rollback()?;
            queue
                .claims
                .push_back(Claim::new(Arc::clone(core), to, ticket.clone(), wake));
        }
        self.shared.wake();
        Ok(ticket)
    }

    /// Nobody wants it any more: it is given up, unless the store was asked to go back already. Then it is brought to its
    /// end.
    pub fn cancel(&self, ticket: &RollbackTicket) {
        ticket.0.is_cancelled.store(true, Ordering::Release);
        let taken = {
            let claims = &mut self.shared.queue.lock().claims;
            let is_it = |claim: &Claim| claim.is_of(ticket) && claim.may_be_given_up();
            let place = claims.iter().position(is_it);
            place.and_then(|place| claims.remove(place))
        };
        // One that is in hand is seen to by the worker.
        if let Some(claim) = taken {
            claim.give_up();
        }
    }

    /// The worker was taken out of service: vbuckets that are on their way back go with it, for their memory and their disk
    /// may be of two pasts.
    pub fn take_down(&self, why: &str) {
        let cause = DownCause::Escalated(why.to_owned());
        let left = {
            let mut queue = self.shared.queue.lock();
            queue.down = Some(cause.clone());
            std::mem::take(&mut queue.claims)
        };
        for claim in left {
            claim.take_down(&cause);
        }
    }

    /// The worker is made anew.
    pub fn bring_back(&self) {
        self.shared.queue.lock().down = None;
    }

    /// Does nothing any more: what it holds of the store is given back at the worker's next step.
    pub fn stop(&self) {
        let left = {
            let mut queue = self.shared.queue.lock();
            queue.is_stopped = true;
            std::mem::take(&mut queue.claims)
        };
        for claim in left {
            claim.end(RollbackEnd::Aborted);
        }
        self.shared.wake();
    }
}

/// What the worker does next.
enum Next {
    Claim(Claim),
    WaitUntil(Duration),
    Wait,
    End,
}

impl Shared {
    fn now(&self) -> Duration {
        self.config.environment.clock.monotonic()
    }

    /// The first claim whose time has come.
    fn next(&self) -> Next {
        let now = self.now();
        let mut queue = self.queue.lock();
        if queue.is_stopped {
            return Next::End;
        }
        let due = queue
            .claims
            .iter()
            .position(|claim| claim.not_before <= now);
        if let Some(claim) = due.and_then(|place| queue.claims.remove(place)) {
            return Next::Claim(claim);
        }
        let soonest = queue.claims.iter().map(|claim| claim.not_before).min();
        soonest.map_or(Next::Wait, Next::WaitUntil)
    }

    /// Puts a claim back, to go on at that time.
    fn put_back(&self, mut claim: Claim, not_before: Duration) {
        claim.not_before = not_before;
        let mut queue = self.queue.lock();
        if queue.is_stopped {
            drop(queue);
            return claim.end(RollbackEnd::Aborted);
        }
        if let Some(cause) = queue.down.clone() {
            drop(queue);
            return claim.take_down(&cause);
        }
        queue.claims.push_back(claim);
    }

    fn is_stopped(&self) -> bool {
        self.queue.lock().is_stopped
    }

    fn wake(&self) {
        let worker = self.worker.lock().clone();
        if let Some(worker) = worker {
            worker.wake();
        }
    }
}
