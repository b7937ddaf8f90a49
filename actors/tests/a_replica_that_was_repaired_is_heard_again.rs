//! A replica that a panic left suspect gives its stream up when it was repaired, and says on the next one how far it holds
//! prepares, though its source sends nothing more: or a durable write would wait for a word that never comes.
#![cfg(test)]
#![cfg(feature = "testing")]

mod support;

use std::future::ready;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::Mutex;

use messages::replication::{ReplicaError, ReplicaState};
use messages::stream::{
    SnapshotFlags, SnapshotMarker, StreamBatch, StreamEvent, StreamId, StreamOpened,
};
use messages::{ChildName, OperationError};
use piggin_actors::backoff::Backoff;
use piggin_actors::durability::{Driver, DriverConfig};
use piggin_actors::rollback::{RollbackConfig, Rollbacks};
use piggin_actors::store_handle::StoreHandle;
use piggin_actors::stream::consumer::{
    Consumer, ConsumerConfig, Following, Follows, Opening, Source,
};
use piggin_actors::stream::{Acknowledged, Offer, OpenStreamInto, StreamSink};
use piggin_actors::vbucket::{ChangeStep, DirtyVbuckets, VbucketSlot};
use storage::disk::SimulatedDisk;
use storage::{
    CreateOptions, DurabilityLevel, FailoverEntry, Item, KvStore, LogStore, MemoryStore,
    OpenOptions, Operation, Seqno, StorageError, VbucketId, VbucketState, VbucketUuid,
};
use support::durable::{mutation, prepared_as};
use support::{Bench, Setup, become_state, flush_all, id};

/// Sends what it has on the first stream, and nothing on those after it.
#[derive(Debug, Default)]
struct Idle {
    sends: Mutex<Vec<StreamEvent>>,
    streams: Mutex<Vec<(Box<dyn StreamSink>, Acknowledged)>>,
}

impl Idle {
    fn streams(&self) -> usize {
        self.streams.lock().len()
    }

    /// What was acknowledged on the stream of now.
    fn heard(&self) -> Seqno {
        self.streams.lock().last().unwrap().1.prepared()
    }
}

