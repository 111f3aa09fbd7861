// SPDX-License-Identifier: Apache-2.0
//! Reads from the running kernel's BTF where the fields of `struct sock` are. Called once, by the loader.
//!
//! Invariant: either every offset is known or the error names the field that is not.

use btf_rs::{Btf, BtfType as _, Member, Struct, Type};
use nodemesh_abi::SockOffsets;

/// Why the offsets could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// The BTF of the kernel is not there or not valid.
    #[error(
        "cannot read the kernel's type information at {path}: {source}; the kernel must have CONFIG_DEBUG_INFO_BTF"
    )]
    Btf {
        /// Where it was looked for.
        path: &'static str,
        /// What went wrong.
        source: btf_rs::Error,
    },
    /// A structure or field does not exist in this kernel.
    #[error("this kernel has no {0}, which the programs read")]
    Missing(&'static str),
}

/// The kernel's own BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Reads the offsets of the running kernel.
pub fn sock_offsets() -> Result<SockOffsets, OffsetError> {
    let btf = Btf::from_file(VMLINUX).map_err(|source| OffsetError::Btf {
        path: VMLINUX,
        source,
    })?;
    let sock = structure(&btf, "sock")?;
    let common = structure(&btf, "sock_common")?;
    let in_sock = |name| field(&btf, &sock, name);
    // `sock` begins with its `sock_common`.
    let in_common = |name| field(&btf, &common, name);
    Ok(SockOffsets {
        err: in_sock("sk_err")?,
        family: in_common("skc_family")?,
        num: in_common("skc_num")?,
        rcv_saddr: in_common("skc_rcv_saddr")?,
        v6_rcv_saddr: in_common("skc_v6_rcv_saddr")?,
    })
}

fn structure(btf: &Btf, name: &'static str) -> Result<Struct, OffsetError> {
    let types = btf
        .resolve_types_by_name(name)
        .map_err(|_| OffsetError::Missing(name))?;
    types
        .into_iter()
        .find_map(|found| {
            if let Type::Struct(found) = found {
                Some(found)
            } else {
                None
            }
        })
        .ok_or(OffsetError::Missing(name))
}

/// Offset in bytes of a field, also inside anonymous structures and unions.
fn field(btf: &Btf, within: &Struct, name: &'static str) -> Result<u32, OffsetError> {
    search(btf, within, name)
        .map(|bits| bits / 8)
        .ok_or(OffsetError::Missing(name))
}

fn search(btf: &Btf, within: &Struct, name: &str) -> Option<u32> {
    within.members.iter().find_map(|member| {
        let member_name = btf.resolve_name(member).ok()?;
        if member_name == name {
            return Some(member.bit_offset());
        }
        if !member_name.is_empty() {
            return None;
        }
        Some(member.bit_offset() + search(btf, &inner(btf, member)?, name)?)
    })
}

fn inner(btf: &Btf, member: &Member) -> Option<Struct> {
    match btf.resolve_type_by_id(member.get_type_id()?).ok()? {
        Type::Struct(inner) | Type::Union(inner) => Some(inner),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_running_kernel_has_every_field() {
        let offsets = sock_offsets().unwrap();
        // `__sk_common` leads `struct sock`, and its first fields have not moved since Linux 3.
        assert_eq!((offsets.rcv_saddr, offsets.num, offsets.family), (4, 14, 16));
        assert!(offsets.err > offsets.v6_rcv_saddr && offsets.v6_rcv_saddr > offsets.family);
    }

    #[test]
    fn a_field_that_is_not_there_is_named() {
        let btf = Btf::from_file(VMLINUX).unwrap();
        let sock = structure(&btf, "sock").unwrap();
        assert!(matches!(
            field(&btf, &sock, "sk_nothing"),
            Err(OffsetError::Missing("sk_nothing"))
        ));
    }
}
