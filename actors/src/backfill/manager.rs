//! All backfills of a bucket, as its streams and its readers share them.
//!
//! Invariant: a handle that is dropped takes its backfill with it: out of the queue, out of the pipe, its bytes given
//! back; so no stream leaves a snapshot behind, however it ends.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::asking::Budget;
use super::fetches::{Answer, Fetches};
use super::job::{Backfill, BackfillRequest};
use super::pipe::{Chunk, Pipe, Piped};
use super::queues::{BackfillId, BackfillLimits, Queues};
use super::range::RangeEnd;
use super::reads::Reads;
use super::waiting::WaitingBytes;
use super::worker::Reader;
use crate::environment::Environment;
use crate::executor::{StartError, WakeWorker, Worker, WorkerSpec};
use crate::guardian::Guardian;
use crate::store_handle::StoreHandle;
use crate::stream::BackfillEnd;
use crate::vbucket::VbucketCore;
use messages::{Busy, ChildName, FailureCause, Generation, OperationError};
use storage::{DocumentKey, Seqno};

/// What the readers work with.
#[derive(Clone, Debug)]
pub struct BackfillConfig {
    /// The beginning of their names in the tree.
    pub name: ChildName,
    /// The store.
    pub store: StoreHandle,
    /// Time, randomness, failures.
    pub environment: Environment,
    /// How much at once.
    pub limits: BackfillLimits,
}

/// All backfills of a bucket. A clone is the same.
#[derive(Clone, Debug)]
pub struct Backfills {
    shared: Arc<Shared>,
    name: ChildName,
    pub(super) budget: Budget,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) queues: Mutex<Queues<Backfill, Arc<Pipe>>>,
    pub(super) reads: Mutex<Reads>,
    pub(super) fetches: Mutex<Fetches>,
    /// Bytes of documents that were read one by one, and not taken yet.
    pub(super) untaken_bytes: AtomicU64,
    /// Bytes of changes that wait for documents.
    pub(super) waiting_bytes: Arc<WaitingBytes>,
    /// Who looks after memory, to be told when what was read makes it short.
    relief: OnceLock<WakeWorker>,
    pub(super) store: StoreHandle,
    pub(super) environment: Environment,
    pub(super) limits: BackfillLimits,
    readers: Mutex<Vec<WakeWorker>>,
}

/// What there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackfillFigures {
    /// Backfills, those that wait included.
    pub backfills: usize,
    /// Bytes read and not taken by their streams.
    pub buffered_bytes: u64,
}

impl Backfills {
    /// None yet, and nobody to read.
    #[must_use]
    pub fn new(config: BackfillConfig) -> Backfills {
        let BackfillConfig {
            name,
            store,
            environment,
            limits,
        } = config;
        Backfills {
            shared: Arc::new(Shared {
                queues: Mutex::new(Queues::new(limits)),
                reads: Mutex::default(),
                fetches: Mutex::default(),
                untaken_bytes: AtomicU64::new(0),
                waiting_bytes: Arc::default(),
                relief: OnceLock::new(),
                store,
                environment,
                limits,
                readers: Mutex::default(),
            }),
            name,
            budget: Budget::default(),
        }
    }

    /// The same for somebody who asks for many documents in one go: only the first of them are read on his own thread.
    #[must_use]
    pub fn for_many(&self) -> Backfills {
        Backfills {
            budget: Budget::of_many(),
            ..self.clone()
        }
    }

    /// Starts `count` readers (at least one).
    pub fn start(&self, count: u16, guardian: &Arc<dyn Guardian>) -> Result<(), StartError> {
        for number in 0..count.max(1) {
            let name = ChildName::new(format!("{}-{number}", self.name));
            let (shared, child) = (Arc::clone(&self.shared), name.clone());
            let make = move |generation: Generation| -> Box<dyn Worker> {
                let shared = Arc::clone(&shared);
                Box::new(Reader::new(shared, child.clone(), generation))
            };
            let wake = self.shared.environment.executor.start(WorkerSpec {
                name,
                make: Box::new(make),
                guardian: Arc::clone(guardian),
            })?;
            self.shared.store.watch(wake.clone());
            self.shared.readers.lock().push(wake);
        }
        Ok(())
    }

    /// From now on this is woken when documents that were read make memory short.
    pub fn relieve_with(&self, relief: WakeWorker) {
        if self.shared.relief.set(relief).is_err() {
            tracing::error!("memory is looked after already");
        }
    }

    /// Has a backfill read. Dropping the handle takes it back.
    #[must_use]
    pub fn schedule(&self, request: BackfillRequest) -> BackfillHandle {
        let (pipe, consumer) = (Arc::clone(&request.pipe), Arc::clone(&request.consumer));
        let scheduled = {
            let mut queues = self.shared.queues.lock();
            queues.schedule(&consumer, |_| Backfill::new(request))
        };
        let id = match scheduled {
            Ok(id) => id,
            Err(entry) => {
                pipe.end(BackfillEnd::Aborted);
                entry.id
            }
        };
        self.shared.wake();
        BackfillHandle {
            shared: Arc::clone(&self.shared),
            pipe,
            consumer,
            id,
        }
    }

