//! Streams: from disk and from memory to a recipient, how soon a set is delivered, and what streams cost who writes.
//!
//! The consumer is an actor on an arbiter of its own that counts; it acknowledges nothing, so its mailbox alone holds the
//! producer up.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use actix::{Actor, Addr, Arbiter, Context, Handler, Message, Recipient, System};
use futures_executor::block_on;
use messages::stream::{
    OpenStream, StreamBatch, StreamEvent, StreamFlags, StreamOptions, StreamRequest,
};
use storage::VbucketId;

use crate::bucket::contestants::{Contestant, Ours, Subject};
use crate::bucket::meter::{Meter, Pass};
use crate::bucket::{BucketBench, BucketFigure, Contender, VALUE_LENGTH};
use crate::results::Sample;
use crate::statistics::ProcessorTime;
use crate::stores::{Background, Column, Durability, open};
use crate::workload::Pool;
use crate::works::remove;

/// Writers beside the streams.
const WRITERS: u64 = 2;
/// Live streams beside the writers.
const LIVE: u64 = 4;
/// Streams of each vbucket whose memory is compared with that of one.
const MANY: u64 = 10;
/// Sets that are awaited one by one.
const SINGLE: u64 = 2_000;

pub(crate) fn run(bench: &mut BucketBench, round: usize) {
    let ours = bench.ours();
    let Contender::Bucket { vbuckets } = ours else {
        return;
    };
    let pool = Pool::new();
    let place = bench.place(ours);
    from_disk(bench, ours, &place, vbuckets, &pool, round);
    from_memory(bench, ours, &place, vbuckets, &pool);
    delivery(bench, ours, &place, vbuckets, &pool);
    memory(bench, ours, &place, vbuckets, &pool);
    beside_writers(bench, ours, &place, vbuckets, &pool, round);
    remove(&place);
}

/// Everything of a bucket that was just opened, beside a scan by the storage alone.
fn from_disk(
    bench: &mut BucketBench,
    ours: Contender,
    place: &Path,
    vbuckets: u16,
    pool: &Pool,
    round: usize,
) {
    let documents = bench.scale.documents;
    let bucket = Ours::create(place, vbuckets);
    bucket.load(0..documents, pool, VALUE_LENGTH);
    bucket.close();
    let mut turns = [ours, Contender::Storage];
    turns.rotate_left(round % 2);
    for turn in turns {
        let mut passes = Vec::new();
        // The first is for the caches.
        for _ in 0..2 {
            bench.storage.raw.wait_until_quiet();
            passes.push(match turn {
                Contender::Storage => scanned(place, vbuckets, documents),
                _ => {
                    let bucket = Ours::open(place);
                    let pass = streamed(&bucket, vbuckets, documents);
                    bucket.close();
                    pass
                }
            });
        }
        let sample = passes.pop().expect("two passes").sample(None, None);
        bench.results.add(BucketFigure::Backfill, turn, sample);
    }
    remove(place);
}

fn scanned(place: &Path, vbuckets: u16, documents: u64) -> Pass {
    let store = open(Column::PIGGIN, place, vbuckets, Background::Stopped);
    let pass = timed(documents, || {
        let mut found = 0;
        for vbucket in 0..vbuckets {
            store.scan(vbucket, &mut |_| found += 1);
        }
        assert_eq!(found, documents);
    });
    store.close();
    pass
}

fn streamed(bucket: &Ours, vbuckets: u16, documents: u64) -> Pass {
    let consumer = Consumer::start();
    let pass = timed(documents, || {
        consumer.open(bucket, vbuckets, "all", StreamFlags::TO_LATEST);
        consumer.wait_for_ends(u64::from(vbuckets));
    });
    assert_eq!(consumer.documents(), documents);
    pass
}

/// What is in the checkpoints, beside a channel of as many handles.
fn from_memory(bench: &mut BucketBench, ours: Contender, place: &Path, vbuckets: u16, pool: &Pool) {
    // Few enough that no checkpoint is full: all of it is still in memory.
    let documents = u64::from(vbuckets) * 2_000;
    let bucket = Ours::create(place, vbuckets);
    bucket.load(0..documents, pool, VALUE_LENGTH);
    let pass = streamed(&bucket, vbuckets, documents);
    let figure = BucketFigure::MemoryStream;
    bench.results.add(figure, ours, pass.sample(None, None));
    bucket.close();
    remove(place);
    let items: Vec<Arc<u64>> = (0..documents).map(Arc::new).collect();
    let pass = timed(documents, || {
        let (to, from) = crossbeam_channel::bounded::<Arc<u64>>(1024);
        std::thread::scope(|scope| {
            let taken = scope.spawn(move || from.iter().count() as u64);
            for item in &items {
                to.send(Arc::clone(item)).unwrap();
            }
            drop(to);
            assert_eq!(taken.join().unwrap(), documents);
        });
    });
    let sample = pass.sample(None, None);
    bench.results.add(figure, Contender::Channel, sample);
}

