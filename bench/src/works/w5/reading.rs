//! W5's readers: single gets, and scans of one vbucket each, while all vbuckets are compacted one after the other, and
//! while none is.
//!
//! Before each of the two, some documents are overwritten and sealed, so that there is something to compact and both
//! read segments as many. Idle and compacting take turns. The compaction goes at full speed, without a budget, on a thread
//! that gives way to others, as a bucket's does.

use std::time::Instant;

use super::overwrite::BATCH;
use super::{Samples, give_way, number};
use crate::results::{Figure, Read, Sample};
use crate::statistics::{Percentiles, ProcessorTime, nanoseconds};
use crate::stores::{Column, Durability, Piggin, Store};
use crate::workload::{Random, Workload};
use crate::works::{Bench, w3};

const PASSES: u64 = 2;
/// Of the documents, overwritten before each pass: one in so many.
const OVERWRITTEN: u64 = 20;
/// Scans of every vbucket while nothing is compacted.
const IDLE_SCANS: u64 = 5;

/// What one kind of reading came to, in one of the two states.
#[derive(Default)]
struct Reading {
    latencies: Vec<u64>,
    seconds: f64,
    processor: ProcessorTime,
}

/// Measures gets and scans.
pub(super) fn run(bench: &mut Bench, store: &Piggin, workload: &mut Workload) -> Samples {
    bench.raw.wait_until_quiet();
    let (_, names) = w3::names(bench, workload, 7);
    let mut chunks = names.chunks(w3::GETS_PER_READ).cycle();
    let get = |latencies: &mut Vec<u64>| {
        w3::timed_gets(store, chunks.next().unwrap(), latencies);
    };
    let idle_gets = bench.scale.gets / w3::GETS_PER_READ as u64;
    let mut samples = of(bench, store, workload, Read::Get, idle_gets, get);
    let mut vbuckets = (0..bench.vbuckets).cycle();
    let scan = |latencies: &mut Vec<u64>| {
        let begin = Instant::now();
        let mut bytes = 0;
        store.scan(vbuckets.next().unwrap(), &mut |found| {
            bytes += found.key.len() + found.value.len();
        });
        std::hint::black_box(bytes);
        latencies.push(nanoseconds(begin.elapsed()));
    };
    let idle_scans = IDLE_SCANS * u64::from(bench.vbuckets);
    samples.extend(of(bench, store, workload, Read::Scan, idle_scans, scan));
    w3::check(bench, store, workload);
    samples
}

fn of(
    bench: &Bench,
    store: &Piggin,
    workload: &mut Workload,
    what: Read,
    idle_reads: u64,
    mut read: impl FnMut(&mut Vec<u64>),
) -> Samples {
    let (mut idle, mut compacting) = (Reading::default(), Reading::default());
    for pass in 0..PASSES {
        overwrite_some(store, workload, pass);
        // What was just sealed is read for the first time.
        read(&mut Vec::new());
        idle.take(|latencies| (0..idle_reads).for_each(|_| read(latencies)));
        compacting.take(|latencies| while_compacting(store, bench.vbuckets, || read(latencies)));
    }
    let sample = |reading: Reading, is_compacting| {
        let figure = Figure::Read {
            what,
            is_compacting,
        };
        (figure, Column::PIGGIN, reading.sample())
    };
    vec![sample(idle, false), sample(compacting, true)]
}

fn overwrite_some(store: &Piggin, workload: &mut Workload, seed: u64) {
    let mut random = Random(seed + 70);
    let documents = workload.documents();
    for _ in 0..documents / OVERWRITTEN / BATCH as u64 + 1 {
        let first = random.next() % (documents - BATCH as u64);
        let some = first..first + BATCH as u64;
        store.write(workload.batch(some), Durability::Buffered);
    }
    store.sync();
    store.settle();
}

/// Reads over and over until every vbucket was compacted.
fn while_compacting(store: &Piggin, vbuckets: u16, mut read: impl FnMut()) {
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            give_way();
            for vbucket in 0..vbuckets {
                let mut step = store.compaction(vbucket);
                while step() {}
            }
        });
        while !compacting.is_finished() {
            read();
        }
    });
}

impl Reading {
    fn take(&mut self, work: impl FnOnce(&mut Vec<u64>)) {
        let processor = ProcessorTime::now();
        let begin = Instant::now();
        work(&mut self.latencies);
        self.seconds += begin.elapsed().as_secs_f64();
        self.processor.add(ProcessorTime::since(processor));
    }

    fn sample(mut self) -> Sample {
        let reads = self.latencies.len() as u64;
        Sample {
            operations: reads,
            latency: Percentiles::of(&mut self.latencies),
            processor: self.processor,
            ..number(reads as f64 / self.seconds, None)
        }
    }
}
