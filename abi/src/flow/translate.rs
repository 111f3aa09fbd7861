// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Rewrites a frame: addresses, ports, time to live and every checksum over them. Called by the programs when all else is decided.
//!
//! Invariants: what is not a header of the packet stays as it is, and a checksum that was right is right, one that was wrong is wrong.

use super::{
    checksum::Change,
    headers::{Frame, Headers, Kind},
    track::{Direction, Mapping, Track},
    tuple::Tuple,
};
use crate::{Ip16, Port};

/// A frame that can be changed.
pub trait FrameMut: Frame {
    /// Writes `bytes` at `at`; false if that is not possible, and then nothing more is to be done with the packet.
    fn store<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> bool;
    /// The same for bytes that no checksum of the packet covers: a device may have summed up the whole packet.
    fn store_bare<const N: usize>(&mut self, at: u32, bytes: [u8; N]) -> bool;
    /// Changes the checksum at `at` by what changed `outside` of what it covers, in the pseudo header, and by what changed `inside`.
    fn amend(&mut self, at: u32, how: Amend, outside: Change, inside: Change) -> bool;
}

/// What is special about a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Amend {
    /// 0 means that there is none (UDP).
    pub is_optional: bool,
    /// The pseudo header is that of IPv6.
    pub is_v6: bool,
}

/// Rewrites a packet of a flow; `hops` is subtracted from its time to live.
#[inline(always)]
#[must_use]
pub fn packet(frame: &mut impl FrameMut, headers: &Headers, to: &Mapping, hops: u8) -> bool {
    let tuple = &headers.tuple;
    if !addresses_and_ports(frame, headers, to, hops) {
        return false;
    }
    let outside = Change::NONE.addr(tuple.src, to.src).addr(tuple.dst, to.dst);
    let inside = Change::NONE
        .port(tuple.src_port, to.src_port)
        .port(tuple.dst_port, to.dst_port);
    let is_udp = headers.kind as u8 == Kind::Datagram as u8;
    let how = Amend {
        is_optional: is_udp,
        is_v6: headers.is_v6 != 0,
    };
    let at = headers.transport + if is_udp { 6 } else { 16 };
    frame.amend(at, how, outside, inside)
}

/// Addresses, time to live and ports: by one write where the transport header follows the addresses, as it nearly always does.
#[inline(always)]
fn addresses_and_ports(frame: &mut impl FrameMut, headers: &Headers, to: &Mapping, hops: u8) -> bool {
    let at = headers.network;
    let is_v6 = headers.is_v6 != 0;
    let header = if is_v6 { 40 } else { 20 };
    if headers.transport != at + header {
        return network(frame, headers, to.src, to.dst, hops)
            && ports(frame, headers.transport, to.src_port, to.dst_port);
    }
    let ports = port_bytes(to.src_port, to.dst_port);
    if !is_v6 {
        let mut bytes = [0; 16];
        bytes[..12].copy_from_slice(&network_v4(headers, to.src, to.dst, hops));
        bytes[12..].copy_from_slice(&ports);
        return frame.store(at + 8, bytes);
    }
    let mut bytes = [0; 36];
    bytes[..16].copy_from_slice(&octets(to.src));
    bytes[16..32].copy_from_slice(&octets(to.dst));
    bytes[32..].copy_from_slice(&ports);
    (hops == 0 || frame.store_bare(at + 7, [headers.ttl.wrapping_sub(hops)])) && frame.store(at + 8, bytes)
}