/// From a set to its delivery, one at a time, beside an empty message to another arbiter and its answer.
fn delivery(bench: &mut BucketBench, ours: Contender, place: &Path, vbuckets: u16, pool: &Pool) {
    let bucket = Ours::create(place, vbuckets);
    let consumer = Consumer::start();
    consumer.open(&bucket, vbuckets, "one", StreamFlags::FROM_LATEST);
    let mut meter = Meter::new(1);
    let pass = timed_meter(&mut meter, |meter| {
        for document in 0..SINGLE {
            let subject = Subject::of(document);
            let value = pool.value(document, 1, VALUE_LENGTH);
            let set = meter.begin();
            block_on(bucket.set(&subject, value, Durability::Buffered));
            consumer.wait_for_documents(document + 1);
            meter.end(set);
        }
    });
    let figure = BucketFigure::Delivery;
    bench.results.add(figure, ours, pass.sample(None, None));
    let mut meter = Meter::new(1);
    let pass = timed_meter(&mut meter, |meter| {
        for _ in 0..SINGLE {
            let message = meter.begin();
            block_on(consumer.address.send(Empty)).unwrap();
            meter.end(message);
        }
    });
    let sample = pass.sample(None, None);
    bench.results.add(figure, Contender::EmptyMessage, sample);
    drop(consumer);
    bucket.close();
    remove(place);
}

/// Most bytes of items and of what was read for streams, while one stream or ten of each vbucket read all from disk.
fn memory(bench: &mut BucketBench, ours: Contender, place: &Path, vbuckets: u16, pool: &Pool) {
    let documents = bench.scale.documents / 10;
    let bucket = Ours::create(place, vbuckets);
    bucket.load(0..documents, pool, VALUE_LENGTH);
    bucket.close();
    for (contender, streams) in [(Contender::OneStream, 1), (ours, MANY)] {
        let bucket = Ours::open(place);
        let consumer = Consumer::start();
        let processor = ProcessorTime::now();
        for stream in 0..streams {
            consumer.open(
                &bucket,
                vbuckets,
                &format!("{stream}"),
                StreamFlags::TO_LATEST,
            );
        }
        let mut most = 0;
        while consumer.ends() < u64::from(vbuckets) * streams {
            most = most.max(bucket.0.statistics().memory.bytes);
        }
        let sample = Sample {
            amount: most as f64,
            operations: documents * streams,
            latency: None,
            bytes_on_disk: None,
            processor: ProcessorTime::since(processor),
            raw: None,
        };
        bench
            .results
            .add(BucketFigure::StreamsMemory, contender, sample);
        bucket.close();
    }
    remove(place);
}

/// Sets in memory beside live streams of everything, and beside none.
fn beside_writers(
    bench: &mut BucketBench,
    ours: Contender,
    place: &Path,
    vbuckets: u16,
    pool: &Pool,
    round: usize,
) {
    let documents = bench.scale.documents / 2;
    let mut turns = [(ours, LIVE), (Contender::NoStreams, 0)];
    turns.rotate_left(round % 2);
    for (contender, live) in turns {
        bench.storage.raw.wait_until_quiet();
        let bucket = Ours::create(place, vbuckets);
        let consumers: Vec<Consumer> = (0..live)
            .map(|number| {
                let consumer = Consumer::start();
                let name = format!("live {number}");
                consumer.open(&bucket, vbuckets, &name, StreamFlags::FROM_LATEST);
                consumer
            })
            .collect();
        let pass = Pass::of_threads(WRITERS, 64, |writer, meter| {
            for document in (writer..documents).step_by(WRITERS as usize) {
                let subject = Subject::of(document);
                let value = pool.value(document, 1, VALUE_LENGTH);
                let set = meter.begin();
                block_on(bucket.set(&subject, value, Durability::Buffered));
                meter.end(set);
            }
        });
        for consumer in &consumers {
            consumer.wait_for_documents(documents);
        }
        drop(consumers);
        let figure = BucketFigure::SetStreamed;
        bench
            .results
            .add(figure, contender, pass.sample(None, None));
        bucket.close();
        remove(place);
    }
}

