//! Vbuckets whose streams read from disk: a producer and one reader beside a flusher, writers and maintenance, all on one
//! thread, stepped by hand; and a consumer that has as much room as it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::cores::Cores;
use super::rig::{SHAPE, create};
use super::vbucket::key;
use messages::stream::{
    StreamBatch, StreamEndReason, StreamEvent, StreamId, StreamOptions, StreamRequest,
};
use messages::vbucket::{Set, WriteOptions};
use messages::{ChildName, Generation};
use piggin_actors::backfill::{BackfillConfig, BackfillFigures, BackfillLimits, Backfills};
use piggin_actors::environment::Environment;
use piggin_actors::executor::{Executor, StartError, WakeWorker, Worker, WorkerSpec};
use piggin_actors::guardian::{ExitCause, Guardian, Verdict};
use piggin_actors::stream::{
    Acknowledged, Farewells, Offer, Producer, ProducerConfig, StreamNumbers, StreamSink,
};
use piggin_actors::vbucket::{DirtyVbuckets, VbucketCore, VbucketSlot};
use storage::disk::{Disk, SimulatedDisk};
use storage::{Seqno, VbucketId};

/// Turns in which whatever can come to an end does.
const TURNS: usize = 200;

/// Keeps the workers it is given, for the test to step.
#[derive(Default)]
struct ByHand(Mutex<Vec<Box<dyn Worker>>>);

impl std::fmt::Debug for ByHand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ByHand")
    }
}

impl Executor for ByHand {
    fn start(&self, mut spec: WorkerSpec) -> Result<WakeWorker, StartError> {
        let worker = (spec.make)(Generation(1));
        self.0.lock().push(worker);
        Ok(WakeWorker::new(|| {}))
    }
}

/// Asked about nobody: no worker here panics.
#[derive(Debug)]
struct Unasked;

impl Guardian for Unasked {
    fn child_down(&self, child: &ChildName, _: Generation, cause: ExitCause) -> Verdict {
        panic!("{child}: {cause:?}");
    }

    fn child_up(&self, _: &ChildName, _: Generation) {}
}

/// A consumer of one stream, which checks what comes. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Consumer(Arc<Taken>);

#[derive(Debug, Default)]
struct Taken {
    /// Batches it still has room for.
    room: AtomicUsize,
    is_gone: AtomicBool,
    content: Mutex<Content>,
}

#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) documents: BTreeMap<Vec<u8>, Bytes>,
    pub(crate) end: Option<StreamEndReason>,
    pub(crate) last: Seqno,
    /// Markers that came.
    pub(crate) snapshots: usize,
    bytes: u64,
    awaited: Option<Seqno>,
}

impl Content {
    fn take(&mut self, event: StreamEvent) {
        assert_eq!(self.end, None, "{event:?} behind the end");
        if let Some(seqno) = event.seqno() {
            assert!(seqno > self.last, "{seqno} behind {}", self.last);
            let end = self.awaited.expect("a marker");
            assert!(
                seqno <= end,
                "{seqno} behind the end of its snapshot, {end}"
            );
            self.last = seqno;
            self.awaited = (seqno < end).then_some(end);
        }
        let of = |item: &storage::Item| item.document.key.as_encoded().to_vec();
        match event {
            StreamEvent::SnapshotMarker(marker) => {
                assert_eq!(self.awaited, None, "a snapshot in another");
                self.awaited = Some(marker.end);
                self.snapshots += 1;
            }
            StreamEvent::Mutation(item) => {
                let value = item.document.value.clone();
                self.documents.insert(of(&item), value);
            }
            StreamEvent::Deletion(item) | StreamEvent::Expiration(item) => {
                self.documents.remove(&of(&item));
            }
            StreamEvent::SystemEvent(_) | StreamEvent::SeqnoAdvanced(_) => {}
            StreamEvent::Prepare(item) | StreamEvent::Commit(item) | StreamEvent::Abort(item) => {
                panic!("{item:?} told to one who is no replica");
            }
            StreamEvent::StreamEnd(reason) => self.end = Some(reason),
        }
    }
}

