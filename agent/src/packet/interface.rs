// SPDX-License-Identifier: Apache-2.0
//! The interfaces of the node's network namespace, and which of them the packet path is wanted on.
//!
//! Called by the thread once per second. Invariant: only interfaces with Ethernet headers are chosen, which is what the programs read.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::IpAddr,
    path::Path,
};

use nix::{
    ifaddrs::getifaddrs,
    net::if_::InterfaceFlags,
    sys::socket::{AddressFamily, SockaddrLike as _, SockaddrStorage},
};

use super::args::InterfacePattern;

/// `ARPHRD_ETHER` of `linux/if_arp.h`.
const ETHERNET: u16 = 1;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// Its number in the namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Whether packets have Ethernet headers.
    pub is_ethernet: bool,
    /// Its addresses that mean the same everywhere.
    pub addresses: Vec<IpAddr>,
}

/// Whether a device is behind an interface, and a driver whose XDP can send: a veth loses what is sent that way unless its other end polls.
pub fn is_device(name: &str) -> bool {
    Path::new("/sys/class/net").join(name).join("device").exists()
}

/// The interfaces that are up, by number.
pub fn list() -> io::Result<Vec<Interface>> {
    let mut found: BTreeMap<String, Interface> = BTreeMap::new();
    for entry in getifaddrs()? {
        let unfit = InterfaceFlags::IFF_LOOPBACK;
        if !entry.flags.contains(InterfaceFlags::IFF_UP) || entry.flags.intersects(unfit) {
            continue;
        }
        let interface = found.entry(entry.interface_name.clone()).or_default();
        interface.name = entry.interface_name;
        let Some(address) = entry.address else { continue };
        if let Some(link) = address.as_link_addr() {
            interface.index = u32::try_from(link.ifindex()).unwrap_or_default();
            interface.is_ethernet = link.hatype() == ETHERNET;
        }
        interface.addresses.extend(ip(&address).filter(is_global));
    }
    let mut interfaces: Vec<Interface> = found.into_values().filter(|found| found.index != 0).collect();
    interfaces.sort_by_key(|interface| interface.index);
    Ok(interfaces)
}

fn ip(address: &SockaddrStorage) -> Option<IpAddr> {
    match address.family()? {
        AddressFamily::Inet => Some(address.as_sockaddr_in()?.ip().into()),
        AddressFamily::Inet6 => Some(address.as_sockaddr_in6()?.ip().into()),
        _ => None,
    }
}

fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// Those of `interfaces` that `patterns` name, with the names that are not there or are no Ethernet.
pub fn choose(
    interfaces: Vec<Interface>,
    patterns: &[InterfacePattern],
    default_routes: &BTreeSet<String>,
) -> (Vec<Interface>, Vec<String>) {
    let matches = |interface: &Interface, pattern: &InterfacePattern| match pattern {
        InterfacePattern::DefaultRoute => default_routes.contains(&interface.name),
        InterfacePattern::Name(name) => interface.name == *name,
        InterfacePattern::Prefix(prefix) => interface.name.starts_with(prefix),
    };
    let mut problems = Vec::new();
    for pattern in patterns {
        let mut named = interfaces.iter().filter(|interface| matches(interface, pattern));
        match (named.next(), pattern) {
            (None, InterfacePattern::Name(name)) => {
                problems.push(format!("there is no interface {name} that is up (yet)"));
            }
            (None, InterfacePattern::DefaultRoute) => {
                problems.push(
                    "no interface has a default route (yet); name one with --packet-interface".to_owned(),
                );
            }
            (Some(interface), InterfacePattern::Name(name)) if !interface.is_ethernet => {
                problems.push(format!(
                    "{name} is no Ethernet interface; name another with --packet-interface"
                ));
            }
            _ => {}
        }
    }
    let is_wanted = |interface: &Interface| {
        interface.is_ethernet && patterns.iter().any(|pattern| matches(interface, pattern))
    };
    (interfaces.into_iter().filter(is_wanted).collect(), problems)
}

