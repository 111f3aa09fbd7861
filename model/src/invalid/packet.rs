// SPDX-License-Identifier: Apache-2.0
//! The reasons for which what a service says about the packet path is refused.
//!
//! Invariant: as for every [`super::Problem`], a remedy is named.

use std::net::IpAddr;

use crate::{
    keyword::Family,
    resource::packet::{MAX_EXTERNAL_ADDRESSES, NODE_PORTS},
};

/// What is wrong, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the message of each variant says what it and its fields mean"
)]
pub enum PacketProblem {
    #[error(
        "node port is {found}; use {} to {}: the node's own services are below, the ports of its own connections above",
        NODE_PORTS.start(),
        NODE_PORTS.end()
    )]
    NodePortRange { found: i64 },
    #[error("{port}/{protocol} is already the node port of ports[{first}]; give each its own")]
    DuplicateNodePort {
        port: u16,
        protocol: &'static str,
        first: usize,
    },
    #[error(
        "{found} external addresses are more than the limit of {MAX_EXTERNAL_ADDRESSES}; split the service"
    )]
    TooManyExternal { found: usize },
    #[error("{address} is given twice; name each address once, in addresses or in externalAddresses")]
    SecondMention { address: IpAddr },
    #[error(
        "{address} is {family}, but the service has no {family} address; add one to spec.addresses, or remove this one"
    )]
    ExternalFamily { address: IpAddr, family: Family },
    #[error(
        "is {found}, but with packetPath dsr a replica is sent what the client sent, to port {port}; use that port, or packetPath snat"
    )]
    DirectReturnPort { found: u16, port: u16 },
    #[error(
        "with packetPath dsr a replica answers from the address that the client asked, which of a node port is the node's; remove it, or use packetPath snat"
    )]
    DirectReturnNodePort,
}
