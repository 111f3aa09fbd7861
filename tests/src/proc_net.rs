// SPDX-License-Identifier: Apache-2.0
//! The kernel's own list of TCP sockets, `/proc/net/tcp` and `tcp6`: what the mesh's list of connections is held against.
//!
//! Invariant: an IPv4 address is shown as one, also where an IPv6 socket uses it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result};

use crate::netns::NetNs;

/// `TCP_ESTABLISHED` as these files write it.
const ESTABLISHED: &str = "01";

/// Local ends of the established TCP sockets in `netns`.
pub fn established(netns: &NetNs) -> Result<BTreeSet<SocketAddr>> {
    // Of the thread that is inside; without it, the paths lead to the process's first thread.
    let read = || ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/thread-self/net/{table}")));
    let mut ends = BTreeSet::new();
    for table in netns.run(read)? {
        ends.extend(parse(&table?)?);
    }
    Ok(ends)
}

fn parse(table: &str) -> Result<Vec<SocketAddr>> {
    let ends = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next()?, fields.next()?, fields.next()?);
        (state == ESTABLISHED).then(|| end(local).with_context(|| format!("a socket in {line:?}")))
    });
    ends.collect()
}

/// An address, in 32-bit words in the byte order of the host, and a port.
fn end(text: &str) -> Result<SocketAddr> {
    let (words, port) = text.split_once(':').context("an address and a port")?;
    let mut bytes = Vec::new();
    for start in (0..words.len()).step_by(8) {
        let word = words.get(start..start + 8).context("whole words")?;
        bytes.extend(u32::from_str_radix(word, 16)?.to_ne_bytes());
    }
    let address = if let Ok(v4) = <[u8; 4]>::try_from(bytes.as_slice()) {
        IpAddr::from(v4)
    } else {
        let v6: [u8; 16] = bytes.as_slice().try_into().context("four or sixteen bytes")?;
        Ipv6Addr::from(v6).to_canonical()
    };
    Ok(SocketAddr::new(address, u16::from_str_radix(port, 16)?))
}

#[cfg(all(test, target_endian = "little"))]
mod tests {
    use super::*;

    #[test]
    fn only_established_sockets_are_read() {
        let table = "  sl  local_address rem_address   st tx_queue\n   \
            0: 0100007F:2328 00000000:0000 0A 00000000:00000000\n   \
            1: 0B00010A:ACB2 0B00020A:2328 01 00000000:00000000\n";
        assert_eq!(parse(table).unwrap(), ["10.1.0.11:44210".parse().unwrap()]);
    }

    #[test]
    fn both_families_are_read() {
        for (text, expected) in [
            ("000010FD000000000000000001000000:1F40", "[fd10::1]:8000"),
            ("0000000000000000FFFF00000B00010A:1F40", "10.1.0.11:8000"),
        ] {
            assert_eq!(end(text).unwrap(), expected.parse().unwrap());
        }
        assert!(end("0100:1F40").is_err());
    }
}
