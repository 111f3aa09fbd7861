// SPDX-License-Identifier: Apache-2.0
//! The address ranges that policies speak of, and which of them an address is in.
//!
//! Invariant: two ranges are disjoint or one contains the other, so the narrowest one that an address is in tells all others.

use std::{
    collections::{BTreeSet, HashSet},
    net::IpAddr,
};

use ipnet::{IpNet, Ipv6Net};

/// A set of ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    all: HashSet<IpNet>,
    // Each list is short: an address is looked up once per length that occurs.
    v4_lengths: BTreeSet<u8>,
    v6_lengths: BTreeSet<u8>,
}

impl Networks {
    /// The ranges that contain `address`, the widest first.
    pub fn containing(&self, address: IpAddr) -> Vec<IpNet> {
        self.within(IpNet::from(address))
    }

    /// The ranges that contain all of `network`, itself included, the widest first.
    pub fn within(&self, network: IpNet) -> Vec<IpNet> {
        self.lengths(network.addr())
            .iter()
            .take_while(|length| **length <= network.prefix_len())
            .filter_map(|length| IpNet::new(network.addr(), *length).ok())
            .map(|wider| wider.trunc())
            .filter(|wider| self.all.contains(wider))
            .collect()
    }

    /// All ranges, in no order.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> {
        self.all.iter().copied()
    }

    /// Whether a range of IPv6 contains the v4-mapped addresses, and thus all IPv4 addresses in the kernel's table.
    pub(crate) fn cover_mapped(&self) -> bool {
        let mapped = Ipv6Net::new(std::net::Ipv4Addr::UNSPECIFIED.to_ipv6_mapped(), 96);
        mapped.is_ok_and(|mapped| !self.within(mapped.into()).is_empty())
    }

    fn lengths(&self, address: IpAddr) -> &BTreeSet<u8> {
        if address.is_ipv4() {
            &self.v4_lengths
        } else {
            &self.v6_lengths
        }
    }
}

impl FromIterator<IpNet> for Networks {
    fn from_iter<I: IntoIterator<Item = IpNet>>(networks: I) -> Self {
        let mut set = Self::default();
        for network in networks {
            let lengths = match network {
                IpNet::V4(_) => &mut set.v4_lengths,
                IpNet::V6(_) => &mut set.v6_lengths,
            };
            lengths.insert(network.prefix_len());
            set.all.insert(network);
        }
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn networks(texts: &[&str]) -> Networks {
        texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
    }

    #[test]
    fn an_address_is_in_every_wider_range() {
        let set = networks(&[
            "10.0.0.0/8",
            "10.1.0.0/16",
            "10.2.0.0/16",
            "0.0.0.0/0",
            "fd00::/8",
        ]);
        let found = |address: &str| {
            let found = set.containing(address.parse().unwrap());
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found("10.1.2.3"), ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16"]);
        assert_eq!(found("11.1.2.3"), ["0.0.0.0/0"]);
        assert_eq!(found("fd00::1"), ["fd00::/8"]);
        assert!(found("fe00::1").is_empty());
    }

    #[test]
    fn ranges_of_ipv6_that_hold_the_mapped_addresses_are_told() {
        for (text, covers) in [
            ("::/0", true),
            ("::/80", true),
            ("fd00::/8", false),
            ("0.0.0.0/0", false),
        ] {
            assert_eq!(networks(&[text]).cover_mapped(), covers, "{text}");
        }
    }
}
