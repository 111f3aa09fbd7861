// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The packet path: services for clients that no socket hook sees. Called by `flow_ingress`, `flow_egress`, `flow_xdp` and `flow_sweep`.
//!
//! ```text
//! read ─► find ─► (not found: admit ─► open) ─► route ─► translate ─► touch ─► redirect, deliver here, or leave to the stack
//! ```
//!
//! What a stage finds out lies in the scratch of its hook; stages that need no packet are functions of their own, which the verifier walks
//! through once. Invariant: a packet is changed only when everything about it is decided, so whatever goes wrong leaves it as it came.

mod admit;
mod count;
mod end;
mod find;
mod frame;
mod open;
mod route;
mod scratch;
mod touch;

use aya_ebpf::bindings::{__sk_buff, tcx_action_base, xdp_action, xdp_md};
pub use end::sweep;
use frame::{Packet, Skb, Xdp};
use nodemesh_abi::{
    FlowEvent, FlowMode,
    flow::{Direction, TrackMode, Unread, headers::Kind, state::TcpFlags, translate},
};
use route::Route;
use scratch::Scratch;
pub use scratch::{Hook, Words as ScratchWords};

use crate::{maps, place::now};

/// A packet that an interface received.
#[inline(always)]
pub fn ingress(skb: *mut __sk_buff) -> i32 {
    let hook = Hook::Ingress as u32;
    // One that was sent to a router behind an interface without flow_egress, and comes back.
    frame::take_mark(skb);
    let packet = Skb::new(skb, Hook::Ingress);
    if !packet.is_for_host() {
        // Flooded by a switch, or on its way through a bridge.
        return tcx_action_base::TCX_NEXT;
    }
    let kind = read(&packet);
    if kind == UNREAD {
        return tcx_action_base::TCX_NEXT;
    }
    let is_error = kind == Kind::Error as u32;
    let mut found = find::row(hook, u32::from(is_error));
    if found != 0 && begins_anew(hook, found) != 0 {
        end::reopen(find::number(found));
        found = 0;
    }
    if found == 0 {
        if is_error {
            return tcx_action_base::TCX_NEXT;
        }
        found = begin(&mut Skb::new(skb, Hook::Ingress));
        if found == 0 {
            return tcx_action_base::TCX_NEXT;
        }
        if found & open::FAILED != 0 {
            return tcx_action_base::TCX_DROP;
        }
    }
    let fate = send(&mut Skb::new(skb, Hook::Ingress), found);
    let ifindex = fate as u32;
    match fate & Fate::KIND {
        Fate::DROP => tcx_action_base::TCX_DROP,
        Fate::SEND => {
            frame::mark(skb);
            frame::redirect(ifindex)
        }
        Fate::RESOLVE => {
            let Some(scratch) = Scratch::of(hook) else {
                return tcx_action_base::TCX_DROP;
            };
            frame::mark(skb);
            // SAFETY: the scratch of this hook, on this CPU.
            frame::redirect_and_resolve(ifindex, unsafe { &(*scratch).fib })
        }
        _ => tcx_action_base::TCX_NEXT,
    }
}

/// A packet that an interface sends.
#[inline(always)]
pub fn egress(skb: *mut __sk_buff) -> i32 {
    let hook = Hook::Egress as u32;
    if frame::take_mark(skb) {
        return tcx_action_base::TCX_NEXT;
    }
    let kind = read(&Skb::new(skb, Hook::Egress));
    if kind == UNREAD {
        return tcx_action_base::TCX_NEXT;
    }
    let found = find::row(hook, u32::from(kind == Kind::Error as u32));
    if found == 0 || find::direction(found) as u8 != Direction::Reply as u8 {
        return tcx_action_base::TCX_NEXT;
    }
    if !rewrite(&mut Skb::new(skb, Hook::Egress), Direction::Reply as u32, 0) {
        return tcx_action_base::TCX_DROP;
    }
    touch::seen(hook, found);
    tcx_action_base::TCX_NEXT
}

