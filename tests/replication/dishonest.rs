//! A source that says what cannot be: the stream is given up with the fault by name, nothing of it is applied, what comes
//! later by it finds nobody, and the next one is asked for from where the vbucket stands.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use piggin::Bucket;
use piggin::actors::backoff::Backoff;
use piggin::actors::rollback::{RollbackConfig, Rollbacks};
use piggin::actors::store_handle::StoreHandle;
use piggin::actors::stream::consumer::{
    Consumer, ConsumerConfig, Following, Follows, Opening, Source,
};
use piggin::actors::stream::{Offer, OpenStreamInto, StreamSink};
use piggin::actors::vbucket::{DirtyVbuckets, VbucketCore, VbucketSlot};
use piggin::messages::replication::{ReplicaError, ReplicaState, StreamFault};
use piggin::messages::stream::{
    SnapshotFlags, SnapshotMarker, StreamBatch, StreamEvent, StreamId, StreamOpened, StreamRequest,
};
use piggin::messages::{ChildName, OperationError};
use piggin::storage::disk::SimulatedDisk;
use piggin::storage::{
    Cas, CollectionId, CreateOptions, Document, DocumentKey, FailoverEntry, Item, LogStore,
    OpenOptions, Operation, Seqno, SnapshotRange, StorageError, VbucketId, VbucketState,
    VbucketUuid,
};
use supervisor::testing::World;

use crate::common::{become_state, config, run};
use crate::support::evicting::resident;

/// Says what it was given, and nothing after it.
#[derive(Debug, Default)]
struct Liar {
    says: Mutex<Vec<StreamEvent>>,
    asked: Mutex<Vec<StreamRequest>>,
    sinks: Mutex<Vec<Box<dyn StreamSink>>>,
}

fn batch(events: Vec<StreamEvent>) -> StreamBatch {
    StreamBatch {
        vbucket: VbucketId::FIRST,
        stream: StreamId(1),
        bytes: 100,
        events,
    }
}

impl Source for Liar {
    fn open(&self, open: OpenStreamInto) -> Opening {
        let mut sink = open.sink;
        let said = std::mem::take(&mut *self.says.lock());
        assert!(matches!(sink.offer(batch(said)), Offer::Taken));
        self.sinks.lock().push(sink);
        self.asked.lock().push(open.request);
        let failover_log = vec![FailoverEntry {
            uuid: VbucketUuid(7),
            seqno: Seqno::ZERO,
        }];
        Box::pin(ready(Ok(StreamOpened {
            stream: StreamId(1),
            failover_log,
            start: Seqno::ZERO,
            end: Seqno::MAX,
        })))
    }

    fn nudge(&self, _: VbucketId) {}

    fn is_over(&self) -> bool {
        false
    }
}

fn marker(start: u64, end: u64) -> StreamEvent {
    StreamEvent::SnapshotMarker(Box::new(SnapshotMarker {
        start: Seqno(start),
        end: Seqno(end),
        flags: SnapshotFlags::MEMORY.with(SnapshotFlags::CHECKPOINT),
        max_visible_seqno: None,
        high_completed_seqno: None,
        high_prepared_seqno: None,
        purge_seqno: None,
    }))
}

fn item(seqno: u64) -> StreamEvent {
    let key = format!("key {seqno}");
    let key = DocumentKey::new(CollectionId::DEFAULT, key.as_bytes()).expect("a key");
    let document = Document::new(key, "value", Cas(seqno));
    StreamEvent::Mutation(Arc::new(Item::mutation(Seqno(seqno), document)))
}

struct Scene {
    world: World,
    _bucket: Bucket,
    core: Arc<VbucketCore>,
    liar: Arc<Liar>,
    follows: Arc<Follows>,
    following: Arc<Following>,
    edge: Arc<DirtyVbuckets>,
    consumer: Consumer,
}

