// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Reads the headers of a frame: Ethernet, IPv4 with options, IPv6 with extension headers, TCP, UDP and ICMP errors with what they quote.
//!
//! Called for each packet by every program of the packet path, and by the fuzzer. Invariants: nothing is read beyond what the IP header
//! says belongs to the packet; a packet that is not wholly understood is [`Unread`], and nobody changes it.

mod network;

use network::{is_impossible_source, network};

use super::{state::TcpFlags, tuple::Tuple};
use crate::{Ip16, Port, Protocol};

/// Length of an Ethernet header.
pub const ETHERNET: u32 = 14;
/// Length of an IPv4 header without options.
const IPV4: u32 = 20;
/// Length of an IPv6 header without extensions.
const IPV6: u32 = 40;
/// Length of the header of an ICMP error, before what it quotes.
const ICMP: u32 = 8;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;

/// The bytes of a frame, from its Ethernet header on.
pub trait Frame {
    /// `N` bytes at offset `at`, if the frame has them.
    fn load<const N: usize>(&self, at: u32) -> Option<[u8; N]>;
    /// How many bytes there are; more than 65,535 of IP for a packet that is segmented later.
    fn length(&self) -> u32;
}

/// Why a frame's headers are not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unread {
    /// Not IP, or neither TCP, UDP nor an ICMP error: not for this path.
    Other,
    /// Contradicts itself, or ends too early.
    Malformed,
    /// A part of a packet.
    Fragment,
    /// IPv6 extension headers that hide the transport header, or too many.
    Extension,
}

/// What kind of packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A segment of TCP.
    Segment = 0,
    /// A datagram of UDP.
    Datagram = 1,
    /// An ICMP error that quotes one of these.
    Error = 2,
}

/// The headers of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Headers {
    /// Its tuple; of an ICMP error, that of the packet that it quotes, as it was sent.
    pub tuple: Tuple,
    /// Source of the IP header: that of the tuple but for an ICMP error.
    pub src: Ip16,
    /// Destination of the IP header.
    pub dst: Ip16,
    /// Offset of the IP header.
    pub network: u32,
    /// Offset of the transport header; of an ICMP error, of the ICMP header.
    pub transport: u32,
    /// Offset of what follows the transport header; 0 for an ICMP error.
    pub payload: u32,
    /// Offset of the quoted IP header; 0 but for an ICMP error.
    pub quoted_network: u32,
    /// Offset of the quoted transport header.
    pub quoted_transport: u32,
    /// Bytes from the IP header to the packet's end.
    pub bytes: u32,
    /// Checksum of the IPv4 header, as it lies in memory; 0 for IPv6.
    pub checksum: u16,
    /// Checksum of the quoted IPv4 header.
    pub quoted_checksum: u16,
    /// A [`Kind`].
    pub kind: Kind,
    /// Flags of TCP; 0 for others.
    pub flags: u8,
    /// Time to live, or hop limit.
    pub ttl: u8,
    /// Protocol field of the IP header; of IPv6, that of the last extension header.
    pub protocol: u8,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// 1 for IPv6.
    pub is_v6: u8,
}

impl Headers {
    /// Of nothing.
    pub const NONE: Self = Self {
        tuple: Tuple {
            src: Ip16::UNSPECIFIED,
            dst: Ip16::UNSPECIFIED,
            src_port: Port::new(0),
            dst_port: Port::new(0),
            protocol: 0,
        },
        src: Ip16::UNSPECIFIED,
        dst: Ip16::UNSPECIFIED,
        network: 0,
        transport: 0,
        payload: 0,
        quoted_network: 0,
        quoted_transport: 0,
        bytes: 0,
        checksum: 0,
        quoted_checksum: 0,
        kind: Kind::Segment,
        flags: 0,
        ttl: 0,
        protocol: 0,
        tos: 0,
        is_v6: 0,
    };

    /// The headers of `frame`.
    pub fn of(frame: &impl Frame) -> Result<Self, Unread> {
        let mut headers = Self::NONE;
        headers.read(frame)?;
        Ok(headers)
    }

    /// Becomes the headers of `frame`; after an error, of no use.
    #[inline(always)]
    pub fn read(&mut self, frame: &impl Frame) -> Result<(), Unread> {
        let network = network(frame)?;
        if is_impossible_source(network.src) {
            return Err(Unread::Malformed);
        }
        self.tuple.src = network.src;
        self.tuple.dst = network.dst;
        self.tuple.src_port = Port::new(0);
        self.tuple.dst_port = Port::new(0);
        self.tuple.protocol = u32::from(network.protocol);
        self.src = network.src;
        self.dst = network.dst;
        self.network = ETHERNET;
        self.transport = network.transport;
        self.payload = 0;
        self.quoted_network = 0;
        self.quoted_transport = 0;
        self.bytes = network.end - ETHERNET;
        self.checksum = network.checksum;
        self.quoted_checksum = 0;
        self.kind = Kind::Segment;
        self.flags = 0;
        self.ttl = network.ttl;
        self.protocol = network.protocol;
        self.tos = network.tos;
        self.is_v6 = u8::from(network.is_v6);
        self.read_transport(frame, network.end)
    }

