// SPDX-License-Identifier: Apache-2.0
//! Alias tables (Walker 1974, Vose 1991): a weighted draw at constant cost. Called by `Frontend::slot_table` for every
//! algorithm but `maglev`.
//!
//! Invariant: integers only, so that every node and every release builds the same table from the same weights.

/// One slot, with indices into the weights in place of backend ids; the meaning of the fields is that of
/// [`nodemesh_abi::Slot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AliasSlot {
    /// Chosen by draws up to `threshold`.
    pub own: u32,
    /// Chosen by the other draws.
    pub alias: u32,
    /// Upper bound, inclusive, of the draws that choose `own`.
    pub threshold: u32,
}

impl AliasSlot {
    const fn certain(index: u32) -> Self {
        Self {
            own: index,
            alias: index,
            threshold: u32::MAX,
        }
    }
}

/// A table with one slot per weight, in which a uniform slot and a uniform draw choose index `i` with probability
/// `weights[i] / sum(weights)`, exact to 2^-32.
///
/// Empty if all weights are 0.
pub fn alias_table(weights: &[u32]) -> Vec<AliasSlot> {
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    if sum == 0 {
        return Vec::new();
    }
    // In units of 1 / (sum * len): a slot holds `sum` of them, a weight brings `weight * len`.
    let mut shares: Vec<u128> = weights
        .iter()
        .map(|weight| u128::from(*weight) * weights.len() as u128)
        .collect();
    let capacity = u128::from(sum);
    let (mut small, mut large): (Vec<usize>, Vec<usize>) =
        (0..weights.len()).partition(|index| shares[*index] < capacity);
    let mut table: Vec<AliasSlot> = (0..weights.len())
        .map(|index| AliasSlot::certain(index as u32))
        .collect();
    while let (Some(poor), Some(rich)) = (small.pop(), large.last().copied()) {
        table[poor] = slot(poor as u32, rich as u32, shares[poor], capacity);
        shares[rich] -= capacity - shares[poor];
        if shares[rich] < capacity {
            large.pop();
            small.push(rich);
        }
    }
    table
}

/// The slot that chooses `own` with probability `share / capacity`, to the nearest 2^-32.
fn slot(own: u32, alias: u32, share: u128, capacity: u128) -> AliasSlot {
    let draws = ((share << 32) + capacity / 2) / capacity;
    match u64::try_from(draws).unwrap_or(u64::MAX).checked_sub(1) {
        None => AliasSlot::certain(alias),
        Some(threshold) => AliasSlot {
            own,
            alias,
            threshold: u32::try_from(threshold).unwrap_or(u32::MAX),
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Probability of each index.
    fn probabilities(table: &[AliasSlot]) -> Vec<f64> {
        let mut sums = vec![0_f64; table.len()];
        for slot in table {
            let own = (f64::from(slot.threshold) + 1.0) / 4_294_967_296.0;
            sums[slot.own as usize] += own;
            sums[slot.alias as usize] += 1.0 - own;
        }
        let len = f64::from(u32::try_from(table.len()).unwrap());
        sums.iter().map(|sum| sum / len).collect()
    }

    #[test]
    fn equal_weights_need_no_alias() {
        let table = alias_table(&[7; 5]);
        assert_eq!(table, (0..5).map(AliasSlot::certain).collect::<Vec<_>>());
    }

    #[test]
    fn nothing_to_choose_from_is_an_empty_table() {
        assert!(alias_table(&[]).is_empty());
        assert!(alias_table(&[0, 0]).is_empty());
    }

    #[test]
    fn a_weight_of_zero_is_never_chosen() {
        let table = alias_table(&[0, 1]);
        assert!(table.iter().all(|slot| slot.own == 1 && slot.alias == 1));
    }

    #[test]
    fn three_to_one_is_exact() {
        let table = alias_table(&[3, 1]);
        assert_eq!(table[0], AliasSlot::certain(0));
        assert_eq!(
            table[1],
            AliasSlot {
                own: 1,
                alias: 0,
                threshold: u32::MAX / 2
            }
        );
    }

    #[test]
    fn a_million_backends_of_extreme_weights_stay_exact() {
        let weights: Vec<u32> = (0..1_000_000)
            .map(|index| if index % 2 == 0 { 1 } else { 65_535 })
            .collect();
        let table = alias_table(&weights);
        let sum: f64 = weights.iter().copied().map(f64::from).sum();
        for (weight, probability) in weights.iter().zip(probabilities(&table)) {
            assert!(
                (f64::from(*weight) / sum - probability).abs() < 2_f64.powi(-40),
                "{weight} {probability}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_table_draws_by_weight(weights in prop::collection::vec(1..=65_535_u32, 1..400)) {
            let table = alias_table(&weights);
            prop_assert_eq!(table.len(), weights.len());
            let sum: f64 = weights.iter().copied().map(f64::from).sum();
            for (weight, probability) in weights.iter().zip(probabilities(&table)) {
                prop_assert!((f64::from(*weight) / sum - probability).abs() < 2_f64.powi(-31));
            }
        }
    }
}
