//! W3: random gets of what W2 loaded, in memory, by one thread and by two.
//!
//! A first pass warms up and checks every value. Then passes of one and of two threads take turns, and the median
//! pass of each counts; a last pass per thread count takes the time of every get, which would slow the others.

use std::time::Instant;

use super::Bench;
use super::w2::Loaded;
use crate::results::{Figure, Sample};
use crate::statistics::{Percentiles, ProcessorTime, Summary, nanoseconds};
use crate::workload::{Name, Random};

/// Gets a peer does within one read transaction.
const GETS_PER_READ: usize = 64;
const PASSES: u64 = 3;
const THREADS: [usize; 2] = [1, 2];

/// Measures both thread counts.
pub(crate) fn run(bench: &mut Bench, loaded: &Loaded) {
    check(bench, loaded);
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
fn names(bench: &Bench, loaded: &Loaded, seed: u64) -> (Vec<u64>, Vec<Name>) {
    let mut random = Random(seed);
    let documents = loaded.workload.documents();
    let numbers: Vec<u64> = (0..bench.scale.gets)
        .map(|_| random.next() % documents)
        .collect();
    let names = numbers.iter().map(|&number| loaded.workload.name(number));
    let names = names.collect();
    (numbers, names)
}

fn check(bench: &Bench, loaded: &Loaded) {
    let (numbers, names) = names(bench, loaded, 1);
    let mut checked = numbers.iter();
    loaded.store.get(&names, &mut |value| {
        let expected = loaded.workload.newest_value(*checked.next().unwrap());
        assert_eq!(value, expected, "{}: a wrong value", loaded.column);
    });
    assert!(
        checked.next().is_none(),
        "{}: too few values",
        loaded.column
    );
}

struct Pass {
    /// Gets per second of all threads together.
    rate: f64,
    processor_seconds: f64,
}

fn one_pass(bench: &Bench, loaded: &Loaded, threads: usize, pass: u64) -> Pass {
    let work: Vec<_> = (0..threads as u64)
        .map(|thread| names(bench, loaded, 100 * pass + thread + 5).1)
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
        .map(|thread| names(bench, loaded, 900 + thread).1)
        .collect();
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let timed = |names: &Vec<Name>| {
            let mut latencies = Vec::with_capacity(names.len());
            for some in names.chunks(GETS_PER_READ) {
                let mut before = Instant::now();
                loaded.store.get(some, &mut |value| {
                    std::hint::black_box(value.len());
                    let now = Instant::now();
                    latencies.push(nanoseconds(now - before));
                    before = now;
                });
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