/// A packet that a driver received: only packets of flows that there are, and that leave where they came in. All else is for
/// `flow_ingress`.
#[inline(always)]
pub fn early(context: *mut xdp_md) -> u32 {
    let hook = Hook::Xdp as u32;
    let kind = read(&Xdp::new(context));
    if kind == UNREAD || kind == Kind::Error as u32 {
        return xdp_action::XDP_PASS;
    }
    let found = find::row(hook, 0);
    if found == 0 || begins_anew(hook, found) != 0 {
        return xdp_action::XDP_PASS;
    }
    match send(&mut Xdp::new(context), found) & Fate::KIND {
        Fate::SEND => xdp_action::XDP_TX,
        Fate::DROP => xdp_action::XDP_DROP,
        _ => xdp_action::XDP_PASS,
    }
}

/// What [`read`] gives for a packet that is none for this path.
const UNREAD: u32 = u32::MAX;

/// What becomes of a packet, above the number of an interface. A number, since a function of BPF returns no more.
struct Fate;

impl Fate {
    /// Where it stands.
    const KIND: u64 = 3 << 32;
    /// It goes on to whoever is next, and to the stack.
    const PASS: u64 = 0;
    /// It ends here.
    const DROP: u64 = 1 << 32;
    /// It leaves by the interface, with link-layer addresses in place.
    const SEND: u64 = 2 << 32;
    /// It leaves by the interface; the kernel is to find out the link-layer addresses.
    const RESOLVE: u64 = 3 << 32;
}

/// Reads the headers of a packet into the scratch of its hook and gives their [`Kind`]; [`UNREAD`] if it is none for this path, or the path
/// is off. A function with a stack of its own, as those below.
#[inline(never)]
fn read<P: Packet>(packet: &P) -> u32 {
    let Some(settings) = maps::flow_settings.get(0) else {
        return UNREAD;
    };
    let Some(scratch) = Scratch::of(packet.hook() as u32) else {
        return UNREAD;
    };
    if !settings.is_on() {
        return UNREAD;
    }
    // SAFETY: the scratch of this hook, on this CPU.
    let headers = unsafe { &mut (*scratch).headers };
    let event = match headers.read(packet) {
        Ok(()) => return headers.kind as u32,
        Err(Unread::Other) => return UNREAD,
        Err(Unread::Malformed) => FlowEvent::Malformed,
        Err(Unread::Fragment) => FlowEvent::Fragment,
        Err(Unread::Extension) => FlowEvent::Extension,
    };
    count::packet(event as u32, packet.length());
    UNREAD
}

/// 1 if a SYN of the client comes in a flow that is over: it begins another one.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn begins_anew(hook: u32, found: u32) -> u32 {
    let Some(scratch) = Scratch::of(hook) else {
        return 0;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &*scratch };
    let is_syn = scratch.headers.flags & (TcpFlags::SYN | TcpFlags::ACK) == TcpFlags::SYN;
    let from_client = find::direction(found) as u8 == Direction::Forward as u8;
    u32::from(from_client && is_syn && scratch.track.life().state().is_over())
}

/// A packet that belongs to no flow: opens one if it dials a service and may. Its row; 0 if it is none for this path; [`open::FAILED`] and
/// why if it is to be dropped.
#[inline(never)]
fn begin(packet: &mut Skb) -> u32 {
    let hook = Hook::Ingress as u32;
    let Some(scratch) = Scratch::of(hook) else {
        return 0;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &mut *scratch };
    if !admit::find_service(packet, scratch) {
        return 0;
    }
    if scratch.headers.flags & TcpFlags::RST != 0 {
        count::packet(FlowEvent::Stray as u32, scratch.headers.bytes);
        return 0;
    }
    let now = now();
    let mut refused = admit::admit(hook, now);
    if refused == admit::ADMITTED {
        refused = admit::choose(hook, now);
    }
    if scratch.news != 0 {
        admit::tell(hook);
    }
    if refused != admit::ADMITTED {
        count::packet(refused, scratch.headers.bytes);
        return open::FAILED | refused;
    }
    if scratch.service.mode == FlowMode::Direct as u8 {
        scratch.direct = u32::from(route::reaches_directly(packet, scratch));
    }
    let opened = open::open(hook, now);
    if opened & open::FAILED != 0 {
        count::packet(opened & !open::FAILED, scratch.headers.bytes);
    }
    opened
}

