//! Latencies, summaries over rounds, and the processor time used meanwhile.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Latencies of one measurement, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Percentiles {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) max: f64,
}

impl Percentiles {
    /// Of these nanoseconds; `None` when there are none.
    pub(crate) fn of(nanoseconds: &mut [u64]) -> Option<Percentiles> {
        nanoseconds.sort_unstable();
        let last = nanoseconds.len().checked_sub(1)?;
        let at = |part: f64| nanoseconds[(last as f64 * part).round() as usize] as f64 / 1e3;
        Some(Percentiles {
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: at(1.0),
        })
    }
}

/// Nanoseconds of a duration that fits 64 bits, as every measured one does.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap()
}

/// Median and range of one figure over the rounds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Summary {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Summary {
    /// Of these figures; `None` when there are none.
    pub(crate) fn of(figures: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Summary {
            median,
            least,
            most,
        })
    }

    /// Each figure twice.
    pub(crate) fn doubled(self) -> Summary {
        Summary {
            median: self.median * 2.0,
            least: self.least * 2.0,
            most: self.most * 2.0,
        }
    }
}

/// Processor seconds: of the whole process, and of the thread that asks.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProcessorTime {
    pub(crate) process: f64,
    pub(crate) thread: f64,
}

impl ProcessorTime {
    /// Takes more of it in.
    pub(crate) fn add(&mut self, more: ProcessorTime) {
        self.process += more.process;
        self.thread += more.thread;
    }

    /// Used up to now.
    pub(crate) fn now() -> ProcessorTime {
        let seconds = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
        };
        ProcessorTime {
            process: seconds(ClockId::ProcessCPUTime),
            thread: seconds(ClockId::ThreadCPUTime),
        }
    }

    /// Used since `earlier`, which the same thread asked for.
    pub(crate) fn since(earlier: ProcessorTime) -> ProcessorTime {
        let now = ProcessorTime::now();
        ProcessorTime {
            process: now.process - earlier.process,
            thread: now.thread - earlier.thread,
        }
    }
}
