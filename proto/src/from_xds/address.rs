// SPDX-License-Identifier: Apache-2.0
//! Addresses: `envoy.config.core.v3.Address`. Called by the readers of listeners and endpoints.
//!
//! Invariant: an address that is read is one that the model takes.

use std::net::IpAddr;

use nodemesh_abi::Protocol;
use nodemesh_model::{Problem, resource::address};

use super::notes::{Notes, Place, Read};
use crate::xds::envoy::config::core::v3::{
    Address, SocketAddress,
    address::Address as Kind,
    socket_address::{PortSpecifier, Protocol as Transport},
};

/// What an address comes to.
pub(super) enum Spot {
    /// An IP address that a connection can be made to.
    Socket {
        ip: IpAddr,
        port: u16,
        protocol: Protocol,
    },
    /// An IP address that no connection can be made to, and why.
    Unusable(Problem),
    /// A host name, or a named port.
    Name(Problem),
    /// Something else, such as a pipe.
    Unfit,
}

/// Reads the address at `place`.
pub(super) fn spot(address: Option<&Address>, place: Place<'_>, notes: &mut Notes) -> Read<Spot> {
    match address.and_then(|address| address.address.as_ref()) {
        None => place.refuse("is missing; add a socket_address"),
        Some(Kind::SocketAddress(socket)) => self::socket(socket, place.field("socket_address"), notes),
        Some(Kind::Pipe(_) | Kind::EnvoyInternalAddress(_)) => Ok(Spot::Unfit),
    }
}

fn socket(socket: &SocketAddress, place: Place<'_>, notes: &mut Notes) -> Read<Spot> {
    let SocketAddress {
        protocol,
        address,
        // Only read together with a name.
        resolver_name: _,
        ipv4_compat,
        network_namespace_filepath,
        port_specifier,
    } = socket;
    notes.ignored(
        place,
        [
            ("ipv4_compat", *ipv4_compat),
            (
                "network_namespace_filepath",
                !network_namespace_filepath.is_empty(),
            ),
        ],
    );
    let protocol = match Transport::try_from(*protocol) {
        Ok(Transport::Tcp) => Protocol::Tcp,
        Ok(Transport::Udp) => Protocol::Udp,
        Err(_) => return place.field("protocol").refuse(unknown_value(*protocol)),
    };
    let port = match port_specifier {
        Some(PortSpecifier::PortValue(port)) => {
            address::port(i64::from(*port)).map_err(|problem| place.field("port_value").refusal(problem))?
        }
        Some(PortSpecifier::NamedPort(found)) => {
            let found = found.clone();
            return Ok(Spot::Name(Problem::Address { found }));
        }
        None => return place.field("port_value").refuse("is missing; use 1 to 65535"),
    };
    Ok(match address::parse(address) {
        Ok(ip) => Spot::Socket { ip, port, protocol },
        Err(problem @ Problem::AddressClass { .. }) => Spot::Unusable(problem),
        Err(problem) => Spot::Name(problem),
    })
}

/// Reason to refuse a number that is no value of its enumeration.
pub(super) fn unknown_value(found: i32) -> String {
    format!("{found} is no value that this release knows; use a named one")
}
