//! Questions the rows of a table ask of the results: who is best, and by how much.
//!
//! Invariant: a ratio between two is taken within each round, where they took turns.

use super::{number, with_range};
use crate::results::{Measure, Measured, Raw, Results, Sample};
use crate::statistics::Summary;

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Better {
    Higher,
    Lower,
}

/// A figure of a sample.
pub(super) type Pick = fn(&Sample) -> Option<f64>;

pub(super) const AMOUNT: Pick = |sample| Some(sample.amount);
pub(super) const P50: Pick = |sample| sample.latency.map(|latency| latency.p50);
pub(super) const P99: Pick = |sample| sample.latency.map(|latency| latency.p99);
pub(super) const P50_AGAINST_RAW: Pick = |sample| Some(sample.latency?.p50 / sample.raw?.p50_us?);

impl<F: Measure, C: Measured> Results<F, C> {
    /// Median and range as text.
    pub(super) fn text(&self, figure: F, column: C, pick: Pick, unit: &str) -> Option<String> {
        let summary = self.summary(figure, column, pick)?;
        Some(format!("{} {unit}", with_range(summary)))
    }

    /// The same, with whose it is.
    pub(super) fn peer_text(
        &self,
        figure: F,
        pick: Pick,
        unit: &str,
        peer: Option<C>,
    ) -> Option<String> {
        let text = self.text(figure, peer?, pick, unit)?;
        Some(format!("{}: {text}", peer?))
    }

    /// The raw limit as text.
    pub(super) fn raw_text(
        &self,
        figure: F,
        unit: &str,
        pick: impl Fn(&Raw) -> Option<f64>,
    ) -> Option<String> {
        let summary = self.raw(figure, pick)?;
        Some(format!("{} {unit}", number(summary.median)))
    }

    /// The best of those wanted.
    pub(super) fn best(
        &self,
        figure: F,
        pick: Pick,
        better: Better,
        is_wanted: impl Fn(C) -> bool,
    ) -> Option<C> {
        let wanted = self.columns(figure).filter(|&column| is_wanted(column));
        let medians = wanted.filter_map(|column| {
            let summary = self.summary(figure, column, pick)?;
            Some((column, summary.median))
        });
        let best = medians.reduce(|best, other| {
            let is_better = match better {
                Better::Higher => other.1 > best.1,
                Better::Lower => other.1 < best.1,
            };
            if is_better { other } else { best }
        });
        best.map(|(column, _)| column)
    }

    /// One by another, round by round.
    pub(super) fn ratio(&self, figure: F, pick: Pick, one: C, other: Option<C>) -> Option<Summary> {
        let ones = self.samples(figure, one).iter();
        let ratios = ones.zip(self.samples(figure, other?));
        Summary::of(ratios.filter_map(|(one, other)| Some(pick(one)? / pick(other)?)))
    }
}