impl Source for Idle {
    fn open(&self, open: OpenStreamInto) -> Opening {
        let mut sink = open.sink;
        let events = std::mem::take(&mut *self.sends.lock());
        let sent = sink.offer(StreamBatch {
            vbucket: id(),
            stream: StreamId(1),
            bytes: 100,
            events,
        });
        assert!(matches!(sent, Offer::Taken));
        self.streams.lock().push((sink, open.acknowledged));
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

/// One item as a snapshot of its own.
fn alone(item: Arc<Item>) -> [StreamEvent; 2] {
    let marker = StreamEvent::SnapshotMarker(Box::new(SnapshotMarker {
        start: item.seqno,
        end: item.seqno,
        flags: SnapshotFlags::MEMORY.with(SnapshotFlags::CHECKPOINT),
        max_visible_seqno: None,
        high_completed_seqno: None,
        high_prepared_seqno: None,
        purge_seqno: None,
    }));
    let event = if matches!(item.operation, Operation::Prepare { .. }) {
        StreamEvent::Prepare(item)
    } else {
        StreamEvent::Mutation(item)
    };
    [marker, event]
}

/// A replica that holds a prepare which waits for its disk, and a document behind it; both in memory only.
struct World {
    bench: Bench,
    store: MemoryStore,
    source: Arc<Idle>,
    following: Arc<Following>,
    edges: [Arc<DirtyVbuckets>; 2],
    driver: Driver,
    consumer: Consumer,
}

impl World {
    fn new() -> World {
        let setup = Setup::default();
        let store = MemoryStore::new(8);
        store.create_vbucket(id(), &setup.record).unwrap();
        let bench = setup.warm();
        become_state(&bench.core, VbucketState::Replica);
        let [decided, edge] = [(); 2].map(|()| Arc::new(DirtyVbuckets::new(8)));
        bench.core.set_durability_edge(Arc::clone(&decided));
        let source = Arc::new(Idle::default());
        let strong = prepared_as(1, "x", DurabilityLevel::PersistToMajority);
        let sends = [alone(strong), alone(mutation(2, "y"))];
        *source.sends.lock() = sends.into_iter().flatten().collect();
        let slots = vec![Arc::new(VbucketSlot::of(Arc::clone(&bench.core)))];
        let follows = Arc::new(Follows::default());
        let of: Arc<dyn Source> = Arc::clone(&source) as _;
        let following = Following::new(id(), of, ("test".into(), "b".into()), 1 << 20);
        follows.begin(Arc::clone(&following), &edge);
        let driver = Driver::new(DriverConfig {
            vbuckets: slots.clone(),
            edge: Arc::clone(&decided),
            consumer: Arc::clone(&edge),
            environment: bench.environment.clone(),
        });
        let consumer = Consumer::new(ConsumerConfig {
            vbuckets: slots,
            edge: Arc::clone(&edge),
            follows,
            rollbacks: no_rollbacks(&bench),
            environment: bench.environment.clone(),
        });
        let mut world = World {
            bench,
            store,
            source,
            following,
            edges: [decided, edge],
            driver,
            consumer,
        };
        world.settle();
        assert_eq!(world.bench.core.high_seqno(), Seqno(2));
        assert_eq!(
            (world.source.streams(), world.source.heard()),
            (1, Seqno(0))
        );
        world
    }

    /// All that somebody was woken for is done.
    fn settle(&mut self) {
        loop {
            let _next = self.driver.look();
            let around = self.consumer.look();
            let is_quiet = around.asked.is_empty();
            for asked in around.asked {
                let answer = asked.opening.now_or_never().unwrap();
                self.consumer.answered(asked.vbucket, asked.attempt, answer);
            }
            if is_quiet && self.edges.iter().all(|edge| edge.is_empty()) {
                return;
            }
        }
    }

    /// The flusher panics with the vbucket's lock in its hand.
    fn flusher_panics(&self) {
        let core = &self.bench.core;
        core.panic_at(ChangeStep::Taken);
        let taken = catch_unwind(AssertUnwindSafe(|| core.take_for_flush(9, usize::MAX)));
        assert!(taken.is_err() && core.is_suspect());
    }

    /// The vbucket is repaired, and the flusher begins anew from what the store holds.
    fn repair(&self, stored: u64) {
        self.bench.core.reconcile();
        self.bench.core.resync(Seqno(stored));
    }

    /// Whoever waits for a time gets there.
    fn later(&mut self) {
        self.bench.clock.advance(Duration::from_secs(60));
        self.settle();
    }
}

fn no_rollbacks(bench: &Bench) -> Rollbacks {
    let disk = Arc::new(SimulatedDisk::new());
    let store = LogStore::create(disk, CreateOptions::default(), OpenOptions::new(1));
    let never = Box::new(|| Err(StorageError::NoStore));
    Rollbacks::new(RollbackConfig {
        name: ChildName::new("rollback"),
        store: StoreHandle::new(store.unwrap(), never),
        environment: bench.environment.clone(),
        backoff: Backoff::DISK,
        step_bytes: 1 << 20,
    })
}

#[test]
fn what_gets_to_the_disk_after_the_repair_is_acknowledged() {
    let mut world = World::new();
    world.flusher_panics();
    world.settle();
    assert_eq!(world.source.streams(), 1, "nobody repaired it yet");
    world.repair(0);
    flush_all(&world.bench.core, &world.store, 9);
    world.settle();
    let status = world.following.status();
    let stale = ReplicaError::Vbucket(OperationError::StaleStream);
    assert_eq!(status.last_error, Some(stale));
    assert_eq!(status.state, ReplicaState::Waiting);
    world.later();
    assert_eq!(
        (world.source.streams(), world.source.heard()),
        (2, Seqno(1))
    );
    assert_eq!(world.following.status().state, ReplicaState::Following);
}

/// Nothing happens after the repair: that the vbucket was repaired is all there is to be told of.
#[test]
fn a_word_that_was_due_while_it_was_suspect_is_said_later() {
    let mut world = World::new();
    let core = Arc::clone(&world.bench.core);
    let take = core.take_for_flush(1, usize::MAX).unwrap();
    let group = [support::batch(take, &support::position(&world.store))];
    for done in world
        .store
        .commit(&group, storage::CommitDurability::Synced)
    {
        done.unwrap();
    }
    core.note_persisted(Seqno(1));
    world.flusher_panics();
    world.settle();
    assert_eq!(
        (world.source.streams(), world.source.heard()),
        (1, Seqno(0))
    );
    core.reconcile();
    world.settle();
    world.later();
    assert_eq!(
        (world.source.streams(), world.source.heard()),
        (2, Seqno(1))
    );
}
