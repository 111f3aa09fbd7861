// SPDX-License-Identifier: Apache-2.0
//! Properties of Maglev tables: full, fair, stable, the same on every node.

use proptest::prelude::*;

use super::*;

/// `count` backends of weight 1.
fn equal(count: u64, seed: u64) -> Vec<(u64, u32)> {
    (0..count).map(|index| (mix(mix(seed) ^ index), 1)).collect()
}

/// The hash of the backend of each slot.
fn owners(backends: &[(u64, u32)], size: u32) -> Vec<u64> {
    maglev_table(backends, size)
        .into_iter()
        .map(|index| backends[index as usize].0)
        .collect()
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

/// Fraction of the slots that change hands when the backend at `removed` goes, times the number of backends.
fn moved_by_removal(backends: &[(u64, u32)], removed: usize, size: u32) -> f64 {
    let before = owners(backends, size);
    let mut rest = backends.to_vec();
    rest.remove(removed);
    let after = owners(&rest, size);
    let moved = before.iter().zip(&after).filter(|(old, new)| old != new).count();
    real(moved) / f64::from(size) * real(backends.len())
}

#[test]
fn there_is_no_table_without_backends_weights_or_slots() {
    assert!(maglev_table(&[], 251).is_empty());
    assert!(maglev_table(&[(1, 0)], 251).is_empty());
    assert!(maglev_table(&[(1, 1)], 0).is_empty());
    assert_eq!(maglev_table(&[(1, 1), (2, 0)], 1), [0]);
}

#[test]
fn sizes_that_are_no_primes_are_filled_too() {
    for size in 1..100 {
        let table = maglev_table(&equal(7, 1), size);
        assert!(
            table.len() == size as usize && table.iter().all(|index| *index < 7),
            "{size}: {table:?}"
        );
    }
}

#[test]
fn removal_moves_few_keys_with_the_default_size() {
    for count in (3..=64).step_by(3) {
        let backends = equal(count, count);
        let moved = moved_by_removal(&backends, count as usize / 2, 16_381);
        assert!(moved <= 2.0, "{count} backends: {moved} / n");
    }
}

#[test]
fn removal_moves_few_keys_of_more_backends_in_a_larger_table() {
    for (count, size) in [(66, 131_071), (100, 131_071), (200, 131_071), (524, 1_048_573)] {
        let backends = equal(count, count);
        let moved = moved_by_removal(&backends, count as usize / 2, size);
        assert!(moved <= 2.0, "{count} backends: {moved} / n");
    }
}

#[test]
fn extreme_weights_do_not_make_it_slow_or_unfair() {
    let mut backends = equal(1_000, 5);
    backends[0].1 = 65_535;
    let table = maglev_table(&backends, 131_071);
    let heaviest = table.iter().filter(|index| **index == 0).count();
    let expected = 131_071.0 * 65_535.0 / (65_535.0 + 999.0);
    assert!(
        (real(heaviest) - expected).abs() <= 0.02 * expected,
        "{heaviest} of {expected}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shares_follow_weights(
        weights in prop::collection::vec(1..=100_u32, 1..=163),
        seed: u64,
    ) {
        let backends: Vec<_> =
            equal(weights.len() as u64, seed).iter().zip(&weights).map(|((hash, _), weight)| (*hash, *weight)).collect();
        let table = maglev_table(&backends, 16_381);
        prop_assert_eq!(table.len(), 16_381);
        let sum: f64 = weights.iter().copied().map(f64::from).sum();
        for (index, weight) in weights.iter().enumerate() {
            let slots = real(table.iter().filter(|slot| **slot == index as u32).count());
            let expected = 16_381.0 * f64::from(*weight) / sum;
            // A slot is the least that shares can differ by.
            prop_assert!((slots - expected).abs() <= (0.02 * expected).max(1.5), "{} of {}", slots, expected);
        }
    }

    #[test]
    fn the_order_of_the_input_does_not_matter(
        weights in prop::collection::vec(1..=1_000_u32, 2..50),
        seed: u64,
        rotation in 1..49_usize,
    ) {
        let mut backends: Vec<_> =
            equal(weights.len() as u64, seed).iter().zip(&weights).map(|((hash, _), weight)| (*hash, *weight)).collect();
        let before = owners(&backends, 4_093);
        let half = rotation % backends.len();
        backends.rotate_left(half);
        backends.swap(0, half);
        prop_assert_eq!(before, owners(&backends, 4_093));
    }
}
