//! What is tested: a log store with several writers and its maintenance, each a worker in steps.
//!
//! Invariant: a write is answered `Ok` only after its batch was synced; a planted bug ([`Plant`]) breaks one such
//! promise, and some seed must find it.

mod maintenance;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use messages::ChildName;
use piggin::{messages, storage};
use storage::{
    CreateOptions, DocumentKey, KvStore, LogStore, Namespace, OpenOptions, Seqno, StorageError,
    VbucketId, VbucketStateRecord, VbucketUuid,
};
use supervisor::testing::{
    AlwaysRestart, Executor, Random, StopWorkers, WakeWorker, Worker, WorkerSpec, World,
};

use maintenance::Maintenance;
use writer::{Queue, Request, Writer};

pub(crate) const VBUCKETS: u16 = 8;
const LOG_SHARDS: u16 = 2;
/// More than log shards, so that writers wait for each other's log.
const WRITERS: u16 = 4;

/// A bug on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plant {
    Nothing,
    /// The writer answers after the write, before the sync.
    AnswersBeforeTheSync,
    /// The writer asks for a commit without sync, and answers when it is done.
    CommitsWithoutSync,
    /// The writer takes note of a wake after it drained its queue instead of before (rule R18).
    TakesTheWakeTooLate,
    /// The writer answers in the order of a randomly hashed map.
    AnswersInRandomOrder,
}

/// The engine at work.
pub(crate) struct Engine {
    world: World,
    store: LogStore,
    queues: Vec<Arc<Queue>>,
    writers: Vec<WakeWorker>,
}

/// What comes of a write: its seqno once it is durable. A sender that is gone means nobody knows.
pub(crate) type Answer = oneshot::Receiver<Result<Seqno, StorageError>>;

impl Engine {
    /// Makes the world's empty disk a store.
    pub(crate) fn create(world: &World) -> Result<(), StorageError> {
        let shape = CreateOptions {
            vbuckets: VBUCKETS,
            log_shards: LOG_SHARDS,
        };
        let store = LogStore::create(world.disk(), shape, options(world))?;
        for vbucket in vbuckets() {
            store.create_vbucket(vbucket, &VbucketStateRecord::new(VbucketUuid(1)))?;
        }
        store.close()
    }

    /// Opens what the world's disk holds, and starts its workers.
    pub(crate) fn open(world: &World, plant: Plant) -> Result<Engine, StorageError> {
        let store = LogStore::open(world.disk(), options(world))?;
        let mut engine = Engine {
            world: world.clone(),
            store: store.clone(),
            queues: Vec::new(),
            writers: Vec::new(),
        };
        for number in 0..WRITERS {
            let queue = Arc::new(Queue::default());
            engine.queues.push(Arc::clone(&queue));
            let (store, clock) = (store.clone(), world.clock());
            let shard = number % LOG_SHARDS;
            let wake = engine.start(&format!("writer-{number}"), move || {
                Box::new(Writer::new(
                    store.clone(),
                    shard,
                    Arc::clone(&queue),
                    clock.clone(),
                    plant,
                ))
            })?;
            engine.writers.push(wake);
        }
        engine.start("maintenance-0", move || {
            Box::new(Maintenance::new(store.clone(), LOG_SHARDS))
        })?;
        Ok(engine)
    }

    fn start(
        &self,
        name: &str,
        mut make: impl FnMut() -> Box<dyn Worker> + Send + 'static,
    ) -> Result<WakeWorker, StorageError> {
        let spec = WorkerSpec {
            name: ChildName::new(name),
            make: Box::new(move |_| make()),
            guardian: Arc::new(AlwaysRestart {
                after: Duration::from_millis(10),
            }),
        };
        let started = self.world.executor().start(spec);
        started.map_err(|error| StorageError::Setting(error.to_string()))
    }

    /// Asks for a write.
    pub(crate) fn write(&self, vbucket: VbucketId, key: DocumentKey, value: Bytes) -> Answer {
        let (answer, receiver) = oneshot::channel();
        let writer = vbucket.index() % usize::from(WRITERS);
        let request = Request {
            vbucket,
            key,
            value,
            answer,
        };
        if let (Some(queue), Some(wake)) = (self.queues.get(writer), self.writers.get(writer))
            && queue.push(request)
        {
            wake.wake();
        }
        receiver
    }

    /// The value of a key.
    pub(crate) fn read(
        &self,
        vbucket: VbucketId,
        key: &DocumentKey,
    ) -> Result<Option<Bytes>, StorageError> {
        let item = self.store.get(vbucket, Namespace::Committed, key)?;
        Ok(item.map(|item| item.document.value))
    }

    /// The store, for the checkers.
    pub(crate) fn store(&self) -> &LogStore {
        &self.store
    }

    /// Stops the workers and closes the store in order.
    pub(crate) async fn shut_down(self) -> Result<(), StorageError> {
        let executor = self.world.executor();
        // Not the executor's stop, after which nothing could be started in this world.
        executor.kill_all();
        executor.all_ended().await;
        self.store.close()
    }
}

/// All of them.
pub(crate) fn vbuckets() -> impl Iterator<Item = VbucketId> {
    (0..VBUCKETS).filter_map(VbucketId::new)
}

/// So small that a few hundred documents are sealed, merged, checkpointed and copied out.
fn options(world: &World) -> OpenOptions {
    OpenOptions {
        log_file_bytes_min: 64 << 10,
        log_file_bytes_max: 128 << 10,
        unsealed_bytes: 16 << 10,
        segments_max: 2,
        container_bytes_min: 0,
        block_bytes: 4 << 10,
        is_stepped: true,
        ..OpenOptions::new(world.random("entropy").next_u64())
    }
}
