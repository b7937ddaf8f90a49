//! Which document a mixed load asks for: few are asked for often, as YCSB draws them, spread over all numbers.

use crate::workload::{Random, mix};

/// YCSB's constant.
const THETA: f64 = 0.99;

/// A Zipf distribution over the numbers below a count (Gray et al., "Quickly generating billion-record synthetic
/// databases").
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    count: u64,
    zeta: f64,
    eta: f64,
}

impl Zipf {
    /// Over the numbers below `count`.
    pub(crate) fn below(count: u64) -> Zipf {
        let zeta = |count: u64| {
            (1..=count)
                .map(|rank| (rank as f64).powf(-THETA))
                .sum::<f64>()
        };
        let all = zeta(count);
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - THETA)) / (1.0 - zeta(2) / all);
        Zipf {
            count,
            zeta: all,
            eta,
        }
    }

    /// The next number.
    pub(crate) fn draw(&self, random: &mut Random) -> u64 {
        let uniform = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
        let part = uniform * self.zeta;
        let rank = if part < 1.0 {
            0
        } else if part < 1.0 + 0.5_f64.powf(THETA) {
            1
        } else {
            let base = self.eta * uniform - self.eta + 1.0;
            (self.count as f64 * base.powf(1.0 / (1.0 - THETA))) as u64
        };
        // The ranks lie anywhere, not at the first numbers.
        mix(rank + 1) % self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_are_drawn_often_and_all_may_be() {
        let zipf = Zipf::below(1000);
        let mut random = Random(1);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..100_000 {
            counts[zipf.draw(&mut random) as usize] += 1;
        }
        counts.sort_unstable_by_key(|count| std::cmp::Reverse(*count));
        let most = counts.iter().take(100).sum::<u32>();
        assert!((60_000..80_000).contains(&most), "{most}");
        assert!(counts.iter().filter(|count| **count > 0).count() > 500);
    }
}
