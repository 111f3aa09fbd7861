// SPDX-License-Identifier: Apache-2.0
//! Addresses and ports of services, backends and workloads.
//!
//! Invariant: an accepted address is unicast, means the same on every interface, and is never a v4-mapped IPv6 address.

use std::net::IpAddr;

use crate::{
    invalid::{Findings, Problem},
    keyword::Family,
};

/// Reads an address; see the module for which are accepted.
pub fn parse(text: &str) -> Result<IpAddr, Problem> {
    let address: IpAddr = text.parse().map_err(|_| Problem::Address {
        found: text.to_owned(),
    })?;
    let address = address.to_canonical();
    match class(address) {
        None => Ok(address),
        Some(class) => Err(Problem::AddressClass { address, class }),
    }
}

/// The class of an address that no connection can be made to.
fn class(address: IpAddr) -> Option<&'static str> {
    match address {
        _ if address.is_unspecified() => Some("unspecified"),
        _ if address.is_multicast() => Some("a multicast address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        _ => None,
    }
}

/// Reads the list `field`, noting each problem: at most one address per family.
pub(crate) fn parse_set(field: &str, texts: &[String], findings: &mut Findings) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let place = format_args!("{field}[{index}]");
        let Some(address) = findings.check(place, parse(text)) else {
            continue;
        };
        let family = Family::of(address);
        if addresses.iter().any(|other| Family::of(*other) == family) {
            findings.add(place, Problem::SecondAddress { address, family });
        } else {
            addresses.push(address);
        }
    }
    addresses
}

/// Reads a port: 1 to 65535.
pub fn port(found: i64) -> Result<u16, Problem> {
    u16::try_from(found)
        .ok()
        .filter(|port| *port != 0)
        .ok_or(Problem::PortRange { found })
}
