// SPDX-License-Identifier: Apache-2.0
//! The results of the rounds of one measurement.

use std::fmt;

/// One number per round.
#[derive(Clone, Debug, Default)]
pub(super) struct Series(Vec<f64>);

impl Series {
    /// How many.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Adds the result of a round.
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Median over the rounds; NaN without any.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => f64::NAN,
            (len, middle) if len % 2 == 1 => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The number that `share` of all are not above; NaN without any.
    pub(super) fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let is_enough = |rank: &usize| *rank as f64 >= share * sorted.len() as f64;
        let rank = (1..=sorted.len()).find(is_enough);
        rank.map_or(f64::NAN, |rank| sorted[rank - 1])
    }

    /// The largest; NaN without any.
    pub(super) fn largest(&self) -> f64 {
        self.quantile(1.0)
    }

    /// Smallest and largest.
    fn range(&self) -> (f64, f64) {
        let smallest = self.0.iter().copied().fold(f64::INFINITY, f64::min);
        let largest = self.0.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (smallest, largest)
    }

    /// How far the number that is farthest from 1 is from it.
    pub(super) fn largest_from_one(&self) -> f64 {
        self.0.iter().map(|value| (value - 1.0).abs()).fold(0.0, f64::max)
    }

    /// Round by round, this over `base`.
    pub(super) fn over(&self, base: &Self) -> Self {
        self.combined(base, |value, base| value / base)
    }

    /// Round by round, this less `base`.
    pub(super) fn less(&self, base: &Self) -> Self {
        self.combined(base, |value, base| value - base)
    }

    fn combined(&self, other: &Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self(
            self.0
                .iter()
                .zip(&other.0)
                .map(|(one, other)| combine(*one, *other))
                .collect(),
        )
    }

    /// Median and range, each divided by `unit`, with `decimals`.
    pub(super) fn shown(&self, unit: f64, decimals: usize) -> String {
        let (smallest, largest) = self.range();
        format!(
            "{:.decimals$} ({:.decimals$} .. {:.decimals$})",
            self.median() / unit,
            smallest / unit,
            largest / unit
        )
    }
}

impl fmt::Display for Series {
    /// As a ratio.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(1.0, 3))
    }
}

impl FromIterator<f64> for Series {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_and_even_rounds() {
        let median = |values: &[f64]| values.iter().copied().collect::<Series>().median();
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-12);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-12);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn quantiles_are_numbers_of_the_series() {
        let series: Series = (1..=200).map(f64::from).collect();
        for (share, expected) in [(0.5, 100.0), (0.99, 198.0), (1.0, 200.0), (0.0, 1.0)] {
            assert!((series.quantile(share) - expected).abs() < 1e-12, "{share}");
        }
        assert!(Series::default().quantile(0.5).is_nan());
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let series = |values: [f64; 2]| values.into_iter().collect::<Series>();
        let ratio = series([2.0, 30.0]).over(&series([1.0, 10.0]));
        assert_eq!(ratio.shown(1.0, 1), "2.5 (2.0 .. 3.0)");
    }
}
