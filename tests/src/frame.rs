// SPDX-License-Identifier: Apache-2.0
//! Frames for the tests of the packet path: built from what matters, and read back with every checksum computed from scratch.
//!
//! Shares no code with the programs under test. Invariant: what [`Frame::bytes`] builds, [`Seen::of`] reads.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Flags of TCP.
pub mod flag {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Begins a connection.
    pub const SYN: u8 = 2;
    /// Resets it.
    pub const RST: u8 = 4;
    /// Acknowledges.
    pub const ACK: u8 = 16;
}

/// What an IP packet holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// A segment with these flags.
    Tcp(u8),
    /// A datagram; its checksum is left out if `false`.
    Udp(bool),
    /// An ICMP error of this type about another packet, of which it quotes so many bytes.
    Error(u8, Box<Frame>, usize),
    /// Any other protocol.
    Other(u8),
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Source; its port is not used in an ICMP error.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Time to live.
    pub ttl: u8,
    /// What it holds.
    pub body: Body,
    /// Payload.
    pub payload: Vec<u8>,
    /// Options of IPv4, or extension headers of IPv6 whose first bytes are filled in; with the protocol number of the first of these.
    pub options: (u8, Vec<u8>),
    /// Fragment field: offset and flags of IPv4.
    pub fragment: u16,
}

/// Link-layer source and destination of what the tests build.
pub const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

impl Frame {
    /// A segment with `flags`.
    pub fn tcp(src: SocketAddr, dst: SocketAddr, flags: u8) -> Self {
        Self::new(src, dst, Body::Tcp(flags))
    }

    /// A datagram.
    pub fn udp(src: SocketAddr, dst: SocketAddr) -> Self {
        Self::new(src, dst, Body::Udp(true))
    }

    /// An ICMP error of `kind` that quotes `about`.
    pub fn error(src: IpAddr, dst: IpAddr, kind: u8, about: Self) -> Self {
        let quoted = if src.is_ipv4() { 28 } else { 48 };
        let body = Body::Error(kind, Box::new(about), quoted);
        Self::new(SocketAddr::new(src, 0), SocketAddr::new(dst, 0), body)
    }

    /// A frame with `body`.
    pub fn new(src: SocketAddr, dst: SocketAddr, body: Body) -> Self {
        Self {
            src,
            dst,
            ttl: 64,
            body,
            payload: b"payload of odd length".to_vec(),
            options: (0, vec![]),
            fragment: 0,
        }
    }

    /// With another payload.
    #[must_use]
    pub fn with(mut self, payload: &[u8]) -> Self {
        self.payload = payload.to_vec();
        self
    }

    /// Its bytes, all checksums right.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MACS.to_vec();
        bytes.extend(if self.src.is_ipv4() {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        });
        bytes.extend(self.packet());
        bytes
    }

    /// Its bytes from the IP header on.
    fn packet(&self) -> Vec<u8> {
        let transport = self.transport();
        match (self.src.ip(), self.dst.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.packet_v4(src, dst, &transport),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.packet_v6(src, dst, &transport),
            _ => panic!("a frame of two families: {self:?}"),
        }
    }

    fn packet_v4(&self, src: Ipv4Addr, dst: Ipv4Addr, transport: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.1.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + transport.len()) as u16).to_be_bytes());
        bytes.extend([0x12, 0x34]);
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol(), 0, 0]);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        bytes.extend(&self.options.1);
        let sum = checksum(&[&bytes]);
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(transport);
        bytes
    }

    fn packet_v6(&self, src: Ipv6Addr, dst: Ipv6Addr, transport: &[u8]) -> Vec<u8> {
        let mut extensions = self.options.1.clone();
        let next = if extensions.is_empty() {
            self.protocol()
        } else {
            self.options.0
        };
        // The last extension header leads to the transport header; the tests chain those before it themselves.
        if let Some(last) = last_extension(next, &extensions) {
            extensions[last] = self.protocol();
        }
        let mut bytes = vec![0x60, 0, 0, 0];
        bytes.extend(((extensions.len() + transport.len()) as u16).to_be_bytes());
        bytes.extend([next, self.ttl]);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        bytes.extend(extensions);
        bytes.extend(transport);
        bytes
    }

    fn protocol(&self) -> u8 {
        match &self.body {
            Body::Tcp(_) => 6,
            Body::Udp(_) => 17,
            Body::Error(..) if self.src.is_ipv4() => 1,
            Body::Error(..) => 58,
            Body::Other(protocol) => *protocol,
        }
    }

    fn transport(&self) -> Vec<u8> {
        let (mut bytes, at) = match &self.body {
            Body::Tcp(flags) => {
                let mut bytes = self.ports();
                bytes.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, *flags, 0xff, 0xff, 0, 0, 0, 0]);
                (bytes, 16)
            }
            Body::Udp(_) => {
                let mut bytes = self.ports();
                bytes.extend(((8 + self.payload.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                (bytes, 6)
            }
            Body::Error(kind, about, quoted) => {
                let mut bytes = vec![*kind, 0, 0, 0, 0, 0, 5, 0xdc];
                let packet = about.packet();
                bytes.extend(&packet[..packet.len().min(*quoted)]);
                let sum = self.transport_checksum(&bytes);
                bytes[2..4].copy_from_slice(&sum.to_be_bytes());
                return bytes;
            }
            Body::Other(_) => return self.payload.clone(),
        };
        bytes.extend(&self.payload);
        if self.body == Body::Udp(false) {
            return bytes;
        }
        let sum = match self.transport_checksum(&bytes) {
            0 if at == 6 => 0xffff,
            sum => sum,
        };
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    fn transport_checksum(&self, bytes: &[u8]) -> u16 {
        pseudo_checksum(self.src.ip(), self.dst.ip(), self.protocol(), bytes)
    }

    fn ports(&self) -> Vec<u8> {
        [self.src.port().to_be_bytes(), self.dst.port().to_be_bytes()].concat()
    }
}

/// Offset of the last extension header in `bytes`, of which the first has the number `next`.
fn last_extension(mut next: u8, bytes: &[u8]) -> Option<usize> {
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        last = Some(at);
        let length = if next == 44 {
            8
        } else {
            (usize::from(bytes[at + 1]) + 1) * 8
        };
        next = bytes[at];
        at += length;
    }
    last
}

