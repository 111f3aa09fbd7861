// SPDX-License-Identifier: Apache-2.0
//! What a value of a former layout means in the present one, for maps whose layout has changed by more than new fields at its end.
//! Named in the table of `shapes`, called by `carry`.
//!
//! Invariant: a door knows the layouts that it was written for and lets nothing else through.

use nodemesh_abi::AffinityValue;
use zerocopy::{FromBytes, Immutable, IntoBytes as _, KnownLayout};

use super::shapes::Layout;

/// `AffinityValue` from version 3 of the ABI on.
#[derive(FromBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Affinity3 {
    backend: u32,
    generation: u32,
    used_ns: u64,
}

/// To which backend a client went.
pub fn affinity(former: Layout, value: &[u8]) -> Option<Vec<u8>> {
    if former.base != 3 {
        return None;
    }
    let (known, _) = Affinity3::read_from_prefix(value).ok()?;
    let value = AffinityValue {
        backend: known.backend,
        generation: known.generation,
        used_ns: known.used_ns,
    };
    Some(value.as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_affinity_of_version_3_keeps_its_backend() {
        let former = Layout { base: 3, since: 3 };
        let bytes = [7_u32.to_ne_bytes(), 2_u32.to_ne_bytes()].concat();
        let bytes = [bytes, 99_u64.to_ne_bytes().to_vec()].concat();
        let value = AffinityValue::read_from_bytes(&affinity(former, &bytes).unwrap()).unwrap();
        assert_eq!((value.backend, value.generation, value.used_ns), (7, 2, 99));
        assert_eq!(affinity(former, &bytes[..15]), None, "too short");
        assert_eq!(affinity(Layout { base: 9, since: 9 }, &bytes), None);
    }
}