fn timed(operations: u64, work: impl FnOnce()) -> Pass {
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    work();
    let seconds = begin.elapsed().as_secs_f64();
    let mut pass = Pass::of_meters([], seconds, ProcessorTime::since(processor));
    pass.operations = operations;
    pass
}

fn timed_meter(meter: &mut Meter, work: impl FnOnce(&mut Meter)) -> Pass {
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    work(meter);
    let seconds = begin.elapsed().as_secs_f64();
    let meter = std::mem::replace(meter, Meter::new(1));
    Pass::of_meters([meter], seconds, ProcessorTime::since(processor))
}

/// A consumer that counts, on an arbiter of its own.
struct Consumer {
    counted: Arc<Counted>,
    address: Addr<Counter>,
    arbiter: Arbiter,
    _system: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Counted {
    documents: AtomicU64,
    ends: AtomicU64,
    ended: Mutex<()>,
    has_ended: Condvar,
}

struct Counter(Arc<Counted>);

#[derive(Message)]
#[rtype(result = "()")]
struct Empty;

impl Actor for Counter {
    type Context = Context<Counter>;
}

impl Handler<Empty> for Counter {
    type Result = ();

    fn handle(&mut self, _: Empty, _: &mut Context<Counter>) {}
}

impl Handler<StreamBatch> for Counter {
    type Result = ();

    fn handle(&mut self, batch: StreamBatch, _: &mut Context<Counter>) {
        let (mut documents, mut ends) = (0, 0);
        for event in &batch.events {
            match event {
                StreamEvent::Mutation(_) => documents += 1,
                StreamEvent::StreamEnd(_) => ends += 1,
                _ => {}
            }
        }
        self.0.documents.fetch_add(documents, Ordering::Release);
        if ends > 0 {
            let _ended = self.0.ended.lock().unwrap();
            self.0.ends.fetch_add(ends, Ordering::Release);
            self.0.has_ended.notify_all();
        }
    }
}

impl Consumer {
    fn start() -> Consumer {
        // An arbiter needs a System around it; this one lives as long as its arbiter.
        let (to, from) = std::sync::mpsc::channel();
        let system = std::thread::spawn(move || {
            let system = System::new();
            let arbiter = system.block_on(async { Arbiter::new() });
            let counted = Arc::<Counted>::default();
            let counter = Counter(Arc::clone(&counted));
            let address = Counter::start_in_arbiter(&arbiter.handle(), |context| {
                context.set_mailbox_capacity(1024);
                counter
            });
            to.send((counted, address, arbiter, System::current()))
                .unwrap();
            system.run().unwrap();
        });
        let (counted, address, arbiter, _) = from.recv().unwrap();
        Consumer {
            counted,
            address,
            arbiter,
            _system: Some(system),
        }
    }

    fn open(&self, bucket: &Ours, vbuckets: u16, name: &str, flags: StreamFlags) {
        for number in 0..vbuckets {
            let id = VbucketId::new(number).unwrap();
            let to: Recipient<StreamBatch> = self.address.clone().recipient();
            let request = StreamRequest {
                flags,
                options: StreamOptions {
                    buffer_bytes: None,
                    ..StreamOptions::default()
                },
                ..StreamRequest::new(id, name)
            };
            let producer = bucket.0.producer(id).unwrap();
            let opened = block_on(producer.send(OpenStream { request, to }));
            opened.unwrap().unwrap();
        }
    }

    fn documents(&self) -> u64 {
        self.counted.documents.load(Ordering::Acquire)
    }

    fn ends(&self) -> u64 {
        self.counted.ends.load(Ordering::Acquire)
    }

    fn wait_for_documents(&self, documents: u64) {
        while self.documents() < documents {
            std::thread::yield_now();
        }
    }

    /// Without taking a core's time from those who stream.
    fn wait_for_ends(&self, ends: u64) {
        let mut ended = self.counted.ended.lock().unwrap();
        while self.ends() < ends {
            ended = self.counted.has_ended.wait(ended).unwrap();
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.arbiter.stop();
    }
}
