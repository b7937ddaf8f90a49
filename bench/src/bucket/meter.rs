//! Several threads at once, timed: how many operations, how long some of them took, and the processor time.
//!
//! Only one operation in some is timed where taking the time would cost as much as the operation.

use std::sync::Barrier;
use std::time::Instant;

use crate::results::{Raw, Sample};
use crate::statistics::{Percentiles, ProcessorTime, nanoseconds};

/// What one thread, or task, did.
#[derive(Debug)]
pub(crate) struct Meter {
    every: u64,
    operations: u64,
    latencies: Vec<u64>,
}

impl Meter {
    /// Times one operation in `every`.
    pub(crate) fn new(every: u64) -> Meter {
        Meter {
            every,
            operations: 0,
            latencies: Vec::new(),
        }
    }

    /// An operation begins.
    pub(crate) fn begin(&mut self) -> Option<Instant> {
        self.operations += 1;
        self.operations
            .is_multiple_of(self.every)
            .then(Instant::now)
    }

    /// It is done.
    pub(crate) fn end(&mut self, begin: Option<Instant>) {
        if let Some(begin) = begin {
            self.latencies.push(nanoseconds(begin.elapsed()));
        }
    }

    /// Operations begun so far.
    pub(crate) fn operations(&self) -> u64 {
        self.operations
    }
}

/// What all of them did.
#[derive(Debug)]
pub(crate) struct Pass {
    pub(crate) operations: u64,
    pub(crate) seconds: f64,
    pub(crate) latencies: Vec<u64>,
    pub(crate) processor: ProcessorTime,
}

impl Pass {
    /// Of threads that begin at once.
    pub(crate) fn of_threads(
        threads: u64,
        every: u64,
        work: impl Fn(u64, &mut Meter) + Sync,
    ) -> Pass {
        let ready = Barrier::new(threads as usize);
        let one = |thread| {
            let mut meter = Meter::new(every);
            ready.wait();
            let processor = ProcessorTime::now();
            let begin = Instant::now();
            work(thread, &mut meter);
            let end = Instant::now();
            let seconds = ProcessorTime::since(processor).thread;
            (meter, seconds, begin, end)
        };
        std::thread::scope(|scope| {
            let one = &one;
            let processor = ProcessorTime::now();
            let running: Vec<_> = (0..threads)
                .map(|thread| scope.spawn(move || one(thread)))
                .collect();
            let done = running.into_iter().map(|thread| thread.join().unwrap());
            let done: Vec<_> = done.collect();
            let processor = ProcessorTime {
                process: ProcessorTime::since(processor).process,
                thread: done.iter().map(|(_, seconds, ..)| seconds).sum(),
            };
            let begin = done.iter().map(|&(.., begin, _)| begin).min().unwrap();
            let end = done.iter().map(|&(.., end)| end).max().unwrap();
            let meters = done.into_iter().map(|(meter, ..)| meter);
            Pass::of_meters(meters, (end - begin).as_secs_f64(), processor)
        })
    }

    /// Of meters that ran at the same time.
    pub(crate) fn of_meters(
        meters: impl IntoIterator<Item = Meter>,
        seconds: f64,
        processor: ProcessorTime,
    ) -> Pass {
        let mut pass = Pass {
            operations: 0,
            seconds,
            latencies: Vec::new(),
            processor,
        };
        for meter in meters {
            pass.operations += meter.operations;
            pass.latencies.extend(meter.latencies);
        }
        pass
    }

    /// As a sample.
    pub(crate) fn sample(mut self, bytes_on_disk: Option<u64>, raw: Option<Raw>) -> Sample {
        Sample {
            amount: self.operations as f64 / self.seconds,
            operations: self.operations,
            latency: Percentiles::of(&mut self.latencies),
            bytes_on_disk,
            processor: self.processor,
            raw,
        }
    }
}

/// The one in the middle, by rate.
pub(crate) fn median(mut passes: Vec<Pass>) -> Pass {
    let rate = |pass: &Pass| pass.operations as f64 / pass.seconds;
    passes.sort_by(|one, other| rate(one).total_cmp(&rate(other)));
    let middle = passes.len() / 2;
    passes.swap_remove(middle)
}
