//! Every child of a bucket can be started alone, from its public configuration, between stand-ins for its neighbours:
//! the vbucket's actor, a flusher without a writer, a writer without a flusher.
#![cfg(test)]

use std::sync::Arc;
use std::time::Duration;

use actix::Arbiter;
use parking_lot::Mutex;

use actors::flusher::actor::wake_with;
use actors::flusher::answers::{Committed, Placed, Ticket};
use actors::flusher::{
    FlushLimits, FlushTake, Flushable, FlushedVbucket, FlusherConfig, FlusherCore, FlusherEdge,
};
use actors::maintenance::AmpleMemory;
use actors::shell::{self, ShellConfig};
use actors::store_handle::StoreHandle;
use actors::vbucket::checkpoint::CheckpointLimits;
use actors::vbucket::{DirtyVbuckets, VbucketActor, VbucketConfig, VbucketCore};
use actors::writer::{
    self, BarrierRequest, CommitRequest, GroupLimits, Request, WriterConfig, WriterLink,
    WriterQueue,
};
use piggin::messages::flusher::Wake;
use piggin::messages::vbucket::{Acknowledge, Get, Set, Write, WriteOptions};
use piggin::messages::{ChildName, DownCause, Generation};
use piggin::storage;
use storage::{
    Batch, Cas, CollectionId, CreateOptions, Document, DocumentKey, Incarnation, Item, KvStore,
    LogStore, MemoryAccount, MemoryPool, OpenOptions, RollbackEpoch, Seqno, VbucketId,
    VbucketPosition, VbucketStateRecord, VbucketUuid,
};
use supervisor::testing::{AlwaysRestart, MessagesOf, Probe, WakeWorker, World, actors};

const VBUCKET: VbucketId = VbucketId::FIRST;
/// Where a vbucket stands that the store has just made.
const EMPTY: VbucketPosition = VbucketPosition {
    incarnation: Incarnation(1),
    epoch: RollbackEpoch(0),
    high_seqno: Seqno::ZERO,
};

fn key() -> DocumentKey {
    DocumentKey::new(CollectionId::DEFAULT, b"key").expect("a short name")
}

fn set(acknowledge: Acknowledge) -> Set {
    Set {
        key: key(),
        value: "value".into(),
        options: WriteOptions {
            acknowledge,
            ..WriteOptions::default()
        },
    }
}

fn guardian() -> Arc<AlwaysRestart> {
    Arc::new(AlwaysRestart {
        after: Duration::from_millis(10),
    })
}

/// A vbucket that is empty and serves.
fn vbucket(world: &World, dirty: &Arc<DirtyVbuckets>) -> Arc<VbucketCore> {
    let core = VbucketCore::new(VbucketConfig {
        id: VBUCKET,
        state: VbucketStateRecord::new(VbucketUuid(1)),
        position: EMPTY,
        environment: world.environment(),
        memory: Arc::new(MemoryAccount::new(Arc::new(MemoryPool::new(1 << 20)))),
        dirty: Arc::clone(dirty),
        checkpoints: CheckpointLimits::default(),
        on_suspect: Arc::new(|_| {}),
    });
    core.warm_done();
    Arc::new(core)
}

/// A store of one vbucket on the world's disk.
fn store(world: &World) -> StoreHandle {
    let shape = CreateOptions::of(1, 1);
    let options = OpenOptions {
        is_stepped: true,
        ..OpenOptions::new(1)
    };
    let store = LogStore::create(world.disk(), shape, options).expect("an empty disk");
    let state = VbucketStateRecord::new(VbucketUuid(1));
    store.create_vbucket(VBUCKET, &state).expect("a vbucket");
    let disk = world.disk();
    let open = move || LogStore::open(Arc::clone(&disk), OpenOptions::new(2));
    StoreHandle::new(store, Box::new(open))
}

fn shell(world: &World, name: &str) -> ShellConfig {
    ShellConfig::new(ChildName::new(name), guardian()).hooks(&world.hooks())
}

#[test]
fn a_vbucket_between_a_test_and_a_probe() {
    World::run(1, |world| async move {
        let flusher = Probe::start(|Wake| ());
        let tap = MessagesOf::<Set>::default();
        world.tap(tap.clone());
        let dirty = Arc::new(DirtyVbuckets::new(1));
        wake_with(&dirty, flusher.recipient());
        let core = vbucket(&world, &dirty);
        let make = move |_| VbucketActor::new(Arc::clone(&core));
        let vbucket = shell::start(&Arbiter::current(), shell(&world, "vbucket-0"), make);
        let written = vbucket.send(set(Acknowledge::InMemory)).await;
        written.expect("an answer").expect("a write");
        let found = vbucket.send(Get { key: key() }).await;
        assert_eq!(found.expect("an answer").expect("it").value, "value");
        assert_eq!(flusher.await_received(1).await, [Wake]);
        assert_eq!(tap.all().len(), 1);
    })
    .expect("a run that ends");
}