    #[inline(always)]
    fn read_transport(&mut self, frame: &impl Frame, end: u32) -> Result<(), Unread> {
        if self.protocol == Protocol::Tcp as u8 {
            self.read_segment(frame, end)
        } else if self.protocol == Protocol::Udp as u8 {
            self.read_datagram(frame, end)
        } else if self.protocol == PROTOCOL_ICMP && self.is_v6 == 0
            || self.protocol == PROTOCOL_ICMPV6 && self.is_v6 != 0
        {
            self.read_error(frame, end)
        } else {
            Err(Unread::Other)
        }
    }

    #[inline(always)]
    fn read_segment(&mut self, frame: &impl Frame, end: u32) -> Result<(), Unread> {
        let bytes = frame.load::<20>(self.transport).ok_or(Unread::Malformed)?;
        let header = u32::from(bytes[12] >> 4) * 4;
        if header < 20 || self.transport + header > end || TcpFlags::are_absurd(bytes[13]) {
            return Err(Unread::Malformed);
        }
        self.flags = bytes[13];
        self.payload = self.transport + header;
        self.set_ports([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(())
    }

    #[inline(always)]
    fn read_datagram(&mut self, frame: &impl Frame, end: u32) -> Result<(), Unread> {
        let bytes = frame.load::<8>(self.transport).ok_or(Unread::Malformed)?;
        let length = u32::from(u16::from_be_bytes([bytes[4], bytes[5]]));
        if length < 8 || self.transport + length > end {
            return Err(Unread::Malformed);
        }
        self.kind = Kind::Datagram;
        self.payload = self.transport + 8;
        self.set_ports([bytes[0], bytes[1], bytes[2], bytes[3]]);
        Ok(())
    }

    #[inline(always)]
    fn set_ports(&mut self, [a, b, c, d]: [u8; 4]) {
        self.tuple.src_port = Port::from_be(u16::from_ne_bytes([a, b]));
        self.tuple.dst_port = Port::from_be(u16::from_ne_bytes([c, d]));
    }

    /// An ICMP error quotes the packet that it is about: its IP header and at least eight bytes of its payload (RFC 792; RFC 4443, 2.4).
    #[inline(always)]
    fn read_error(&mut self, frame: &impl Frame, end: u32) -> Result<(), Unread> {
        let [kind, ..] = frame.load::<8>(self.transport).ok_or(Unread::Malformed)?;
        let is_error = if self.is_v6 == 0 {
            // Unreachable (too big among them), time exceeded, parameter problem.
            matches!(kind, 3 | 11 | 12)
        } else {
            // Unreachable, too big, time exceeded, parameter problem.
            matches!(kind, 1..=4)
        };
        if !is_error {
            return Err(Unread::Other);
        }
        self.kind = Kind::Error;
        self.quoted_network = self.transport + ICMP;
        if self.is_v6 == 0 {
            self.read_quoted_v4(frame, end)
        } else {
            self.read_quoted_v6(frame, end)
        }
    }

    #[inline(always)]
    fn read_quoted_v4(&mut self, frame: &impl Frame, end: u32) -> Result<(), Unread> {
        let bytes = frame.load::<20>(self.quoted_network).ok_or(Unread::Malformed)?;
        let header = u32::from(bytes[0] & 0xf) * 4;
        if bytes[0] >> 4 != 4 || header < IPV4 {
            return Err(Unread::Malformed);
        }
        if u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff != 0 {
            return Err(Unread::Fragment);
        }
        self.quoted_checksum = u16::from_ne_bytes([bytes[10], bytes[11]]);
        self.tuple.src = v4([bytes[12], bytes[13], bytes[14], bytes[15]]);
        self.tuple.dst = v4([bytes[16], bytes[17], bytes[18], bytes[19]]);
        self.quoted_transport = self.quoted_network + header;
        self.read_quoted_ports(frame, end, bytes[9])
    }

    /// Without extension headers: a flow's own packets have none, and others are none of a flow.
    #[inline(always)]
    fn read_quoted_v6(&mut self, frame: &impl Frame, end: u32) -> Result<(), Unread> {
        let bytes = frame.load::<40>(self.quoted_network).ok_or(Unread::Malformed)?;
        if bytes[0] >> 4 != 6 {
            return Err(Unread::Malformed);
        }
        let [src, dst] = v6(&bytes);
        if src.is_v4() || dst.is_v4() {
            return Err(Unread::Malformed);
        }
        self.tuple.src = src;
        self.tuple.dst = dst;
        self.quoted_transport = self.quoted_network + IPV6;
        self.read_quoted_ports(frame, end, bytes[6])
    }

    #[inline(always)]
    fn read_quoted_ports(&mut self, frame: &impl Frame, end: u32, protocol: u8) -> Result<(), Unread> {
        if protocol != Protocol::Tcp as u8 && protocol != Protocol::Udp as u8 {
            return Err(Unread::Other);
        }
        if self.quoted_transport + 8 > end {
            return Err(Unread::Malformed);
        }
        let ports = frame.load::<4>(self.quoted_transport).ok_or(Unread::Malformed)?;
        self.tuple.protocol = u32::from(protocol);
        self.set_ports(ports);
        Ok(())
    }
}

#[inline(always)]
fn v4(bytes: [u8; 4]) -> Ip16 {
    Ip16::from_v4_word(u32::from_ne_bytes(bytes))
}

/// Source and destination of an IPv6 header.
#[inline(always)]
fn v6(bytes: &[u8; 40]) -> [Ip16; 2] {
    let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    [
        Ip16::from_words([word(8), word(12), word(16), word(20)]),
        Ip16::from_words([word(24), word(28), word(32), word(36)]),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