impl Scene {
    async fn new(world: World) -> Scene {
        let bucket = world.create(resident(config(&world))).await;
        let bucket = bucket.expect("a bucket");
        become_state(&bucket, VbucketState::Replica).await;
        let core = bucket.vbucket_core(VbucketId::FIRST).expect("it");
        let disk = Arc::new(SimulatedDisk::new());
        let store = LogStore::create(disk, CreateOptions::default(), OpenOptions::new(1));
        let never = Box::new(|| Err(StorageError::NoStore));
        let environment = world.environment();
        let rollbacks = Rollbacks::new(RollbackConfig {
            name: ChildName::new("rollback"),
            store: StoreHandle::new(store.expect("a store"), never),
            environment: environment.clone(),
            backoff: Backoff::DISK,
            step_bytes: 1 << 20,
        });
        let (follows, edge) = (
            Arc::new(Follows::default()),
            Arc::new(DirtyVbuckets::new(4)),
        );
        let liar = Arc::new(Liar::default());
        let source: Arc<dyn Source> = Arc::clone(&liar) as _;
        let following = Following::new(
            VbucketId::FIRST,
            source,
            ("test".into(), "here".into()),
            1 << 20,
        );
        let consumer = Consumer::new(ConsumerConfig {
            vbuckets: vec![Arc::new(VbucketSlot::of(Arc::clone(&core)))],
            edge: Arc::clone(&edge),
            follows: Arc::clone(&follows),
            rollbacks,
            environment,
        });
        follows.begin(Arc::clone(&following), &edge);
        Scene {
            world,
            _bucket: bucket,
            core,
            liar,
            follows,
            following,
            edge,
            consumer,
        }
    }

    /// Everything that can be done now is done; the source says this when it is asked.
    async fn says(&mut self, events: Vec<StreamEvent>) {
        *self.liar.says.lock() = events;
        let asked = self.liar.asked.lock().len();
        while self.liar.asked.lock().len() == asked {
            self.world.sleep(Duration::from_secs(1)).await;
            self.settle().await;
        }
    }

    async fn settle(&mut self) {
        loop {
            let around = self.consumer.look();
            let is_quiet = around.asked.is_empty();
            for asked in around.asked {
                let answer = asked.opening.await;
                self.consumer.answered(asked.vbucket, asked.attempt, answer);
            }
            if is_quiet && self.edge.is_empty() {
                return;
            }
        }
    }
}

#[test]
fn a_fault_is_named_and_nothing_of_it_is_applied() {
    let range = |start, end| SnapshotRange {
        start: Seqno(start),
        end: Seqno(end),
    };
    run(1, async |here, _| {
        let mut scene = Scene::new(here).await;
        scene
            .says(vec![marker(0, 5), item(1), item(5), marker(6, 9), item(7)])
            .await;
        let status = scene.following.status();
        assert_eq!(status.state, ReplicaState::Following);
        assert_eq!(
            (status.received, status.received_whole),
            (Seqno(7), Seqno(5))
        );
        let (seqno, last) = (Seqno(7), Seqno(7));
        let snapshot = range(6, 9);
        let cases = [
            (vec![item(8)], StreamFault::NoSnapshot { seqno: Seqno(8) }),
            (
                vec![marker(6, 9), item(7)],
                StreamFault::GoesBack { seqno, last },
            ),
            (
                vec![marker(6, 9), item(10)],
                StreamFault::OutsideSnapshot {
                    seqno: Seqno(10),
                    snapshot,
                },
            ),
            (vec![marker(9, 8)], StreamFault::Inverted(range(9, 8))),
            (
                vec![marker(3, 9)],
                StreamFault::Overlaps {
                    snapshot: range(3, 9),
                    last: Seqno(5),
                },
            ),
            (
                vec![marker(6, 9), marker(10, 12)],
                StreamFault::CutShort {
                    start: Seqno(10),
                    end: Seqno(9),
                },
            ),
        ];
        // The one that reads is broken by the first.
        let mut sink = scene.liar.sinks.lock().pop().expect("a stream");
        assert!(matches!(sink.offer(batch(vec![item(7)])), Offer::Taken));
        scene.settle().await;
        for (events, fault) in cases {
            let before = scene.core.figures();
            scene.says(events).await;
            let status = scene.following.status();
            assert_eq!(status.last_error, Some(ReplicaError::Fault(fault)));
            assert_eq!(status.state, ReplicaState::Waiting);
            assert_eq!(status.unacknowledged_bytes, 0);
            assert_eq!(scene.core.figures(), before);
            assert_eq!(scene.core.high_seqno(), Seqno(7));
            let mut sink = scene.liar.sinks.lock().pop().expect("a stream");
            assert!(sink.is_gone());
            let late = sink.offer(batch(vec![marker(6, 9), item(8)]));
            assert!(matches!(late, Offer::Gone), "{late:?}");
            let asked = scene.liar.asked.lock().pop().expect("a request");
            assert_eq!(
                (asked.start, asked.vbucket_uuid),
                (Seqno(7), VbucketUuid(7))
            );
            assert_eq!(asked.snapshot, range(5, 9));
        }
        scene.says(vec![marker(6, 9), item(8), item(9)]).await;
        let status = scene.following.status();
        assert_eq!((status.received_whole, status.last_error), (Seqno(9), None));
    });
}

