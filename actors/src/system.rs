//! The clock and the randomness of production: the only places that ask the operating system for either.
//!
//! Invariant: everything else is handed a [`Clock`] and a [`Random`], so that a run can be repeated.

use std::fmt;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::environment::{Clock, Random};
use crate::split_mix::SplitMix;

/// The system's clocks.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// The clock; its monotonic time begins now.
    #[must_use]
    pub fn new() -> SystemClock {
        SystemClock { start: now() }
    }
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock::new()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the monotonic clock; everybody else is handed a `Clock`"
)]
fn now() -> Instant {
    Instant::now()
}

impl Clock for SystemClock {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the wall clock; everybody else is handed a `Clock`"
    )]
    fn since_epoch(&self) -> Duration {
        // A clock set before the epoch reads as the epoch.
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        time.unwrap_or_default()
    }

    fn monotonic(&self) -> Duration {
        now().saturating_duration_since(self.start)
    }
}

/// Numbers seeded by the operating system: for identities and jitter, not for secrets.
pub struct SystemRandom {
    numbers: SplitMix,
}

impl SystemRandom {
    /// Seeded anew.
    pub fn new() -> Result<SystemRandom, SystemRandomError> {
        let seed = getrandom::u64().map_err(|error| SystemRandomError {
            what: error.to_string(),
        })?;
        Ok(SystemRandom {
            numbers: SplitMix::new(seed),
        })
    }
}

impl fmt::Debug for SystemRandom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SystemRandom")
    }
}

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        self.numbers.next()
    }
}

/// The operating system gave no random numbers.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers: {what}")]
pub struct SystemRandomError {
    /// What it said.
    pub what: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let clock = SystemClock::new();
        let first = clock.monotonic();
        assert!(clock.monotonic() >= first);
        assert!(clock.since_epoch() > Duration::from_secs(1_600_000_000));
    }

    #[test]
    fn two_sources_give_different_numbers() -> Result<(), SystemRandomError> {
        let (one, other) = (SystemRandom::new()?, SystemRandom::new()?);
        assert_ne!(one.next_u64(), one.next_u64());
        assert_ne!(one.next_u64(), other.next_u64());
        Ok(())
    }
}