    /// What there is.
    #[must_use]
    pub fn figures(&self) -> BackfillFigures {
        let (backfills, buffered_bytes) = self.shared.queues.lock().figures();
        BackfillFigures {
            backfills,
            buffered_bytes,
        }
    }

    /// Nobody is there to read, for now: whoever waits for a document that is not in memory is told so.
    pub fn answer_waiting(&self) {
        let fetches = self.shared.fetches.lock().take_all();
        for fetch in fetches {
            let not_in_memory = OperationError::TemporaryFailure(Busy::NotInMemory);
            fetch.tell(Err(not_in_memory.into()));
        }
    }

    /// No reader reads any more: every backfill ends, what it holds of the store is given back, and the readers end.
    pub fn stop(&self) {
        let left = self.shared.queues.lock().stop();
        for entry in left {
            entry.job.request().pipe.end(BackfillEnd::Aborted);
        }
        let fetches = self.shared.fetches.lock().stop();
        for fetch in fetches {
            fetch.tell(Err(OperationError::Closed.into()));
        }
        let open = self.shared.reads.lock().stop();
        for cell in open {
            cell.end(RangeEnd::Failed(OperationError::Closed.into()));
        }
        self.shared.wake();
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.environment.clock.monotonic()
    }

    /// The store must be opened anew, which nobody can while a backfill holds it.
    pub(super) fn give_back_store(&self) {
        let recalled = self.queues.lock().take_all(Backfill::is_recalled);
        for entry in recalled {
            entry.job.request().pipe.end(BackfillEnd::Aborted);
        }
    }

    /// Ends the reads of ranges whose time is up, and if the store is called back those that hold it.
    pub(super) fn end_overdue(&self, now: Duration) {
        let (idle_max, is_recalled) = (self.limits.idle_max, self.store.wants_reopening());
        let overdue = self.reads.lock().overdue(now, idle_max, is_recalled);
        for (cell, error) in overdue {
            cell.give_up(error);
        }
    }

    /// Has a reader read a document that is not in memory, or tell why it could not be read at once.
    pub(super) fn ask(
        &self,
        core: &Arc<VbucketCore>,
        key: &DocumentKey,
        (since, met): (Duration, Option<FailureCause>),
    ) -> Result<oneshot::Receiver<Answer>, OperationError> {
        let line = self.fetches.lock().ask(core, key, (since, met))?;
        core.note_fetched();
        self.wake();
        Ok(line)
    }

    /// What was read is in memory.
    pub(super) fn note_restored(&self, core: &VbucketCore) {
        if core.is_memory_short()
            && let Some(relief) = self.relief.get()
        {
            relief.wake();
        }
    }

    pub(super) fn release(&self, of: (&Arc<str>, BackfillId), bytes: u64) {
        let goes_on = bytes > 0 && {
            let now = self.now();
            self.queues.lock().released(of, bytes, now)
        };
        if goes_on {
            self.wake();
        }
    }

    pub(super) fn wake(&self) {
        let readers = self.readers.lock().clone();
        for reader in readers {
            reader.wake();
        }
    }
}

/// A stream's hold on its backfill.
#[derive(Debug)]
pub struct BackfillHandle {
    shared: Arc<Shared>,
    pipe: Arc<Pipe>,
    consumer: Arc<str>,
    id: BackfillId,
}

impl BackfillHandle {
    /// The next thing that was read, or how it ended.
    #[must_use]
    pub fn take(&self) -> Piped {
        let piped = self.pipe.take();
        if let Piped::Chunk(Chunk { bytes, .. }) = &piped {
            self.shared.release((&self.consumer, self.id), *bytes);
            if self.pipe.is_empty() {
                self.hasten();
            }
        }
        piped
    }

    /// How it ended, if that was no completion.
    #[must_use]
    pub fn broken(&self) -> Option<BackfillEnd> {
        self.pipe.broken()
    }

    /// So much is on disk now: a backfill that waited for it goes on.
    pub fn note_persisted(&self, persisted: Seqno) {
        if self
            .pipe
            .waits_for()
            .is_some_and(|seqno| seqno <= persisted)
        {
            self.hasten();
        }
    }

    fn hasten(&self) {
        let is_hastened = {
            let mut queues = self.shared.queues.lock();
            queues.hasten(&self.consumer, self.id)
        };
        if is_hastened {
            self.shared.wake();
        }
    }
}

impl Drop for BackfillHandle {
    fn drop(&mut self) {
        self.pipe.cancel();
        let taken = {
            let mut queues = self.shared.queues.lock();
            queues.cancel(&self.consumer, self.id)
        };
        // With its snapshot, outside the lock.
        drop(taken);
        let left = self.pipe.drain();
        self.shared.release((&self.consumer, self.id), left);
    }
}