/// MB-36971: how something ended that was never prepared ends the stream, not the process, and nothing of it is applied.
#[test]
fn mb_36971_the_end_of_what_was_never_prepared_ends_the_stream() {
    run(3, async |here, _| {
        let mut scene = Scene::new(here).await;
        scene.says(vec![marker(0, 2), item(1), item(2)]).await;
        let mut sink = scene.liar.sinks.lock().pop().expect("a stream");
        let prepare_seqno = Seqno(1);
        let ends = [
            (
                Operation::CommitMutation { prepare_seqno },
                StreamEvent::Commit as fn(Arc<Item>) -> StreamEvent,
            ),
            (
                Operation::Abort {
                    prepare_seqno,
                    deleted_at: 1,
                },
                StreamEvent::Abort,
            ),
        ];
        for (operation, event) in ends {
            let StreamEvent::Mutation(end) = item(3) else {
                unreachable!("a mutation")
            };
            let mut end = Item::clone(&end);
            end.operation = operation;
            let events = vec![marker(3, 3), event(Arc::new(end))];
            assert!(matches!(sink.offer(batch(events)), Offer::Taken));
            scene.settle().await;
            let status = scene.following.status();
            let error = status.last_error.expect("a refusal");
            let is_named = matches!(
                error,
                ReplicaError::Vbucket(OperationError::BadReplication(_))
            );
            assert!(is_named, "{error}");
            assert_eq!(status.state, ReplicaState::Waiting);
            assert!(sink.is_gone());
            assert_eq!(scene.core.high_seqno(), Seqno(2));
            assert!(!scene.core.is_suspect());
            // The next one is asked for from where it stands.
            scene.says(vec![]).await;
            sink = scene.liar.sinks.lock().pop().expect("a stream");
        }
        let more = batch(vec![marker(3, 3), item(3)]);
        assert!(matches!(sink.offer(more), Offer::Taken));
        scene.settle().await;
        assert_eq!(scene.core.high_seqno(), Seqno(3));
    });
}

/// Requests of a replication that was superseded are answered, too; the answers are nobody's.
#[test]
fn an_answer_finds_the_stream_that_asked_or_nobody() {
    run(2, async |here, _| {
        let mut scene = Scene::new(here).await;
        let ask = |scene: &mut Scene| {
            let mut asked = scene.consumer.look().asked;
            assert_eq!(asked.len(), 1);
            asked.pop().expect("a request")
        };
        let first = ask(&mut scene);
        let source: Arc<dyn Source> = Arc::clone(&scene.liar) as _;
        let second = Following::new(
            VbucketId::FIRST,
            source,
            ("test".into(), "here".into()),
            1 << 20,
        );
        *scene.liar.says.lock() = vec![marker(0, 5), item(1), item(5)];
        scene.follows.begin(Arc::clone(&second), &scene.edge);
        let asked = ask(&mut scene);
        for one in [first, asked] {
            let answer = one.opening.await;
            scene.consumer.answered(one.vbucket, one.attempt, answer);
        }
        scene.settle().await;
        let status = second.status();
        assert_eq!((status.state, status.streams), (ReplicaState::Following, 1));
        assert_eq!(status.received_whole, Seqno(5));
    });
}
