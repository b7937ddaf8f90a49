//! Numbers of which few are frequent and most are rare: the zipfian distribution, as YCSB draws it.
//!
//! The method is that of Gray et al. (1994), "Quickly generating billion-record synthetic databases". Invariant:
//! every number drawn is below the count.

/// Draws ranks: 0 is the most frequent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipfian {
    count: f64,
    last: u64,
    alpha: f64,
    eta: f64,
    zeta: f64,
}

/// How uneven: the value of YCSB.
const THETA: f64 = 0.99;

impl Zipfian {
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    pub(crate) fn new(count: u64) -> Zipfian {
        let zeta: f64 = (1..=count).map(|rank| (rank as f64).powf(-THETA)).sum();
        let zeta_of_two = 1.0 + 2_f64.powf(-THETA);
        let fraction = (2.0 / count as f64).powf(1.0 - THETA);
        Zipfian {
            count: count as f64,
            last: count.saturating_sub(1),
            alpha: 1.0 / (1.0 - THETA),
            eta: (1.0 - fraction) / (1.0 - zeta_of_two / zeta),
            zeta,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates, and the result is brought below the count"
    )]
    pub(crate) fn next(&self, random: &mut fastrand::Rng) -> u64 {
        let uniform = random.f64();
        let scaled = uniform * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + 0.5_f64.powf(THETA) {
            return self.last.min(1);
        }
        let base = (self.eta * uniform - self.eta + 1.0).max(0.0);
        let rank = self.count * base.powf(self.alpha);
        (rank as u64).min(self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_ranks_come_as_often_as_they_should() {
        let zipfian = Zipfian::new(1000);
        let mut random = fastrand::Rng::with_seed(3);
        let mut counts = vec![0_u32; 1000];
        for _ in 0..200_000 {
            counts[usize::try_from(zipfian.next(&mut random)).unwrap()] += 1;
        }
        let zeta: f64 = (1..=1000).map(|rank| f64::from(rank).powf(-THETA)).sum();
        for rank in [0_usize, 1] {
            let exponent = f64::from(u32::try_from(rank + 1).unwrap()).powf(-THETA);
            let expected = 200_000.0 * exponent / zeta;
            let found = f64::from(counts[rank]);
            assert!(
                (found / expected - 1.0).abs() < 0.05,
                "rank {rank}: {found}, not {expected}"
            );
        }
        let tail: u32 = counts[500..].iter().sum();
        assert!(tail > 10_000, "the rare ones come too: {tail}");
    }

    #[test]
    fn small_counts_stay_in_range() {
        let mut random = fastrand::Rng::with_seed(3);
        for count in 1..5 {
            let zipfian = Zipfian::new(count);
            assert!(
                (0..1000).all(|_| zipfian.next(&mut random) < count),
                "{count}"
            );
        }
    }
}