/// Names of the interfaces that default routes lead to.
pub fn default_routes() -> BTreeSet<String> {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let (v4, v6) = (read("/proc/net/route"), read("/proc/net/ipv6_route"));
    v4_defaults(&v4)
        .chain(v6_defaults(&v6))
        .map(str::to_owned)
        .collect()
}

/// Interface, destination, and as eighth the mask.
fn v4_defaults(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        (fields.get(1) == Some(&"00000000") && fields.get(7) == Some(&"00000000")).then(|| fields[0])
    })
}

/// Destination, its prefix length, and as last the interface.
fn v6_defaults(table: &str) -> impl Iterator<Item = &str> {
    table.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let is_default = fields
            .first()
            .is_some_and(|to| to.bytes().all(|digit| digit == b'0'));
        (is_default && fields.get(1) == Some(&"00")).then(|| *fields.last().unwrap_or(&""))
    })
}

/// What keeps packets from being forwarded on this node, with the remedy.
pub fn obstacles(nat_ports: &std::ops::RangeInclusive<u16>) -> Vec<String> {
    let mut obstacles = Vec::new();
    for (path, setting) in [
        ("/proc/sys/net/ipv4/ip_forward", "net.ipv4.ip_forward"),
        (
            "/proc/sys/net/ipv6/conf/all/forwarding",
            "net.ipv6.conf.all.forwarding",
        ),
    ] {
        // A kernel without the family has no such file.
        if fs::read_to_string(path).is_ok_and(|value| value.trim() == "0") {
            obstacles.push(format!(
                "{setting} is 0: backends on other nodes are not reached; set it to 1"
            ));
        }
    }
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut own = text
        .split_ascii_whitespace()
        .filter_map(|port| port.parse::<u16>().ok());
    if let (Some(first), Some(last)) = (own.next(), own.next())
        && first <= *nat_ports.end()
        && *nat_ports.start() <= last
    {
        obstacles.push(format!(
            "net.ipv4.ip_local_port_range, {first} to {last}, overlaps --packet-nat-ports, {} to {}: a translated flow could take the port \
             of a connection of this node; change one of the two",
            nat_ports.start(),
            nat_ports.end()
        ));
    }
    obstacles
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(index: u32, name: &str, is_ethernet: bool) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
            is_ethernet,
            addresses: Vec::new(),
        }
    }

    #[test]
    fn patterns_choose_ethernet_interfaces_and_tell_what_is_missing() {
        let all = || {
            vec![
                interface(2, "eth0", true),
                interface(3, "eth1", true),
                interface(4, "wg0", false),
            ]
        };
        let routes = BTreeSet::from(["eth1".to_owned()]);
        let cases: [(&str, &[u32], &str); 6] = [
            ("eth0", &[2], ""),
            ("eth*", &[2, 3], ""),
            ("*", &[2, 3], ""),
            ("default", &[3], ""),
            (
                "wg0",
                &[],
                "wg0 is no Ethernet interface; name another with --packet-interface",
            ),
            ("eth7", &[], "there is no interface eth7 that is up (yet)"),
        ];
        for (pattern, expected, problem) in cases {
            let (chosen, problems) = choose(all(), &[pattern.parse().unwrap()], &routes);
            let indices: Vec<u32> = chosen.iter().map(|interface| interface.index).collect();
            assert_eq!(
                (&*indices, &*problems.join("; ")),
                (expected, problem),
                "{pattern}"
            );
        }
    }

    #[test]
    fn default_routes_are_found_in_procfs() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                  eth1\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert_eq!(v4_defaults(v4).collect::<Vec<_>>(), ["eth0"]);
        let zero = "0".repeat(32);
        let v6 = format!(
            "{zero} 00 {zero} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth2\n\
             fe800000000000000000000000000000 40 {zero} 00 {zero} 00000100 00000001 00000000 00000001     eth3\n"
        );
        assert_eq!(v6_defaults(&v6).collect::<Vec<_>>(), ["eth2"]);
    }

    #[test]
    fn the_loopback_device_is_not_listed() {
        assert!(list().unwrap().iter().all(|interface| interface.name != "lo"));
    }
}
