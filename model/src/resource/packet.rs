// SPDX-License-Identifier: Apache-2.0
//! What a service says about the packet path: whether clients that no socket hook sees may reach it, where, and how their packets
//! are sent on.
//!
//! Part of `service`. Invariant: a mode that cannot change a packet's port is not given to a port that would have to be changed.

use std::net::IpAddr;

use nodemesh_abi::Protocol;

use super::{ServicePort, address, service::Backend};
use crate::{
    invalid::{Findings, PacketProblem},
    keyword::{self, Family, Keyword, PacketMode},
};

/// Ports that a node port may have: those below are well known, those above are given to the node's own connections.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 1024..=32_767;

/// Most external addresses of a service.
pub const MAX_EXTERNAL_ADDRESSES: usize = 64;

/// How the packet path serves a service.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PacketPath {
    /// How packets are sent on.
    pub mode: PacketMode,
    /// Addresses beside the virtual ones, each of a family that the service has, sorted and unique.
    pub external: Vec<IpAddr>,
}

impl PacketPath {
    /// Reads what the fields say; `None` if nothing asks for the packet path.
    pub(super) fn read(
        mode: Option<&str>,
        external: &[String],
        (addresses, ports, backends): (&[IpAddr], &[ServicePort], &[Backend]),
        findings: &mut Findings,
    ) -> Option<Self> {
        let is_asked = mode.is_some() || !external.is_empty() || ports.iter().any(|p| p.node_port.is_some());
        if !is_asked {
            return None;
        }
        let mode = mode.map_or(Ok(PacketMode::Snat), keyword::parse);
        let mode = findings.check("spec.packetPath", mode);
        let external = external_addresses(external, addresses, findings);
        let mode = mode?;
        if mode == PacketMode::Dsr {
            check_direct_return(ports, backends, findings);
        }
        Some(Self { mode, external })
    }
}

fn external_addresses(texts: &[String], own: &[IpAddr], findings: &mut Findings) -> Vec<IpAddr> {
    if texts.len() > MAX_EXTERNAL_ADDRESSES {
        let problem = PacketProblem::TooManyExternal { found: texts.len() };
        findings.add("spec.externalAddresses", problem.into());
        return Vec::new();
    }
    let mut addresses = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        let place = format_args!("spec.externalAddresses[{index}]");
        let Some(address) = findings.check(place, address::parse(text)) else {
            continue;
        };
        let family = Family::of(address);
        if own.contains(&address) || addresses.contains(&address) {
            findings.add(place, PacketProblem::SecondMention { address }.into());
        } else if !own.is_empty() && own.iter().all(|own| Family::of(*own) != family) {
            findings.add(place, PacketProblem::ExternalFamily { address, family }.into());
        } else {
            addresses.push(address);
        }
    }
    addresses.sort_unstable();
    addresses
}

/// With direct return a replica sees the packet as the client sent it, to the service's own address and port.
fn check_direct_return(ports: &[ServicePort], backends: &[Backend], findings: &mut Findings) {
    for (index, port) in ports.iter().enumerate() {
        let place = format!("spec.ports[{index}]");
        if port.target_port != port.port {
            let problem = PacketProblem::DirectReturnPort {
                found: port.target_port,
                port: port.port,
            };
            findings.add(format_args!("{place}.targetPort"), problem.into());
        }
        if port.node_port.is_some() {
            findings.add(
                format_args!("{place}.nodePort"),
                PacketProblem::DirectReturnNodePort.into(),
            );
        }
    }
    for (index, backend) in backends.iter().enumerate() {
        let served = ports.iter().find(|port| backend.serves(port));
        if let (Some(found), Some(port)) = (backend.port, served)
            && found != port.port
        {
            let problem = PacketProblem::DirectReturnPort {
                found,
                port: port.port,
            };
            findings.add(format_args!("spec.backends[{index}].port"), problem.into());
        }
    }
}

/// Reads a node port.
pub fn node_port(found: i64) -> Result<u16, PacketProblem> {
    u16::try_from(found)
        .ok()
        .filter(|port| NODE_PORTS.contains(port))
        .ok_or(PacketProblem::NodePortRange { found })
}

/// Notes node ports that two ports of a service share.
pub(super) fn check_node_ports(ports: &[ServicePort], findings: &mut Findings) {
    for (index, port) in ports.iter().enumerate() {
        let is_same =
            |other: &ServicePort| (other.node_port, other.protocol) == (port.node_port, port.protocol);
        let first = ports[..index].iter().position(is_same);
        if let (Some(node_port), Some(first)) = (port.node_port, first) {
            let problem = PacketProblem::DuplicateNodePort {
                port: node_port,
                protocol: Protocol::word(port.protocol),
                first,
            };
            findings.add(format_args!("spec.ports[{index}].nodePort"), problem.into());
        }
    }
}