/// Sends a packet of a flow on its way: a [`Fate`]. The flow is in the scratch.
#[inline(never)]
fn send<P: Packet>(packet: &mut P, found: u32) -> u64 {
    let hook = packet.hook();
    let Some(scratch) = Scratch::of(hook as u32) else {
        return Fate::PASS;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let scratch = unsafe { &mut *scratch };
    let direction = find::direction(found);
    let route = route::of(packet, scratch, direction);
    let (fate, hops) = match route {
        Route::Here | Route::Stack | Route::TooBig => (Fate::PASS, 0),
        Route::Link(ifindex) => (Fate::SEND | u64::from(ifindex), 1),
        Route::Unresolved(ifindex) => (Fate::RESOLVE | u64::from(ifindex), 1),
    };
    if hook as u32 == Hook::Xdp as u32 {
        if fate != Fate::SEND | u64::from(packet.ifindex()) {
            count::packet(FlowEvent::Deferred as u32, scratch.headers.bytes);
            return Fate::PASS;
        }
        // The interface that it would leave by is the one that it came in by: its address is on both.
        if packet.load::<6>(0) != Some(scratch.fib.smac) {
            return Fate::PASS;
        }
    }
    if matches!(route, Route::Stack | Route::TooBig) && from_here(scratch, direction) {
        // The stack takes no packet from outside that comes from its own address, and would tell itself that it cannot be sent.
        let event = if route == Route::TooBig {
            FlowEvent::TooBig
        } else {
            FlowEvent::NoRoute
        };
        count::packet(event as u32, scratch.headers.bytes);
        return Fate::DROP;
    }
    if hops != 0 && scratch.headers.ttl <= hops {
        // The stack tells the sender, whose packet it has to be for that.
        return Fate::PASS;
    }
    if !rewrite(packet, direction as u32, hops) {
        return Fate::DROP;
    }
    if fate & Fate::KIND == Fate::SEND && !packet.address_link(&scratch.fib) {
        count::packet(FlowEvent::Rewrite as u32, scratch.headers.bytes);
        return Fate::DROP;
    }
    touch::seen(hook as u32, found);
    fate
}

/// Whether the packet's source becomes an address of this host.
#[inline(always)]
fn from_here(scratch: &Scratch, direction: Direction) -> bool {
    direction as u8 == Direction::Forward as u8
        && scratch.track.mode == TrackMode::Nat as u8
        && scratch.headers.kind as u8 != Kind::Error as u8
}

/// Translates the packet whose headers and flow are in the scratch of its hook; `hops` are taken from its time to live.
#[inline(never)]
fn rewrite<P: Packet>(packet: &mut P, direction: u32, hops: u8) -> bool {
    let Some(scratch) = Scratch::of(packet.hook() as u32) else {
        return false;
    };
    // SAFETY: the scratch of this hook, on this CPU.
    let Scratch { headers, track, .. } = unsafe { &*scratch };
    let direction = if direction == Direction::Reply as u32 {
        Direction::Reply
    } else {
        Direction::Forward
    };
    let done = if track.mode == TrackMode::Direct as u8 {
        true
    } else if headers.kind as u8 == Kind::Error as u8 {
        translate::error(packet, headers, track, direction, hops)
    } else {
        translate::packet(packet, headers, &track.mapping(direction), hops)
    };
    if !done {
        count::packet(FlowEvent::Rewrite as u32, headers.bytes);
    }
    done
}
