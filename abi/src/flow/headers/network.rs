// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The IP header of a frame, and the way from it to the transport header.
//!
//! Invariant: the transport header that is found belongs to a whole packet, and lies before its end.

use super::{ETHERNET, Frame, IPV4, IPV6, Unread, v4, v6};
use crate::Ip16;

/// Most extension headers that are walked over (RFC 8504, section 5.3, lets a node limit them).
const EXTENSIONS: u32 = 6;

pub(super) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// An IP header, with what may stand between it and the transport header.
pub(super) struct Network {
    pub(super) src: Ip16,
    pub(super) dst: Ip16,
    pub(super) protocol: u8,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    pub(super) is_v6: bool,
    pub(super) checksum: u16,
    /// Offset of the transport header.
    pub(super) transport: u32,
    /// Offset of the packet's end.
    pub(super) end: u32,
}

/// The IP header of `frame`.
#[inline(always)]
pub(super) fn network(frame: &impl Frame) -> Result<Network, Unread> {
    // With one look for most packets.
    let Some(bytes) = frame.load::<{ (ETHERNET + IPV4) as usize }>(0) else {
        let ethertype = frame.load::<2>(ETHERNET - 2).ok_or(Unread::Other)?;
        let is_ip = matches!(ethertype, ETHERTYPE_IPV4 | ETHERTYPE_IPV6);
        return Err(if is_ip { Unread::Malformed } else { Unread::Other });
    };
    match [bytes[12], bytes[13]] {
        ETHERTYPE_IPV4 => network_v4(frame, &bytes),
        ETHERTYPE_IPV6 => network_v6(frame),
        _ => Err(Unread::Other),
    }
}

#[inline(always)]
fn network_v4(frame: &impl Frame, frame_bytes: &[u8; (ETHERNET + IPV4) as usize]) -> Result<Network, Unread> {
    let (_, bytes) = frame_bytes.split_at(ETHERNET as usize);
    let header = u32::from(bytes[0] & 0xf) * 4;
    let total = u32::from(u16::from_be_bytes([bytes[2], bytes[3]]));
    let end = end(frame, total, 0)?;
    if bytes[0] >> 4 != 4 || header < IPV4 || ETHERNET + header > end {
        return Err(Unread::Malformed);
    }
    // More fragments, or not the first.
    if u16::from_be_bytes([bytes[6], bytes[7]]) & 0x3fff != 0 {
        return Err(Unread::Fragment);
    }
    Ok(Network {
        src: v4([bytes[12], bytes[13], bytes[14], bytes[15]]),
        dst: v4([bytes[16], bytes[17], bytes[18], bytes[19]]),
        protocol: bytes[9],
        ttl: bytes[8],
        tos: bytes[1],
        is_v6: false,
        checksum: u16::from_ne_bytes([bytes[10], bytes[11]]),
        transport: ETHERNET + header,
        end,
    })
}

/// Offset of the end of a packet whose header says that it has `length` bytes after the first `before`.
///
/// A length of 0 is that of a packet of more than 64 KiB, which the kernel segments when it sends it ("big TCP").
#[inline(always)]
fn end(frame: &impl Frame, length: u32, before: u32) -> Result<u32, Unread> {
    let whole = frame.length();
    if length == 0 && whole > 0xffff + ETHERNET {
        return Ok(whole);
    }
    let end = ETHERNET + before + length;
    if end > whole {
        return Err(Unread::Malformed);
    }
    Ok(end)
}

#[inline(always)]
fn network_v6(frame: &impl Frame) -> Result<Network, Unread> {
    let bytes = frame.load::<40>(ETHERNET).ok_or(Unread::Malformed)?;
    let payload = u32::from(u16::from_be_bytes([bytes[4], bytes[5]]));
    let end = end(frame, payload, IPV6)?;
    if bytes[0] >> 4 != 6 {
        return Err(Unread::Malformed);
    }
    let [src, dst] = v6(&bytes);
    // They would be taken for addresses of IPv4, which they are on no wire (RFC 4291, section 2.5.5.2).
    if src.is_v4() || dst.is_v4() {
        return Err(Unread::Malformed);
    }
    let (protocol, transport) = extensions(frame, bytes[6], end)?;
    Ok(Network {
        src,
        dst,
        protocol,
        ttl: bytes[7],
        tos: bytes[0] << 4 | bytes[1] >> 4,
        is_v6: true,
        checksum: 0,
        transport,
        end,
    })
}

/// The protocol after all extension headers, and where its header is.
#[inline(always)]
fn extensions(frame: &impl Frame, first: u8, end: u32) -> Result<(u8, u32), Unread> {
    let (mut next, mut at) = (first, ETHERNET + IPV6);
    for _ in 0..EXTENSIONS {
        let length = match next {
            // Hop-by-hop options, destination options; routing that has come to its end.
            0 | 43 | 60 => {
                let [_, length, _, left] = frame.load::<4>(at).ok_or(Unread::Malformed)?;
                if next == 43 && left != 0 {
                    return Err(Unread::Extension);
                }
                (u32::from(length) + 1) * 8
            }
            44 => {
                let bytes = frame.load::<4>(at).ok_or(Unread::Malformed)?;
                // Offset and "more fragments"; both are 0 in an atomic fragment (RFC 6946).
                if u16::from_be_bytes([bytes[2], bytes[3]]) & 0xfff9 != 0 {
                    return Err(Unread::Fragment);
                }
                8
            }
            // Authentication and encryption: what follows is not to be changed, or not to be read.
            50 | 51 => return Err(Unread::Extension),
            _ => return Ok((next, at)),
        };
        let [following] = frame.load::<1>(at).ok_or(Unread::Malformed)?;
        next = following;
        at += length;
        if at > end {
            return Err(Unread::Malformed);
        }
    }
    if matches!(next, 0 | 43 | 44 | 50 | 51 | 60) {
        return Err(Unread::Extension);
    }
    Ok((next, at))
}

/// Whether no packet comes from such an address: unspecified, of a group, of the loopback network or, in IPv6, v4-mapped.
#[inline(always)]
pub(super) fn is_impossible_source(addr: Ip16) -> bool {
    let [a, b, c, d] = addr.words();
    if addr.is_v4() {
        let [first, ..] = d.to_ne_bytes();
        return first == 0 || first == 127 || first >= 224;
    }
    let [first, ..] = a.to_ne_bytes();
    first == 0xff || a == 0 && b == 0 && c == 0 && (d == 0 || u32::from_be(d) == 1)
}
