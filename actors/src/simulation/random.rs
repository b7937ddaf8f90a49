//! Numbers of a simulation, in streams with names.
//!
//! Invariant: a stream's numbers depend on the seed and its name alone, so that one consumer that draws more shifts
//! nobody else's numbers.

use std::ops::RangeInclusive;

use crate::environment::Random;
use crate::split_mix::{SplitMix, mix};

/// Numbers from a seed.
#[derive(Debug)]
pub struct SimulatedRandom {
    seed: u64,
    numbers: SplitMix,
}

impl SimulatedRandom {
    /// The numbers of this seed.
    #[must_use]
    pub fn new(seed: u64) -> SimulatedRandom {
        SimulatedRandom {
            seed,
            numbers: SplitMix::new(mix(seed)),
        }
    }

    /// The stream of that name, from its beginning: asked twice, it gives the same numbers twice, however many were
    /// drawn from this one.
    #[must_use]
    pub fn stream(&self, name: &str) -> SimulatedRandom {
        let mut seed = mix(self.seed ^ 0x5eed);
        for byte in name.bytes() {
            seed = mix(seed ^ u64::from(byte)).wrapping_add(1);
        }
        SimulatedRandom::new(seed)
    }

    /// A number below `limit`; 0 if that is 0. The bias of the remainder does not matter here.
    pub fn below(&self, limit: u64) -> u64 {
        self.numbers.next().checked_rem(limit).unwrap_or(0)
    }

    /// A number of the range.
    pub fn between(&self, range: RangeInclusive<u64>) -> u64 {
        let (first, last) = range.into_inner();
        let count = last.saturating_sub(first).saturating_add(1);
        first.saturating_add(self.below(count))
    }

    /// True so many times in a thousand.
    pub fn chance(&self, permille: u64) -> bool {
        self.below(1000) < permille
    }
}

impl Random for SimulatedRandom {
    fn next_u64(&self) -> u64 {
        self.numbers.next()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(random: &SimulatedRandom) -> Vec<u64> {
        (0..8).map(|_| random.next_u64()).collect()
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again() {
        assert_eq!(
            draw(&SimulatedRandom::new(7)),
            draw(&SimulatedRandom::new(7))
        );
        assert_ne!(
            draw(&SimulatedRandom::new(7)),
            draw(&SimulatedRandom::new(8))
        );
    }

    #[test]
    fn drawing_from_one_stream_shifts_no_other() {
        let quiet = SimulatedRandom::new(7);
        let busy = SimulatedRandom::new(7);
        draw(&busy);
        draw(&busy.stream("other"));
        assert_eq!(draw(&quiet.stream("one")), draw(&busy.stream("one")));
        assert_ne!(draw(&quiet.stream("one")), draw(&quiet.stream("two")));
        assert_ne!(draw(&quiet.stream("one")), draw(&quiet));
    }

    #[test]
    fn a_range_is_met_with_both_ends() {
        let random = SimulatedRandom::new(7);
        let mut seen = [0_u32; 5];
        for _ in 0..1000 {
            let number = random.between(3..=5);
            assert!((3..=5).contains(&number));
            seen[usize::try_from(number - 1).unwrap()] += 1;
        }
        assert!(seen[2] > 200 && seen[3] > 200 && seen[4] > 200);
        assert_eq!(random.between(4..=4), 4);
    }
}
