// SPDX-License-Identifier: Apache-2.0
//! Reads from the running kernel's BTF where the fields of a socket are. Called once, by the loader.
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
    let btf = &Btf::parse(&bytes)?;
    let fields = |name| structure(btf, name).map(|within| move |name| field(btf, within, name));
    let sock = fields("sock")?;
    // Each of these begins with the one before, a `tcp_sock` by way of `inet_connection_sock` and `inet_sock`.
    let common = fields("sock_common")?;
    let tcp = fields("tcp_sock")?;
    let socket = fields("socket")?;
    let connection = fields("inet_connection_sock")?;
    let cgroup = fields("cgroup")?;
    let node = fields("kernfs_node")?;
    Ok(SockOffsets {
        err: sock("sk_err")?,
        family: common("skc_family")?,
        num: common("skc_num")?,
        rcv_saddr: common("skc_rcv_saddr")?,
        v6_rcv_saddr: common("skc_v6_rcv_saddr")?,
        dport: common("skc_dport")?,
        daddr: common("skc_daddr")?,
        v6_daddr: common("skc_v6_daddr")?,
        state: common("skc_state")?,
        flags: common("skc_flags")?,
        lingertime: sock("sk_lingertime")?,
        write_seq: tcp("write_seq")?,
        rcv_nxt: tcp("rcv_nxt")?,
        copied_seq: tcp("copied_seq")?,
        srtt_us: tcp("srtt_us")?,
        total_retrans: tcp("total_retrans")?,
        protocol: sock("sk_protocol")?,
        socket_sk: socket("sk")?,
        rcvbuf: sock("sk_rcvbuf")?,
        rcvlowat: sock("sk_rcvlowat")?,
        cgroup: sock("sk_cgrp_data")?,
        cgroup_level: cgroup("level")?,
        // Linux 6.1; whoever needs it asks whether it is there.
        cgroup_ancestors: cgroup("ancestors").unwrap_or_default(),
        cgroup_node: cgroup("kn")?,
        node_id: node("id")?,
        sk_socket: sock("sk_socket")?,
        ulp: connection("icsk_ulp_ops")?,
        snd_una: tcp("snd_una")?,
        bytes_acked: tcp("bytes_acked")?,
        bytes_received: tcp("bytes_received")?,
        user_data: sock("sk_user_data")?,
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
        assert_eq!((offsets.daddr, offsets.dport, offsets.state), (0, 12, 18));
        assert!(offsets.err > offsets.v6_rcv_saddr && offsets.v6_rcv_saddr > offsets.family);
        assert!(offsets.v6_rcv_saddr == offsets.v6_daddr + 16);
        // What is TCP's own comes after what every socket has.
        let of_sock = offsets.err.max(offsets.lingertime).max(offsets.protocol);
        for of_tcp in [
            offsets.write_seq,
            offsets.rcv_nxt,
            offsets.copied_seq,
            offsets.srtt_us,
            offsets.total_retrans,
        ] {
            assert!(of_tcp > of_sock && of_tcp.is_multiple_of(4), "{offsets:?}");
        }
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
