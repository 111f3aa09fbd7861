// SPDX-License-Identifier: Apache-2.0
//! Reads from the running kernel's BTF where the fields of `struct sock` are. Called once, by the loader.
//!
//! Invariant: either every offset is known or the error names the field that is not.

use std::{fs, io};

use nodemesh_abi::SockOffsets;

use super::btf::{Btf, BtfError, Composite};

/// Why the offsets could not be read.
#[derive(Debug, thiserror::Error)]
pub enum OffsetError {
    /// The kernel offers no BTF.
    #[error("read the kernel's type information: {VMLINUX}: {0}; the kernel must have CONFIG_DEBUG_INFO_BTF")]
    Read(#[from] io::Error),
    /// The kernel's BTF is not valid.
    #[error("read the kernel's type information: {VMLINUX}: {0}")]
    Btf(#[from] BtfError),
    /// A structure or field does not exist in this kernel.
    #[error("this kernel has no {0}, which the programs read")]
    Missing(&'static str),
    /// A field does not begin at a byte.
    #[error("the field {0} is a bit-field in this kernel, which the programs cannot read")]
    BitField(&'static str),
}

/// The kernel's own BTF.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Reads the offsets of the running kernel.
pub fn sock_offsets() -> Result<SockOffsets, OffsetError> {
    let bytes = fs::read(VMLINUX)?;
    let btf = Btf::parse(&bytes)?;
    let sock = structure(&btf, "sock")?;
    let common = structure(&btf, "sock_common")?;
    let in_sock = |name| field(&btf, sock, name);
    // `sock` begins with its `sock_common`.
    let in_common = |name| field(&btf, common, name);
    Ok(SockOffsets {
        err: in_sock("sk_err")?,
        family: in_common("skc_family")?,
        num: in_common("skc_num")?,
        rcv_saddr: in_common("skc_rcv_saddr")?,
        v6_rcv_saddr: in_common("skc_v6_rcv_saddr")?,
    })
}

fn structure<'a>(btf: &Btf<'a>, name: &'static str) -> Result<Composite<'a>, OffsetError> {
    btf.structure(name).ok_or(OffsetError::Missing(name))
}

/// Offset in bytes of a field, also inside anonymous structures and unions.
fn field<'a>(btf: &Btf<'a>, within: Composite<'a>, name: &'static str) -> Result<u32, OffsetError> {
    let bits = btf.bit_offset(within, name).ok_or(OffsetError::Missing(name))?;
    if bits.is_multiple_of(8) {
        Ok(bits / 8)
    } else {
        Err(OffsetError::BitField(name))
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
        let bytes = fs::read(VMLINUX).unwrap();
        let btf = Btf::parse(&bytes).unwrap();
        let sock = structure(&btf, "sock").unwrap();
        assert!(matches!(
            field(&btf, sock, "sk_nothing"),
            Err(OffsetError::Missing("sk_nothing"))
        ));
        assert!(matches!(
            structure(&btf, "sock_nothing"),
            Err(OffsetError::Missing("sock_nothing"))
        ));
    }

    #[test]
    fn a_bit_field_within_a_byte_is_refused() {
        let bytes = fs::read(VMLINUX).unwrap();
        let btf = Btf::parse(&bytes).unwrap();
        // unsigned char skc_reuse:4, skc_reuseport:1.
        let common = structure(&btf, "sock_common").unwrap();
        assert_eq!(btf.bit_offset(common, "skc_reuse").map(|bits| bits % 8), Some(0));
        assert!(matches!(
            field(&btf, common, "skc_reuseport"),
            Err(OffsetError::BitField("skc_reuseport"))
        ));
    }
}
