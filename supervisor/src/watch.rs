//! Finds children that are stuck, from nothing but the counts they move.
//!
//! Invariant: pure; it is handed the time and the counts. A child is stuck while its count is odd (it is at work) and
//! does not change. Time during which nobody looked (the whole process stood still) counts for two looks at most, so
//! that a machine that slept does not wake to a tree of stalled children.

use std::collections::BTreeMap;
use std::time::Duration;

use messages::ChildName;

/// What is known of one child at one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Which.
    pub child: ChildName,
    /// The count it moves.
    pub pulse: u64,
    /// How long it may be stuck.
    pub limit: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    pulse: u64,
    stuck_for: Duration,
}

/// Remembers the last look.
#[derive(Debug)]
pub struct StallWatch {
    period: Duration,
    last_look: Option<Duration>,
    seen: BTreeMap<ChildName, Seen>,
}

impl StallWatch {
    /// Looks a limit takes: the shortest limit is overrun by no more than a fifth.
    const LOOKS_A_LIMIT: u32 = 5;

    /// A watch for children of which the least patient has this limit.
    #[must_use]
    pub fn new(shortest_limit: Duration) -> StallWatch {
        StallWatch {
            period: (shortest_limit / StallWatch::LOOKS_A_LIMIT).max(Duration::from_millis(1)),
            last_look: None,
            seen: BTreeMap::new(),
        }
    }

    /// How often to look.
    #[must_use]
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Those that have been stuck for their limit, with the time. One that stays stuck is named again after
    /// another limit.
    #[must_use]
    pub fn look(
        &mut self,
        now: Duration,
        readings: impl IntoIterator<Item = Reading>,
    ) -> Vec<(ChildName, Duration)> {
        let since = now.saturating_sub(self.last_look.replace(now).unwrap_or(now));
        let since = since.min(self.period.saturating_mul(2));
        let mut stalled = Vec::new();
        let mut seen_now = BTreeMap::new();
        for Reading {
            child,
            pulse,
            limit,
        } in readings
        {
            let before = self.seen.get(&child);
            let is_stuck = pulse % 2 == 1 && before.is_some_and(|before| before.pulse == pulse);
            let mut stuck_for = match before {
                Some(before) if is_stuck => before.stuck_for.saturating_add(since),
                _ => Duration::ZERO,
            };
            if is_stuck && stuck_for >= limit {
                stalled.push((child.clone(), stuck_for));
                stuck_for = Duration::ZERO;
            }
            seen_now.insert(child, Seen { pulse, stuck_for });
        }
        self.seen = seen_now;
        stalled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(watch: &mut StallWatch, second: u64, pulse: u64) -> Vec<u64> {
        let reading = Reading {
            child: ChildName::new("it"),
            pulse,
            limit: Duration::from_secs(5),
        };
        let stalled = watch.look(Duration::from_secs(second), [reading]);
        stalled.into_iter().map(|(_, d)| d.as_secs()).collect()
    }

    #[test]
    fn only_a_count_that_stays_odd_is_a_stall() {
        let mut watch = StallWatch::new(Duration::from_secs(5));
        assert_eq!(watch.period(), Duration::from_secs(1));
        for second in 0..20 {
            assert_eq!(look(&mut watch, second, 4), [0; 0], "idle");
        }
        for second in 20..40 {
            assert_eq!(look(&mut watch, second, 2 * second + 1), [0; 0], "busy");
        }
        for second in 40..45 {
            assert_eq!(look(&mut watch, second, 99), [0; 0], "stuck since {second}");
        }
        assert_eq!(look(&mut watch, 45, 99), [5]);
        for second in 46..50 {
            assert_eq!(look(&mut watch, second, 99), [0; 0], "told already");
        }
        assert_eq!(look(&mut watch, 50, 99), [5], "still stuck");
    }

    #[test]
    fn time_nobody_looked_is_not_held_against_anybody() {
        let mut watch = StallWatch::new(Duration::from_secs(5));
        assert_eq!(look(&mut watch, 0, 1), [0; 0]);
        assert_eq!(look(&mut watch, 3600, 1), [0; 0]);
    }
}
