// SPDX-License-Identifier: Apache-2.0
//! Quantiles of histograms with fixed bounds. Used by the sweep, the admin API and the CLI.
//!
//! Values are taken to be spread evenly within their bucket, as Prometheus' `histogram_quantile` does; the first bucket begins
//! at 0. Invariant: nothing above the last bound is invented, a quantile there is the last bound.

/// The value below which the share `q` (0 to 1) of the observations lies, in the unit of `bounds`. `counts` are the observations
/// per bucket, not cumulative, the bucket without a bound included. `None` without observations.
pub fn quantile(bounds: &[f64], counts: &[u64], q: f64) -> Option<f64> {
    let total: u64 = counts.iter().sum();
    if total == 0 {
        return None;
    }
    let rank = q.clamp(0.0, 1.0) * total as f64;
    let mut below = 0.0;
    let mut lower = 0.0;
    for (&upper, &count) in bounds.iter().zip(counts) {
        let count = count as f64;
        if count > 0.0 && below + count >= rank {
            return Some(lower + (upper - lower) * ((rank - below) / count).clamp(0.0, 1.0));
        }
        below += count;
        lower = upper;
    }
    bounds.last().copied()
}

/// The same for a [`nodemesh_abi::traffic::Histogram`], whose last slot is a sum; nanoseconds or bytes.
pub fn of_slots(bounds: &[u64], slots: &[u64], q: f64) -> Option<u64> {
    let bounds: Vec<f64> = bounds.iter().map(|bound| *bound as f64).collect();
    let counts = slots.get(..=bounds.len())?;
    #[expect(
        clippy::cast_sign_loss,
        reason = "a quantile lies between 0 and the last bound"
    )]
    quantile(&bounds, counts, q).map(|value| value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spread_evenly_within_their_bucket() {
        let bounds = [1.0, 2.0, 4.0];
        let near = |value: Option<f64>, expected: f64| {
            let value = value.expect("observations");
            assert!((value - expected).abs() < 1e-9, "{value} is not {expected}");
        };
        near(quantile(&bounds, &[10, 0, 0, 0], 0.5), 0.5);
        near(quantile(&bounds, &[0, 0, 10, 0], 0.5), 3.0);
        near(quantile(&bounds, &[5, 5, 0, 0], 0.5), 1.0);
        near(quantile(&bounds, &[5, 0, 5, 0], 0.75), 3.0);
        near(quantile(&bounds, &[1, 0, 0, 99], 0.5), 4.0);
        near(quantile(&bounds, &[0, 3, 0, 0], 0.0), 1.0);
        near(quantile(&bounds, &[0, 3, 0, 0], 1.0), 2.0);
    }

    #[test]
    fn nothing_observed_has_no_quantile() {
        assert_eq!(quantile(&[1.0], &[0, 0], 0.5), None);
        assert_eq!(quantile(&[], &[], 0.5), None);
    }

    #[test]
    fn the_sum_of_a_row_is_no_bucket() {
        assert_eq!(of_slots(&[10, 20], &[4, 0, 0, 1_000_000], 0.5), Some(5));
        assert_eq!(of_slots(&[10, 20], &[0, 0, 0, 7], 0.5), None);
        assert_eq!(
            of_slots(&[10, 20], &[1], 0.5),
            None,
            "not a histogram over these bounds"
        );
    }
}
