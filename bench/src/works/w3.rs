//! W3: random gets of what W2 loaded, in memory, by one thread and by two.
//!
//! A first pass warms up and checks every value. Then passes of one and of two threads take turns, and the median
//! pass of each counts; a last pass per thread count takes the time of every get, which would slow the others.

use std::time::Instant;

use super::Bench;
use super::w2::Loaded;
use crate::results::{Figure, Sample};
use crate::statistics::{Percentiles, ProcessorTime, Summary, nanoseconds};
use crate::stores::Store;
use crate::workload::{Name, Random, Workload};

/// Gets a peer does within one read transaction.
pub(super) const GETS_PER_READ: usize = 64;
const PASSES: u64 = 3;
const THREADS: [usize; 2] = [1, 2];

/// Measures both thread counts.
pub(crate) fn run(bench: &mut Bench, loaded: &Loaded) {
    check(bench, &*loaded.store, &loaded.workload);
    bench.raw.wait_until_quiet();
    let mut passes = THREADS.map(|_| Vec::new());
    for pass in 0..PASSES {
        for (passes, threads) in passes.iter_mut().zip(THREADS) {
            passes.push(one_pass(bench, loaded, threads, pass));
        }
    }
    for (passes, threads) in passes.iter().zip(THREADS) {
        let median = |pick: fn(&Pass) -> f64| Summary::of(passes.iter().map(pick)).unwrap().median;
        let seconds = median(|pass| pass.processor_seconds);
        let sample = Sample {
            amount: median(|pass| pass.rate),
            operations: bench.scale.gets * threads as u64,
            latency: latencies(bench, loaded, threads),
            bytes_on_disk: None,
            // The readers are threads of their own, and nothing else runs.
            processor: ProcessorTime {
                process: seconds,
                thread: seconds,
            },
            raw: None,
        };
        bench
            .results
            .add(Figure::Get { threads }, loaded.column, sample);
    }
}

/// Names in random order, made outside the time.
pub(super) fn names(bench: &Bench, workload: &Workload, seed: u64) -> (Vec<u64>, Vec<Name>) {
    let mut random = Random(seed);
    let documents = workload.documents();
    let numbers: Vec<u64> = (0..bench.scale.gets)
        .map(|_| random.next() % documents)
        .collect();
    let names = numbers.iter().map(|&number| workload.name(number));
    let names = names.collect();
    (numbers, names)
}

/// Compares what the store holds with what was written last.
pub(super) fn check(bench: &Bench, store: &dyn Store, workload: &Workload) {
    let (numbers, _) = names(bench, workload, 1);
    check_these(store, workload, numbers);
}

/// The same of these documents.
pub(super) fn check_these(
    store: &dyn Store,
    workload: &Workload,
    documents: impl IntoIterator<Item = u64>,
) {
    let numbers: Vec<u64> = documents.into_iter().collect();
    let names: Vec<Name> = numbers
        .iter()
        .map(|&number| workload.name(number))
        .collect();
    let mut checked = numbers.iter();
    store.get(&names, &mut |value| {
        let expected = workload.newest_value(*checked.next().unwrap());
        assert_eq!(value, expected, "a wrong value");
    });
    assert!(checked.next().is_none(), "too few values");
}

struct Pass {
    /// Gets per second of all threads together.
    rate: f64,
    processor_seconds: f64,
}

fn one_pass(bench: &Bench, loaded: &Loaded, threads: usize, pass: u64) -> Pass {
    let work: Vec<_> = (0..threads as u64)
        .map(|thread| names(bench, &loaded.workload, 100 * pass + thread + 5).1)
        .collect();
    let processor = ProcessorTime::now();
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for names in &work {
            scope.spawn(move || {
                let mut bytes = 0;
                for some in names.chunks(GETS_PER_READ) {
                    loaded.store.get(some, &mut |value| bytes += value.len());
                }
                std::hint::black_box(bytes);
            });
        }
    });
    let elapsed = begin.elapsed().as_secs_f64();
    Pass {
        rate: (bench.scale.gets * threads as u64) as f64 / elapsed,
        processor_seconds: ProcessorTime::since(processor).process,
    }
}

fn latencies(bench: &Bench, loaded: &Loaded, threads: usize) -> Option<Percentiles> {
    let work: Vec<_> = (0..threads as u64)
        .map(|thread| names(bench, &loaded.workload, 900 + thread).1)
        .collect();
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let timed = |names: &Vec<Name>| {
            let mut latencies = Vec::with_capacity(names.len());
            for some in names.chunks(GETS_PER_READ) {
                timed_gets(&*loaded.store, some, &mut latencies);
            }
            latencies
        };
        let threads: Vec<_> = work
            .iter()
            .map(|names| scope.spawn(move || timed(names)))
            .collect();
        for thread in threads {
            all.extend(thread.join().unwrap());
        }
    });
    Percentiles::of(&mut all)
}

/// Gets, and takes the time of each.
pub(super) fn timed_gets(store: &dyn Store, names: &[Name], latencies: &mut Vec<u64>) {
    let mut before = Instant::now();
    store.get(names, &mut |value| {
        std::hint::black_box(value.len());
        let now = Instant::now();
        latencies.push(nanoseconds(now - before));
        before = now;
    });
}
