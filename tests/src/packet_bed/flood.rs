// SPDX-License-Identifier: Apache-2.0
//! Many flows from many sources: datagrams of real sockets' addresses and forged SYNs, sent as raw IPv4 packets.
//!
//! Invariant: what is sent is whole but for the transport checksum, which a node that only forwards does not look at.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::topology::Pod;

/// Sends one packet per flow from the namespace of `client` to `to`: `flows` different pairs of forged source address and port.
pub fn flood(client: &Pod, to: SocketAddrV4, protocol: u8, flows: u32) -> Result<()> {
    client.netns().run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))
            .context("open a raw socket")?;
        let target = SockAddr::from(to);
        for flow in 0..flows {
            // A thousand ports of each address.
            let source = Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 1)) + flow / 1_000);
            let port = 20_000 + (flow % 1_000) as u16;
            let packet = packet(SocketAddrV4::new(source, port), to, protocol, flow);
            socket.send_to(&packet, &target).context("send a forged packet")?;
        }
        Ok(())
    })?
}

/// `IPPROTO_RAW`: the packet brings its own IP header, of which the kernel fills in the checksum.
pub(super) const IPPROTO_RAW: i32 = 255;

/// A SYN, or a datagram of four bytes.
fn packet(from: SocketAddrV4, to: SocketAddrV4, protocol: u8, number: u32) -> Vec<u8> {
    if protocol != 6 {
        return datagram(from, to, &number.to_be_bytes());
    }
    let mut transport = ports(from, to);
    transport.extend(number.to_be_bytes());
    transport.extend([0; 4]);
    // Five words, and the flag SYN.
    transport.extend([5 << 4, 2, 0xff, 0xff, 0, 0, 0, 0]);
    network(from, to, protocol, number as u16, &transport)
}

/// A datagram without a checksum.
pub(super) fn datagram(from: SocketAddrV4, to: SocketAddrV4, data: &[u8]) -> Vec<u8> {
    let mut transport = ports(from, to);
    transport.extend((8 + data.len() as u16).to_be_bytes());
    transport.extend([0; 2]);
    transport.extend(data);
    network(from, to, 17, 0, &transport)
}

fn ports(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    [from.port().to_be_bytes(), to.port().to_be_bytes()].concat()
}

fn network(from: SocketAddrV4, to: SocketAddrV4, protocol: u8, number: u16, transport: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0];
    packet.extend((20 + transport.len() as u16).to_be_bytes());
    packet.extend(number.to_be_bytes());
    packet.extend([0x40, 0, 64, protocol, 0, 0]);
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(transport);
    packet
}