/// Rewrites an ICMP error about `track`, with the packet that it quotes; it goes in `direction`.
#[inline(always)]
#[must_use]
pub fn error(
    frame: &mut impl FrameMut,
    headers: &Headers,
    track: &Track,
    direction: Direction,
    hops: u8,
) -> bool {
    let (src, dst) = error_addresses(headers, track, direction);
    let quoted = quoted(track, direction);
    if !network(frame, headers, src, dst, hops) {
        return false;
    }
    let was = &headers.tuple;
    let addresses = Change::NONE.addr(was.src, quoted.src).addr(was.dst, quoted.dst);
    let mut inside = addresses
        .port(was.src_port, quoted.src_port)
        .port(was.dst_port, quoted.dst_port);
    let mut outside = Change::NONE;
    let at = headers.quoted_network;
    let stored = if headers.is_v6 == 0 {
        let checksum = addresses.apply(headers.quoted_checksum);
        inside = inside.half(headers.quoted_checksum, checksum);
        let [a, b] = checksum.to_ne_bytes();
        let [c, d, e, f] = quoted.src.v4_word().to_ne_bytes();
        let [g, h, i, j] = quoted.dst.v4_word().to_ne_bytes();
        frame.store(at + 10, [a, b, c, d, e, f, g, h, i, j])
    } else {
        outside = outside.addr(headers.src, src).addr(headers.dst, dst);
        frame.store(at + 8, octets(quoted.src)) && frame.store(at + 24, octets(quoted.dst))
    };
    let how = Amend {
        is_optional: false,
        is_v6: headers.is_v6 != 0,
    };
    stored
        && ports(frame, headers.quoted_transport, quoted.src_port, quoted.dst_port)
        && frame.amend(headers.transport + 2, how, outside, inside)
}

/// Source and destination that an ICMP error about `track` is given: whoever reports it stays, unless it is one of the hidden ends.
#[inline(always)]
pub fn error_addresses(headers: &Headers, track: &Track, direction: Direction) -> (Ip16, Ip16) {
    match direction {
        Direction::Reply => {
            let is_backend = headers.src == track.backend;
            (if is_backend { track.service } else { headers.src }, track.client)
        }
        Direction::Forward => {
            let is_client = headers.src == track.client;
            (if is_client { track.nat } else { headers.src }, track.backend)
        }
    }
}

/// The quoted packet as its sender knows it: an error that goes to the client is about one that the client sent.
#[inline(always)]
fn quoted(track: &Track, direction: Direction) -> Tuple {
    match direction {
        Direction::Reply => track.forward(),
        Direction::Forward => track.reply(),
    }
}

/// Addresses and time to live of the IP header.
#[inline(always)]
fn network(frame: &mut impl FrameMut, headers: &Headers, src: Ip16, dst: Ip16, hops: u8) -> bool {
    let at = headers.network;
    if headers.is_v6 != 0 {
        return frame.store_bare(at + 7, [headers.ttl.wrapping_sub(hops)])
            && frame.store(at + 8, octets(src))
            && frame.store(at + 24, octets(dst));
    }
    frame.store(at + 8, network_v4(headers, src, dst, hops))
}

/// An IPv4 header from its time to live on.
#[inline(always)]
fn network_v4(headers: &Headers, src: Ip16, dst: Ip16, hops: u8) -> [u8; 12] {
    let ttl = headers.ttl.wrapping_sub(hops);
    let checksum = Change::NONE
        .addr(headers.src, src)
        .addr(headers.dst, dst)
        .half(
            u16::from_ne_bytes([headers.ttl, headers.protocol]),
            u16::from_ne_bytes([ttl, headers.protocol]),
        )
        .apply(headers.checksum);
    let [a, b] = checksum.to_ne_bytes();
    let [c, d, e, f] = src.v4_word().to_ne_bytes();
    let [g, h, i, j] = dst.v4_word().to_ne_bytes();
    [ttl, headers.protocol, a, b, c, d, e, f, g, h, i, j]
}

#[inline(always)]
fn ports(frame: &mut impl FrameMut, at: u32, src: Port, dst: Port) -> bool {
    frame.store(at, port_bytes(src, dst))
}

#[inline(always)]
fn port_bytes(src: Port, dst: Port) -> [u8; 4] {
    let ([a, b], [c, d]) = (src.be().to_ne_bytes(), dst.be().to_ne_bytes());
    [a, b, c, d]
}

#[inline(always)]
fn octets(addr: Ip16) -> [u8; 16] {
    let [a, b, c, d] = addr.words();
    let (a, b, c, d) = (a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes());
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
    ]
}

#[cfg(test)]
mod tests;