impl Consumer {
    pub(crate) fn with_room(batches: usize) -> Consumer {
        let consumer = Consumer::default();
        consumer.set_room(batches);
        consumer
    }

    pub(crate) fn set_room(&self, batches: usize) {
        self.0.room.store(batches, Ordering::SeqCst);
    }

    /// It takes nothing any more, and that can be seen.
    pub(crate) fn leave(&self) {
        self.0.is_gone.store(true, Ordering::SeqCst);
    }

    pub(crate) fn content(&self) -> parking_lot::MutexGuard<'_, Content> {
        self.0.content.lock()
    }

    /// Bytes it got and did not acknowledge.
    fn unacknowledged(&self) -> u64 {
        std::mem::take(&mut self.content().bytes)
    }
}

impl StreamSink for Consumer {
    fn offer(&mut self, batch: StreamBatch) -> Offer {
        if self.is_gone() {
            return Offer::Gone;
        }
        let takes = |room: usize| room.checked_sub(1);
        let room = &self.0.room;
        if room
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, takes)
            .is_err()
        {
            return Offer::Full(batch);
        }
        let mut content = self.content();
        content.bytes += batch.bytes;
        for event in batch.events {
            content.take(event);
        }
        Offer::Taken
    }

    fn is_gone(&self) -> bool {
        self.0.is_gone.load(Ordering::SeqCst)
    }
}

/// The whole of it.
pub(crate) struct Streamed {
    pub(crate) cores: Cores,
    pub(crate) producer: Producer,
    pub(crate) backfills: Backfills,
    config: ProducerConfig,
    workers: Arc<ByHand>,
    writes: u64,
}

impl Streamed {
    /// Empty vbuckets, and nobody who streams.
    pub(crate) fn new(seed: u64) -> Streamed {
        Streamed::within(
            seed,
            BackfillLimits {
                step_bytes: 1 << 10,
                ..BackfillLimits::default()
            },
        )
    }

    /// The same, with other limits of what is read ahead.
    pub(crate) fn within(seed: u64, limits: BackfillLimits) -> Streamed {
        let disk = SimulatedDisk::new();
        let as_seen: Arc<dyn Disk> = Arc::new(disk.clone());
        let cores = Cores::open(seed, &disk, create(&as_seen), Cores::no_histories());
        let workers = Arc::<ByHand>::default();
        let backfills = Backfills::new(BackfillConfig {
            name: ChildName::new("reader"),
            store: cores.plant.store.clone(),
            environment: Environment {
                executor: Arc::<ByHand>::clone(&workers),
                ..cores.plant.ground.environment()
            },
            limits,
        });
        let guardian: Arc<dyn Guardian> = Arc::new(Unasked);
        backfills.start(1, &guardian).unwrap();
        let slot = |core: &Arc<VbucketCore>| Arc::new(VbucketSlot::of(Arc::clone(core)));
        let config = ProducerConfig {
            vbuckets: cores.all.iter().map(slot).collect(),
            edge: Arc::new(DirtyVbuckets::new(SHAPE.vbuckets)),
            backfills: backfills.clone(),
            numbers: StreamNumbers::default(),
            farewells: Farewells::default(),
        };
        Streamed {
            cores,
            producer: Producer::new(config.clone()),
            backfills,
            config,
            workers,
            writes: 0,
        }
    }

    pub(crate) fn now(&self) -> Duration {
        self.cores.plant.ground.now()
    }

    /// The vbucket that is streamed.
    pub(crate) fn core(&self) -> Arc<VbucketCore> {
        Arc::clone(&self.cores.all[0])
    }

    /// Writes `count` documents of these keys, all of it on disk behind that; most bytes its log held on the way.
    pub(crate) fn write(&mut self, keys: std::ops::Range<u64>, count: usize) -> u64 {
        let core = self.core();
        let mut most = 0;
        for number in keys.cycle().take(count) {
            self.writes += 1;
            core.set(Set {
                key: key(number),
                value: Bytes::from(self.writes.to_le_bytes().repeat(12)),
                options: WriteOptions::default(),
            })
            .unwrap();
            if self.writes.is_multiple_of(10) {
                self.cores.settle("what was written");
            }
            self.turn();
            most = most.max(core.checkpoint_bytes());
        }
        self.cores.settle("what was written");
        self.turn();
        most
    }

