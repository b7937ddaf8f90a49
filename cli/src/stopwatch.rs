//! The only clock of the command line: how long something took, for the figures it prints and for its patience.

use std::time::{Duration, Instant};

/// Runs from the moment it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stopwatch {
    start: Instant,
}

impl Stopwatch {
    #[expect(
        clippy::disallowed_methods,
        reason = "time as a person at the terminal sees it"
    )]
    pub(crate) fn start() -> Stopwatch {
        Stopwatch {
            start: Instant::now(),
        }
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.start.elapsed()
    }
}

/// So many in such a time; nothing took no time.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn per_second(count: u64, seconds: f64) -> f64 {
    count as f64 / seconds.max(1e-9)
}
