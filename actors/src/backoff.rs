//! Waiting longer after each failure: how long until the next try.
//!
//! Invariant: a pure function of the count of failures and one random number; never less than half of the nominal
//! wait, never more than the nominal wait, which doubles up to a limit.

use std::time::Duration;

/// How long to wait after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Nominal wait after the first failure.
    pub first: Duration,
    /// The longest nominal wait.
    pub longest: Duration,
}

impl Backoff {
    /// For work on the disk: a hiccup costs little, a broken disk is asked every few seconds.
    pub const DISK: Backoff = Backoff {
        first: Duration::from_millis(100),
        longest: Duration::from_secs(10),
    };

    /// The wait after `failures` failures in a row (at least one). `random` spreads those who failed together.
    #[must_use]
    pub fn wait(&self, failures: u32, random: u64) -> Duration {
        let doublings = failures.saturating_sub(1).min(31);
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let nominal = self.first.saturating_mul(factor).min(self.longest);
        let half = nominal / 2;
        let spread = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        let jitter = random.checked_rem(spread.saturating_add(1)).unwrap_or(0);
        half.saturating_add(Duration::from_nanos(jitter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_stay_within_their_limits() {
        let backoff = Backoff::DISK;
        for failures in 1..80u32 {
            let nominal = backoff.first.as_millis() << (failures - 1).min(20);
            let nominal = nominal.min(backoff.longest.as_millis());
            for random in [0, 1, 77_777_777_777, u64::MAX] {
                let wait = backoff.wait(failures, random).as_millis();
                assert!(wait >= nominal / 2 && wait <= nominal, "{failures}: {wait}");
            }
        }
    }
}
