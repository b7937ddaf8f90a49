//! How fast compactions may read and write, all of a bucket together.
//!
//! Invariant: over any time longer than [`IoBudget::BURST`], no more is spent than the rate allows, but for one step of
//! each worker; what was not spent for longer than that is lost, so that a pause is followed by no storm.

use std::time::Duration;

use storage::CompactionStage;

/// Bytes per second, shared by whoever spends from it.
#[derive(Clone, Copy, Debug)]
pub struct IoBudget {
    bytes_per_second: u64,
    /// Everything spent so far is paid for then (monotonic).
    paid_at: Duration,
}

impl IoBudget {
    /// For so long it may be saved up.
    pub const BURST: Duration = Duration::from_millis(50);

    /// A budget of so many bytes per second; zero is no limit.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> IoBudget {
        let paid_at = Duration::ZERO;
        IoBudget {
            bytes_per_second,
            paid_at,
        }
    }

    /// Spends so much; from when on (monotonic) whoever did may go on.
    pub fn spend(&mut self, bytes: u64, now: Duration) -> Duration {
        let nanoseconds = u128::from(bytes).saturating_mul(1_000_000_000);
        let rate = u128::from(self.bytes_per_second);
        let Some(cost) = nanoseconds.checked_div(rate) else {
            return now;
        };
        let cost = Duration::from_nanos(u64::try_from(cost).unwrap_or(u64::MAX));
        let since = self.paid_at.max(now.saturating_sub(IoBudget::BURST));
        self.paid_at = since.saturating_add(cost);
        self.paid_at.max(now)
    }
}

/// How long a run waits for the budget before a step of that stage. Not while it begins: it holds what the sealing of its
/// log shard needs then; what it spends is paid for later.
pub(super) fn rest(stage: CompactionStage, resume_at: Duration, now: Duration) -> Option<Duration> {
    let rest = resume_at.saturating_sub(now);
    (stage != CompactionStage::Start && !rest.is_zero()).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn no_more_is_spent_than_the_rate_allows() {
        let mut budget = IoBudget::new(1_000_000);
        let mut now = at(1000);
        for _ in 0..100 {
            now = budget.spend(100_000, now);
        }
        // Ten megabytes take ten seconds, but for what was saved up.
        assert_eq!(now + IoBudget::BURST, at(1000) + at(10_000));
    }

    #[test]
    fn two_who_share_it_are_half_as_fast_each() {
        let mut budget = IoBudget::new(1_000_000);
        let (mut one, mut other) = (at(1000), at(1000));
        for _ in 0..50 {
            one = budget.spend(100_000, one);
            other = budget.spend(100_000, other);
        }
        assert_eq!(one.max(other) + IoBudget::BURST, at(11_000));
    }

    #[test]
    fn a_pause_is_followed_by_no_storm() {
        let mut budget = IoBudget::new(1_000_000);
        let now = budget.spend(1_000_000, at(1000));
        let later = now + at(60_000);
        let paid = budget.spend(1_000_000, later);
        assert_eq!(paid + IoBudget::BURST, later + at(1000));
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let mut budget = IoBudget::new(0);
        assert_eq!(budget.spend(u64::MAX, at(5)), at(5));
    }

    #[test]
    fn no_run_waits_for_the_budget_while_it_begins() {
        let (now, later) = (at(4000), at(9000));
        assert_eq!(rest(CompactionStage::Start, later, now), None);
        assert_eq!(rest(CompactionStage::Merge, later, now), Some(at(5000)));
        assert_eq!(rest(CompactionStage::Publish, later, now), Some(at(5000)));
        assert_eq!(rest(CompactionStage::Merge, now, now), None);
    }
}
