// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Where a packet goes once it is translated: the kernel's own routes and neighbours, asked before the packet is touched.
//!
//! Invariant: the question is about the translated packet, so its answer is the one that the stack would give.

use aya_ebpf::{
    bindings::{
        BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
        BPF_FIB_LKUP_RET_SUCCESS,
    },
    helpers::generated::bpf_fib_lookup,
};
use nodemesh_abi::{
    Ip16,
    flow::{Direction, Headers, TrackMode, headers::Kind, translate::error_addresses},
};

use super::{frame::Packet, scratch::Scratch};
use crate::maps;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `struct bpf_fib_lookup` of the kernel, whose unions this path uses in one way each.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Fib {
    /// Address family.
    pub family: u8,
    /// IANA protocol number.
    pub protocol: u8,
    /// Source port, network byte order.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Length to compare with the route's MTU; 0 to compare the buffer's.
    pub length: u16,
    /// Interface that the packet came in by; after it, the one that it leaves by.
    pub ifindex: u32,
    /// Type of service, or flow label and traffic class.
    pub tos: u32,
    /// Source; of IPv4, the first word.
    pub src: [u32; 4],
    /// Destination; after it, the next hop.
    pub dst: [u32; 4],
    /// Not used.
    pub vlan: u32,
    /// Link-layer source.
    pub smac: [u8; 6],
    /// Link-layer destination.
    pub dmac: [u8; 6],
}
const _: () = assert!(size_of::<Fib>() == 64);

/// Where a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// This host itself.
    Here,
    /// By this interface, with the link-layer addresses that were found.
    Link(u32),
    /// By this interface, to a next hop whose link-layer address is not known yet.
    Unresolved(u32),
    /// It is too long for the way: the stack tells the sender, if that is one that it would tell.
    TooBig,
    /// The stack decides, and tells the sender if there is no way.
    Stack,
}

/// Where a packet of a flow goes in `direction`.
#[inline(always)]
pub fn of<P: Packet>(packet: &P, scratch: &mut Scratch, direction: Direction) -> Route {
    let (src, dst) = if scratch.headers.kind as u8 == Kind::Error as u8 {
        error_addresses(&scratch.headers, &scratch.track, direction)
    } else {
        let to = scratch.track.mapping(direction);
        (to.src, to.dst)
    };
    if scratch.track.mode == TrackMode::Direct as u8 && direction as u8 == Direction::Forward as u8 {
        let backend = maps::backends.get(scratch.track.backend_id).map(|row| row.addr);
        return ask(packet, scratch, src, backend.unwrap_or(dst)).0;
    }
    ask(packet, scratch, src, dst).0
}

/// Whether `addr` is this host's, as far as its routes say.
#[inline(always)]
pub fn is_here<P: Packet>(packet: &P, scratch: &mut Scratch) -> bool {
    let (src, dst) = (scratch.headers.src, scratch.headers.dst);
    ask(packet, scratch, src, dst).0 == Route::Here
}

/// Whether the chosen backend is on a link of this host and listens where the client dials.
#[inline(always)]
pub fn reaches_directly<P: Packet>(packet: &P, scratch: &mut Scratch) -> bool {
    if scratch.backend_port != scratch.headers.tuple.dst_port {
        return false;
    }
    let (src, backend) = (scratch.headers.src, scratch.backend);
    match ask(packet, scratch, src, backend) {
        (Route::Link(_) | Route::Unresolved(_), is_on_link) => is_on_link,
        _ => false,
    }
}

/// Bytes of the packet; of one that is segmented later, of its longest segment. 0, which is not compared, if it is longer than any.
#[inline(always)]
fn longest<P: Packet>(packet: &P, headers: &Headers) -> u16 {
    let bytes = match packet.segment() {
        0 => headers.bytes,
        segment => headers
            .payload
            .wrapping_sub(headers.network)
            .wrapping_add(segment),
    };
    if bytes > u32::from(u16::MAX) {
        0
    } else {
        bytes as u16
    }
}

/// Asks for the way from `src` to `dst`; whether the next hop is `dst` itself comes second.
#[inline(always)]
fn ask<P: Packet>(packet: &P, scratch: &mut Scratch, src: Ip16, dst: Ip16) -> (Route, bool) {
    let is_v6 = scratch.headers.is_v6 != 0;
    let length = longest(packet, &scratch.headers);
    let fib = &mut scratch.fib;
    fib.family = if is_v6 { AF_INET6 } else { AF_INET };
    fib.protocol = scratch.headers.protocol;
    fib.src_port = 0;
    fib.dst_port = 0;
    fib.length = length;
    fib.ifindex = packet.ifindex();
    fib.tos = if is_v6 { 0 } else { u32::from(scratch.headers.tos) };
    fib.vlan = 0;
    if is_v6 {
        fib.src = src.words();
        fib.dst = dst.words();
    } else {
        fib.src = [src.v4_word(), 0, 0, 0];
        fib.dst = [dst.v4_word(), 0, 0, 0];
    }
    // SAFETY: `fib` has the kernel's layout and length.
    let answer = unsafe {
        bpf_fib_lookup(
            packet.context(),
            (&raw mut *fib).cast(),
            size_of::<Fib>().cast_signed() as i32,
            0,
        )
    };
    let next_hop = if is_v6 {
        Ip16::from_words(fib.dst)
    } else {
        Ip16::from_v4_word(fib.dst[0])
    };
    let route = if answer == i64::from(BPF_FIB_LKUP_RET_SUCCESS) {
        Route::Link(fib.ifindex)
    } else if answer == i64::from(BPF_FIB_LKUP_RET_NO_NEIGH) {
        Route::Unresolved(fib.ifindex)
    } else if answer == i64::from(BPF_FIB_LKUP_RET_NOT_FWDED) {
        Route::Here
    } else if answer == i64::from(BPF_FIB_LKUP_RET_FRAG_NEEDED) {
        Route::TooBig
    } else {
        Route::Stack
    };
    (route, next_hop == dst)
}