#[test]
fn a_flusher_before_a_test_that_plays_the_writer() {
    World::run(2, |world| async move {
        let dirty = Arc::new(DirtyVbuckets::new(1));
        let core = vbucket(&world, &dirty);
        let queue = WriterQueue::new(1, 1);
        let config = FlusherConfig {
            name: ChildName::new("flusher-0"),
            environment: world.environment(),
            limits: FlushLimits::default(),
            vbuckets: vec![FlushedVbucket {
                id: VBUCKET,
                vbucket: Arc::clone(&core) as _,
                log_shard: 0,
            }],
            writers: vec![WriterLink::new(&queue, WakeWorker::new(|| {}))],
            edge: FlusherEdge::new(),
            dirty: Arc::clone(&dirty) as _,
            store: store(&world),
        };
        let make = move |generation| FlusherCore::new(config.clone(), generation);
        let flusher = shell::start(&Arbiter::current(), shell(&world, "flusher-0"), make);
        wake_with(&dirty, flusher.recipient());

        // First it asks where its vbuckets stand.
        let Request::Barrier(asked) = next(&world, &queue).await else {
            panic!("no barrier");
        };
        assert_eq!(asked.vbuckets, [VBUCKET]);
        let placed = Placed::At(vec![(VBUCKET, Ok(EMPTY))]);
        BarrierRequest::answer(asked, 0, placed);

        let written = core.write_acknowledged(Write::Set(set(Acknowledge::Persisted)));
        let waits = actix::spawn(written);
        let batch = next_batch(&world, &queue).await;
        assert_eq!(batch.batch.watermarks.high_seqno, Seqno(1));
        assert!(!waits.is_finished(), "acknowledged before it is on disk");
        // A writer that crashes with it: the flusher asks anew, and brings it again.
        CommitRequest::answer(batch, Committed::Lost);
        let Request::Barrier(asked) = next(&world, &queue).await else {
            panic!("no barrier");
        };
        let placed = Placed::At(vec![(VBUCKET, Ok(EMPTY))]);
        asked.answer(0, placed);
        let batch = next_batch(&world, &queue).await;
        let seqno = batch.batch.watermarks.high_seqno;
        batch.vbucket.note_persisted(seqno);
        batch.answer(Committed::Persisted { seqno });
        let mutated = waits.await.expect("no panic").expect("a write");
        assert_eq!(mutated.token.seqno, seqno);
    })
    .expect("a run that ends");
}

async fn next(world: &World, queue: &WriterQueue) -> Request {
    loop {
        if let Some(request) = queue.take() {
            return request;
        }
        world.sleep(Duration::from_millis(1)).await;
    }
}

async fn next_batch(world: &World, queue: &WriterQueue) -> CommitRequest {
    loop {
        match next(world, queue).await {
            Request::Commit(request) if request.batch.items.is_empty() => {
                // What the vbucket is, before its documents.
                let seqno = request.batch.watermarks.high_seqno;
                request.answer(Committed::Persisted { seqno });
            }
            Request::Commit(request) => return *request,
            Request::Barrier(asked) => panic!("{asked:?}"),
        }
    }
}

/// Stands in for a vbucket: notes what it is told to be on disk.
#[derive(Debug, Default)]
struct ProbeVbucket(Mutex<Vec<Seqno>>);

impl Flushable for ProbeVbucket {
    fn take_for_flush(&self, _: usize, _: usize) -> Option<FlushTake> {
        None
    }

    fn note_persisted(&self, seqno: Seqno) {
        self.0.lock().push(seqno);
    }

    fn resync(&self, _: Seqno) {}

    fn has_unflushed(&self) -> bool {
        false
    }

    fn high_seqno(&self) -> Seqno {
        Seqno::ZERO
    }

    fn persisted_seqno(&self) -> Seqno {
        Seqno::ZERO
    }

    fn settled_seqno(&self) -> Seqno {
        Seqno::ZERO
    }

    fn set_disk_full(&self, _: bool) {}

    fn down(&self) -> Option<DownCause> {
        None
    }

    fn take_down(&self, _: DownCause) {}

    fn bring_up(&self) {}
}

#[test]
fn a_writer_that_is_fed_by_the_test() {
    World::run(3, |world| async move {
        let store = store(&world);
        let config = WriterConfig {
            name: ChildName::new("writer-0"),
            log_shard: 0,
            store: store.clone(),
            environment: world.environment(),
            limits: GroupLimits::default(),
            backoff: actors::backoff::Backoff::DISK,
            maintenance: None,
            memory: AmpleMemory::shared(),
        };
        let queue = WriterQueue::new(1, 1);
        let writer = writer::start(config, &queue, guardian()).expect("a worker");
        let told: Arc<ProbeVbucket> = Arc::default();
        let edge = FlusherEdge::new();
        let nudged = Probe::start(|Wake| ());
        let nudge = nudged.recipient();
        edge.connect(move || nudge.try_send(Wake).is_ok());

        let lease = store.lease().expect("an open store");
        let snapshot = lease.store().snapshot(VBUCKET).expect("a vbucket");
        let position = VbucketPosition {
            incarnation: snapshot.incarnation(),
            epoch: snapshot.epoch(),
            high_seqno: snapshot.high_seqno(),
        };
        let document = Document::new(key(), "value", Cas(1));
        let items = vec![Arc::new(Item::mutation(Seqno(1), document))];
        let ticket = Ticket {
            generation: Generation(1),
            number: 1,
        };
        let request = CommitRequest {
            ticket,
            batch: Batch::of_documents(VBUCKET, &position, items, 0),
            vbucket: Arc::clone(&told) as _,
            reply: Arc::clone(&edge),
        };
        let submitted = writer.submit(Request::Commit(Box::new(request)));
        assert!(submitted.is_ok());
        edge.begin_look();
        nudged.await_received(2).await;
        assert_eq!(*told.0.lock(), [Seqno(1)]);
        let (of, committed) = edge.take().batches.remove(&VBUCKET).expect("an answer");
        assert_eq!(of, ticket);
        assert!(
            matches!(committed, Committed::Persisted { seqno: Seqno(1) }),
            "{committed:?}"
        );
    })
    .expect("a run that ends");
}
