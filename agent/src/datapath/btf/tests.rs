// SPDX-License-Identifier: Apache-2.0
//! BTF made by hand, the running kernel's, and damaged forms of both.

use std::{fs, sync::LazyLock};

use proptest::prelude::*;

use super::*;

static VMLINUX: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read("/sys/kernel/btf/vmlinux").unwrap());

/// Bytes of BTF with these words as types and these strings, the empty one first.
fn btf(types: &[u32], strings: &[&str]) -> Vec<u8> {
    let strings: Vec<u8> = strings.iter().flat_map(|text| text.bytes().chain([0])).collect();
    let types_len = types.len() as u32 * 4;
    let mut bytes = MAGIC.to_ne_bytes().to_vec();
    bytes.extend([VERSION, 0]);
    for word in [HEADER_LEN as u32, 0, types_len, types_len, strings.len() as u32]
        .iter()
        .chain(types)
    {
        bytes.extend(word.to_ne_bytes());
    }
    bytes.extend(strings);
    bytes
}

const fn info(kind: u32, vlen: u32) -> u32 {
    kind << 24 | vlen
}

/// ```c
/// struct outer { int a; union { const struct { int :32; int deep; }; }; int x:3, flag:1; };
/// ```
fn sample() -> Vec<u8> {
    let [outer, a, deep, flag] = [1, 7, 9, 14];
    let types: &[&[u32]] = &[
        // 1: int.
        &[0, info(1, 0), 4, 32],
        // 2: struct outer, whose member offsets hold bit-field sizes.
        &[
            outer,
            info(4, 3) | 1 << 31,
            16,
            a,
            1,
            0,
            0,
            4,
            32,
            flag,
            1,
            0x0100_0063,
        ],
        // 3: the inner struct.
        &[0, info(4, 1), 8, deep, 1, 32],
        // 4: the union.
        &[0, info(5, 1), 8, 0, 5, 0],
        // 5: const 6, which is a typedef of 3.
        &[0, info(10, 0), 6],
        &[0, info(8, 0), 3],
    ];
    btf(&types.concat(), &["", "outer", "a", "deep", "flag"])
}

#[test]
fn fields_are_found_through_anonymous_members_and_modifiers() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let outer = btf.structure("outer").unwrap();
    assert_eq!(btf.bit_offset(outer, "a"), Some(0));
    assert_eq!(btf.bit_offset(outer, "deep"), Some(64));
    assert_eq!(btf.bit_offset(outer, "flag"), Some(0x63));
    assert_eq!(btf.bit_offset(outer, "dee"), None);
    assert_eq!(btf.bit_offset(outer, "deeper"), None);
    assert!(btf.structure("a").is_none());
}

#[test]
fn every_kind_is_stepped_over() {
    for kind in 1..=19 {
        let vlen = if matches!(kind, 4..=6 | 13 | 15 | 19) {
            2
        } else {
            0
        };
        let mut types = vec![0, info(kind, vlen), 0];
        types.resize(3 + trailing_words(kind, vlen as usize).unwrap(), 0);
        types.extend([1, info(4, 0), 0]);
        let bytes = btf(&types, &["", "last"]);
        assert!(
            Btf::parse(&bytes).unwrap().structure("last").is_some(),
            "kind {kind}"
        );
    }
}

#[test]
fn an_unknown_kind_is_named() {
    let bytes = btf(&[0, info(8, 0), 0, 0, info(31, 0), 0], &[""]);
    assert_eq!(Btf::parse(&bytes).err(), Some(BtfError::Kind { id: 2, kind: 31 }));
}

#[test]
fn a_header_of_another_format_or_byte_order_is_refused() {
    let bytes = sample();
    for (at, value) in [(0, !bytes[0]), (2, VERSION + 1)] {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        assert_eq!(Btf::parse(&bytes).err(), Some(BtfError::Header));
    }
    let mut swapped = bytes;
    swapped[..2].reverse();
    assert_eq!(Btf::parse(&swapped).err(), Some(BtfError::Header));
}

#[test]
fn every_proper_prefix_is_refused() {
    let bytes = sample();
    for len in 0..bytes.len() {
        assert!(
            Btf::parse(&bytes[..len]).is_err(),
            "{len} of {} bytes",
            bytes.len()
        );
    }
}

#[test]
fn types_that_contain_each_other_end_the_search() {
    // struct outer { struct 2; struct 2; } with 2 a structure of two of itself, and a typedef of itself.
    let types: &[&[u32]] = &[
        &[1, info(4, 2), 0, 0, 2, 0, 0, 3, 0],
        &[0, info(4, 2), 0, 0, 2, 0, 0, 2, 0],
        &[0, info(8, 0), 3],
    ];
    let bytes = btf(&types.concat(), &["", "outer"]);
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.bit_offset(btf.structure("outer").unwrap(), "a"), None);
}

/// Asks everything that the agent asks; only that it ends without a panic matters.
fn ask(bytes: &[u8]) {
    let Ok(btf) = Btf::parse(bytes) else { return };
    for name in ["outer", "sock", "sock_common"] {
        if let Some(found) = btf.structure(name) {
            for field in ["deep", "sk_err", "skc_v6_rcv_saddr", ""] {
                let _: Option<u32> = btf.bit_offset(found, field);
            }
        }
    }
}

proptest! {
    #[test]
    fn random_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..256)) {
        ask(&bytes);
    }

    #[test]
    fn random_types_do_no_harm(types in prop::collection::vec(prop_oneof![0..20_u32, any::<u32>()], 0..200)) {
        ask(&btf(&types, &["", "outer", "sock"]));
    }

    #[test]
    fn damage_to_a_valid_file_does_no_harm(
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        len in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        ask(&bytes);
        ask(&bytes[..len.index(bytes.len())]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn damage_to_the_kernels_header_does_no_harm(
        damage in prop::collection::vec((0..HEADER_LEN + 64, any::<u8>()), 1..4),
        len in any::<prop::sample::Index>(),
    ) {
        let mut bytes = VMLINUX.clone();
        for (at, value) in damage {
            bytes[at] = value;
        }
        ask(&bytes);
        ask(&bytes[..len.index(bytes.len())]);
    }
}
