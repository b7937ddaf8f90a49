//! The simulated clock: tokio's paused time, and a wall clock that can be made to jump.
//!
//! Invariant: read on the thread of the simulation only; monotonic time is virtual time and moves only while nothing
//! is left to do. Virtual time has the grain of tokio's timers, one millisecond.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::environment::Clock;

/// What the wall clock of a simulation shows at its start: some day of the year 2025.
const EPOCH_OFFSET: Duration = Duration::from_secs(1_750_000_000);

/// Virtual time. A clone is the same clock.
#[derive(Clone, Debug)]
pub struct SimulatedClock {
    start: Instant,
    /// What the wall clock would have shown at the start.
    epoch_offset: Arc<Mutex<Duration>>,
}

impl SimulatedClock {
    /// A clock that starts now. Called inside a runtime whose time is paused.
    #[must_use]
    pub fn start() -> SimulatedClock {
        SimulatedClock {
            start: Instant::now(),
            epoch_offset: Arc::new(Mutex::new(EPOCH_OFFSET)),
        }
    }

    /// Moves the wall clock forward; monotonic time and timers do not notice.
    pub fn jump_forward(&self, by: Duration) {
        let mut offset = self.epoch_offset.lock();
        *offset = offset.saturating_add(by);
    }

    /// Moves the wall clock back, at most to the epoch; monotonic time and timers do not notice.
    pub fn jump_back(&self, by: Duration) {
        let mut offset = self.epoch_offset.lock();
        *offset = offset.saturating_sub(by);
    }
}

impl Clock for SimulatedClock {
    fn since_epoch(&self) -> Duration {
        self.epoch_offset.lock().saturating_add(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        Instant::now().saturating_duration_since(self.start)
    }
}
