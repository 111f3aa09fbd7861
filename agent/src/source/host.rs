// SPDX-License-Identifier: Apache-2.0
//! The addresses of this node: those of the network namespace that the agent runs in, from which its health checks come, and the probes
//! of a kubelet if that is the node's own.
//!
//! Asked when resources come into force and every [`PERIOD`] after that. Invariant: an address that other hosts or pods may have as well,
//! one of a loopback or local to a link, is none of them.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use tracing::warn;

/// How long an address may be new without being noticed: a bridge for pods gets its address with the first of them.
pub const PERIOD: Duration = Duration::from_secs(5);

/// The addresses, sorted; none if the kernel does not tell them.
pub fn addresses() -> Vec<IpAddr> {
    let interfaces = match getifaddrs() {
        Ok(interfaces) => interfaces,
        Err(error) => {
            warn!(%error, "cannot list the addresses of this node: where a policy denies by default, health checks need a rule");
            return Vec::new();
        }
    };
    let own = interfaces.filter(|one| !one.flags.contains(InterfaceFlags::IFF_LOOPBACK));
    let addresses = own.filter_map(|one| {
        let address = one.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    let mut addresses: Vec<IpAddr> = addresses.filter(|address| is_of_one(*address)).collect();
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// Whether only one host has `address`.
fn is_of_one(address: IpAddr) -> bool {
    !address.is_loopback()
        && match address {
            IpAddr::V4(v4) => !v4.is_link_local(),
            IpAddr::V6(v6) => !Ipv6Addr::is_unicast_link_local(&v6),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_others_have_too_are_left_out() {
        for (address, expected) in [
            ("127.0.0.1", false),
            ("::1", false),
            ("169.254.1.1", false),
            ("fe80::1", false),
            ("192.168.0.1", true),
            ("fd10::1", true),
        ] {
            assert_eq!(is_of_one(address.parse().unwrap()), expected, "{address}");
        }
        assert!(addresses().iter().all(|address| is_of_one(*address)));
    }
}