    /// Opens a stream of everything; nothing is acknowledged if there is no window.
    pub(crate) fn open(
        &mut self,
        consumer: &Consumer,
        window: Option<u64>,
    ) -> (StreamId, Acknowledged) {
        self.open_numbered(0, consumer, window)
    }

    pub(crate) fn open_numbered(
        &mut self,
        stream_number: u16,
        consumer: &Consumer,
        window: Option<u64>,
    ) -> (StreamId, Acknowledged) {
        let request = StreamRequest {
            stream_number,
            options: StreamOptions {
                buffer_bytes: window,
                ..StreamOptions::default()
            },
            ..StreamRequest::new(self.core().id(), "test")
        };
        let acknowledged = Acknowledged::default();
        let sink = Box::new(consumer.clone());
        let opened = self.producer.open(&request, sink, acknowledged.clone());
        (opened.unwrap().stream, acknowledged)
    }

    /// Everybody does a piece; whether a consumer had no room.
    pub(crate) fn turn(&mut self) -> bool {
        let is_full = self.producer.look();
        self.read();
        self.producer.look() || is_full
    }

    fn read(&self) {
        for worker in self.workers.0.lock().iter_mut() {
            worker.step();
        }
    }

    pub(crate) fn turns(&mut self) {
        for _ in 0..TURNS {
            self.turn();
            self.cores
                .plant
                .ground
                .clock
                .advance(Duration::from_millis(50));
        }
    }

    /// The consumer takes all there is, and acknowledges it.
    pub(crate) fn drain(&mut self, consumer: &Consumer, acknowledged: &Acknowledged) {
        for _ in 0..10 * TURNS {
            consumer.set_room(usize::MAX);
            self.acknowledge(consumer, acknowledged);
            self.producer.offer_again();
            self.turn();
            self.cores
                .plant
                .ground
                .clock
                .advance(Duration::from_millis(50));
        }
    }

    /// The consumer acknowledges what it has.
    pub(crate) fn acknowledge(&self, consumer: &Consumer, acknowledged: &Acknowledged) {
        acknowledged.add(consumer.unacknowledged());
        self.config.edge.mark(VbucketId::FIRST);
    }

    /// The producer panics: its streams go with it, and another life begins.
    pub(crate) fn next_life(&mut self) {
        let next = Producer::new(self.config.clone());
        drop(std::mem::replace(&mut self.producer, next));
    }

    /// What the consumer has is what the vbucket has.
    pub(crate) fn assert_has_all(&self, consumer: &Consumer, keys: std::ops::Range<u64>) {
        let core = self.core();
        let content = consumer.content();
        assert_eq!(content.last, core.high_seqno());
        assert_eq!(content.awaited, None, "the end of a snapshot is missing");
        assert_eq!(content.end, None);
        let of = |number| {
            let key = key(number);
            let found = core.get(&key).unwrap();
            (key.as_encoded().to_vec(), found.value)
        };
        let all: BTreeMap<_, _> = keys.map(of).collect();
        assert_eq!(content.documents, all);
    }

    /// Nothing of any stream is left, and nobody uses the store.
    pub(crate) fn assert_at_base(mut self) {
        // Whoever left is missed at the next look.
        self.config.edge.mark(VbucketId::FIRST);
        self.turns();
        assert!(self.producer.is_empty());
        assert_eq!(self.backfills.figures(), BackfillFigures::default());
        for core in &self.cores.all {
            assert_eq!(core.cursors(), 1, "{}: beside the flusher's", core.id());
        }
        self.cores.settle("the rest");
        let store = self.cores.plant.store.clone();
        // With whatever the others hold of it.
        drop((self.producer, self.workers, self.cores));
        let closed = store.close(|_| Ok(()));
        assert_eq!(closed, Some(Ok(())), "somebody holds the store");
    }
}
