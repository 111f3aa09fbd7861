// SPDX-License-Identifier: Apache-2.0
//! The addresses of the bed, for both families by one name each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// Host `host` of network `network`.
    pub(super) fn at(self, network: u8, host: u8) -> IpAddr {
        match self {
            Self::V4 => Ipv4Addr::new(10, network, 0, host).into(),
            Self::V6 => {
                let network = u16::from_str_radix(&format!("fd{network}"), 16).expect("a number");
                let host = u16::from_str_radix(&host.to_string(), 16).expect("a number");
                Ipv6Addr::new(network, 0, 0, 0, 0, 0, 0, host).into()
            }
        }
    }

    /// The client, `port` of it.
    pub fn client(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.at(20, 2), port)
    }

    /// The service.
    pub fn service(self) -> SocketAddr {
        SocketAddr::new(self.at(96, 10), 80)
    }

    /// This node, `port` of it.
    pub fn node(self, port: u16) -> SocketAddr {
        SocketAddr::new(self.at(20, 1), port)
    }

    /// Every address of this node, `port` of each.
    pub fn any(self, port: u16) -> SocketAddr {
        match self {
            Self::V4 => SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
            Self::V6 => SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port),
        }
    }

    /// A remote backend.
    pub fn remote(self, host: u8) -> SocketAddr {
        SocketAddr::new(self.at(20, host), 8000)
    }

    /// A backend on this node.
    pub fn pod(self) -> SocketAddr {
        SocketAddr::new(self.at(30, 5), 8000)
    }

    /// A router that is none of these.
    pub fn router(self) -> IpAddr {
        self.at(20, 77)
    }
}
