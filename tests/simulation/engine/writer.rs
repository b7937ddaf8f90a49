//! A writer: drains its queue into one commit after the other, a step at a time.
//!
//! Invariant: a queue that is not empty has a wake outstanding, or a writer that will look again.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use piggin::storage;
use storage::{
    Batch, Cas, CommitDurability, Document, DocumentKey, Item, Job, KvStore, LogStore, Outcome,
    Seqno, StorageError, VbucketId, VbucketPosition,
};
use supervisor::testing::{Clock, SimulatedClock, Step, Worker};

use crate::engine::Plant;

/// Most requests of one commit.
const GROUP_MAX: usize = 12;

pub(crate) struct Request {
    pub(crate) vbucket: VbucketId,
    pub(crate) key: DocumentKey,
    pub(crate) value: Bytes,
    pub(crate) answer: oneshot::Sender<Result<Seqno, StorageError>>,
}

/// The edge to a writer: what waits, and whether a wake is outstanding (rule R18).
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    requests: VecDeque<Request>,
    is_woken: bool,
}

impl Queue {
    /// Whether the writer must be woken.
    pub(crate) fn push(&self, request: Request) -> bool {
        let mut state = self.state.lock();
        state.requests.push_back(request);
        !std::mem::replace(&mut state.is_woken, true)
    }

    fn take(&self) -> Vec<Request> {
        let mut state = self.state.lock();
        let count = state.requests.len().min(GROUP_MAX);
        state.requests.drain(..count).collect()
    }

    fn take_wake(&self) {
        self.state.lock().is_woken = false;
    }
}

type CommitJob = Box<dyn Job<Output = Vec<Result<(), StorageError>>> + Send>;

pub(crate) struct Writer {
    store: LogStore,
    shard: u16,
    queue: Arc<Queue>,
    clock: SimulatedClock,
    plant: Plant,
    doing: Option<Doing>,
    /// Of the planted bug alone: it found its queue empty a step ago, and will not look again.
    is_dozing_off: bool,
}

struct Doing {
    job: CommitJob,
    /// By batch, in the order of the group.
    waiting: Vec<Vec<Written>>,
}

/// A request that has a seqno.
struct Written {
    seqno: Seqno,
    answer: oneshot::Sender<Result<Seqno, StorageError>>,
}

impl Writer {
    pub(crate) fn new(
        store: LogStore,
        shard: u16,
        queue: Arc<Queue>,
        clock: SimulatedClock,
        plant: Plant,
    ) -> Writer {
        Writer {
            store,
            shard,
            queue,
            clock,
            plant,
            doing: None,
            is_dozing_off: false,
        }
    }

    fn begin(&mut self) -> Result<Option<Doing>, StorageError> {
        if self.plant != Plant::TakesTheWakeTooLate {
            self.queue.take_wake();
        }
        let mut by_vbucket: BTreeMap<VbucketId, Vec<Request>> = BTreeMap::new();
        for request in self.queue.take() {
            let of_one = by_vbucket.entry(request.vbucket).or_default();
            of_one.push(request);
        }
        if by_vbucket.is_empty() {
            return Ok(None);
        }
        let commit_time_ms = u64::try_from(self.clock.since_epoch().as_millis());
        let commit_time_ms = commit_time_ms.unwrap_or(u64::MAX);
        let (mut group, mut waiting) = (Vec::new(), Vec::new());
        for (vbucket, requests) in by_vbucket {
            let snapshot = self.store.snapshot(vbucket)?;
            let position = VbucketPosition {
                incarnation: snapshot.incarnation(),
                epoch: snapshot.epoch(),
                high_seqno: snapshot.high_seqno(),
            };
            let mut seqno = position.high_seqno;
            let (mut items, mut written) = (Vec::new(), Vec::new());
            for request in requests {
                seqno = seqno.next();
                let document = Document::new(request.key, request.value, Cas(seqno.0 << 16));
                items.push(Arc::new(Item::mutation(seqno, document)));
                let answer = request.answer;
                written.push(Written { seqno, answer });
            }
            group.push(Batch::of_documents(
                vbucket,
                &position,
                items,
                commit_time_ms,
            ));
            waiting.push(written);
        }
        let durability = if self.plant == Plant::CommitsWithoutSync {
            CommitDurability::Buffered
        } else {
            CommitDurability::Synced
        };
        let group: Arc<[Batch]> = group.into();
        let job = self
            .store
            .shared_commit_job(self.shard, group, durability)?;
        Ok(Some(Doing {
            job: Box::new(job),
            waiting,
        }))
    }

    fn answer(&self, waiting: Vec<Vec<Written>>, results: Vec<Result<(), StorageError>>) {
        let mut answers: Vec<(Written, Result<(), StorageError>)> = waiting
            .into_iter()
            .zip(results)
            .flat_map(|(batch, result)| {
                let each = batch.into_iter();
                each.map(move |written| (written, result.clone()))
            })
            .collect();
        if self.plant == Plant::AnswersInRandomOrder {
            answers = in_random_order(answers);
        }
        for (written, result) in answers {
            // Whoever asked may be gone.
            written.answer.send(result.map(|()| written.seqno)).ok();
        }
    }
}

impl Worker for Writer {
    fn step(&mut self) -> Step {
        if std::mem::take(&mut self.is_dozing_off) {
            self.queue.take_wake();
            return Step::Idle;
        }
        let Some(doing) = &mut self.doing else {
            return match self.begin() {
                Ok(Some(doing)) => {
                    self.doing = Some(doing);
                    Step::Again
                }
                // The answers are dropped: whoever asked knows that nobody knows.
                Err(_) => Step::Again,
                Ok(None) if self.plant == Plant::TakesTheWakeTooLate => {
                    self.is_dozing_off = true;
                    Step::Again
                }
                Ok(None) => Step::Idle,
            };
        };
        match doing.job.step() {
            Outcome::Yielded => {
                if self.plant == Plant::AnswersBeforeTheSync {
                    let waiting = std::mem::take(&mut doing.waiting);
                    let results = waiting.iter().map(|_| Ok(())).collect();
                    self.answer(waiting, results);
                }
            }
            Outcome::Complete(results) => {
                let waiting = std::mem::take(&mut doing.waiting);
                self.doing = None;
                self.answer(waiting, results);
            }
            Outcome::Failed(_) | Outcome::Aborted(_) => self.doing = None,
        }
        Step::Again
    }
}

#[expect(
    clippy::disallowed_types,
    reason = "the planted bug is the very thing that is banned"
)]
fn in_random_order<T>(all: Vec<T>) -> Vec<T> {
    let numbered: std::collections::HashMap<usize, T> = all.into_iter().enumerate().collect();
    numbered.into_values().collect()
}