/// The checksum (RFC 1071) of `parts`, one after the other.
fn checksum(parts: &[&[u8]]) -> u16 {
    let whole = parts.concat();
    let mut sum: u32 = whole
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn pseudo_checksum(src: IpAddr, dst: IpAddr, protocol: u8, bytes: &[u8]) -> u16 {
    let length = (bytes.len() as u32).to_be_bytes();
    match (src, dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) if protocol == 1 => checksum(&[bytes]),
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            checksum(&[&src.octets(), &dst.octets(), &[0, protocol], &length[2..], bytes])
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            checksum(&[&src.octets(), &dst.octets(), &length, &[0, 0, 0, protocol], bytes])
        }
        _ => panic!("addresses of two families"),
    }
}

/// What a frame says, as far as a translation may change it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Link-layer destination.
    pub dmac: [u8; 6],
    /// Source; port 0 in an ICMP error.
    pub src: SocketAddr,
    /// Destination.
    pub dst: SocketAddr,
    /// Time to live.
    pub ttl: u8,
    /// Whether all checksums are right; `None` where UDP has none.
    pub is_sound: Option<bool>,
    /// Source and destination of the quoted packet, and whether its IP header's checksum is right.
    pub quoted: Option<(SocketAddr, SocketAddr, bool)>,
}

impl Seen {
    /// Reads `frame`, which has no extension headers.
    pub fn of(frame: &[u8]) -> Self {
        let packet = &frame[14..];
        let (src, dst, header, protocol, ttl, is_header_sound) = network(packet);
        let transport = &packet[header..];
        let mut seen = Self {
            dmac: frame[..6].try_into().expect("six bytes"),
            src: SocketAddr::new(src, 0),
            dst: SocketAddr::new(dst, 0),
            ttl,
            is_sound: Some(is_header_sound && pseudo_checksum(src, dst, protocol, transport) == 0),
            quoted: None,
        };
        if protocol == 1 || protocol == 58 {
            let quoted = &transport[8..];
            let (src, dst, header, _, _, is_sound) = network(quoted);
            let (src_port, dst_port) = ports(&quoted[header..]);
            seen.quoted = Some((
                SocketAddr::new(src, src_port),
                SocketAddr::new(dst, dst_port),
                is_sound,
            ));
            return seen;
        }
        let (src_port, dst_port) = ports(transport);
        seen.src.set_port(src_port);
        seen.dst.set_port(dst_port);
        if protocol == 17 && transport[6..8] == [0, 0] {
            seen.is_sound = is_header_sound.then_some(true).and(None);
        }
        seen
    }
}

/// Source, destination, length of the header, protocol, time to live, and whether the header's checksum is right.
fn network(packet: &[u8]) -> (IpAddr, IpAddr, usize, u8, u8, bool) {
    if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 0xf) * 4;
        let addr = |at: usize| {
            let octets: [u8; 4] = packet[at..at + 4].try_into().expect("four bytes");
            IpAddr::from(octets)
        };
        let is_sound = checksum(&[&packet[..header]]) == 0;
        return (addr(12), addr(16), header, packet[9], packet[8], is_sound);
    }
    let addr = |at: usize| {
        let octets: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen bytes");
        IpAddr::from(octets)
    };
    let (mut next, mut at) = (packet[6], 40);
    while matches!(next, 0 | 43 | 44 | 60) {
        let length = if next == 44 {
            8
        } else {
            (usize::from(packet[at + 1]) + 1) * 8
        };
        next = packet[at];
        at += length;
    }
    (addr(8), addr(24), at, next, packet[7], true)
}

fn ports(transport: &[u8]) -> (u16, u16) {
    let port = |at: usize| u16::from_be_bytes([transport[at], transport[at + 1]]);
    (port(0), port(2))
}
