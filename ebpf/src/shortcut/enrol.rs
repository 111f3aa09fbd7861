// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Two sockets of this node find each other while their connection is established.
//!
//! ```text
//! TCP_CONNECT ─► offer;  TIMEOUT_INIT of a SYN ─► met;  ACTIVE_ESTABLISHED ─► client's end;  PASSIVE_ESTABLISHED ─► server's end
//! ```
//!
//! Called by `lifecycle` for events of `sock_ops`. Invariant: a socket enters the map only if its SYN has met a listener of this node, its
//! service or its client opted in, and neither its port nor the cgroup that made it opted out.

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TIMEOUT_INIT, bpf_sock_ops,
    },
    helpers::generated::{bpf_get_socket_cookie, bpf_sock_hash_update, bpf_sock_ops_cb_flags_set},
};
use nodemesh_abi::{
    ABI_VERSION,
    shortcut::{End, EndFlags, Met, Offer, room},
};

use super::{
    leave,
    socket::{Socket, ends, field, key},
};
use crate::{maps, place::current_settings};

/// An event of a TCP socket, other than those that nobody asked for.
#[inline(always)]
pub fn event(ops: *mut bpf_sock_ops, op: u32) {
    if op == BPF_SOCK_OPS_RTT_CB {
        return leave::sampled(ops);
    }
    let settings = current_settings();
    if !settings.has_shortcut() {
        return;
    }
    match op {
        BPF_SOCK_OPS_TIMEOUT_INIT => met(ops),
        BPF_SOCK_OPS_TCP_CONNECT_CB => offer(ops, settings.cgroup_depths),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(ops),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(ops, settings.cgroup_depths),
        _ => {}
    }
}

/// Whether one of the events above, or anything else, is behind `op`: asked before anything is looked up.
#[inline(always)]
pub fn concerns(op: u32) -> bool {
    const OPS: u32 = 1 << BPF_SOCK_OPS_TIMEOUT_INIT
        | 1 << BPF_SOCK_OPS_TCP_CONNECT_CB
        | 1 << BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB
        | 1 << BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB
        | 1 << BPF_SOCK_OPS_RTT_CB;
    OPS >> (op & 31) & 1 != 0
}

/// A client dials.
#[inline(always)]
fn offer(ops: *mut bpf_sock_ops, depths: u32) {
    let Some(socket) = Socket::of(ops) else {
        return;
    };
    // SAFETY: a live record; the fields are written only while the socket is not connected.
    let (rules, port, live) = unsafe {
        let connection = socket.record.0;
        (
            (*connection).rules,
            (*connection).service_port,
            socket.record.is_live(),
        )
    };
    let choice = socket.choice(depths);
    let rules_row = maps::rules.get(rules);
    let opted_in = rules_row.is_some_and(|rules| rules.is_short(port, choice.is_in()));
    if !live || !opted_in || choice.is_out() {
        return;
    }
    let (own, peer) = ends(ops);
    let offer = Offer {
        // SAFETY: the kernel's context.
        cookie: unsafe { bpf_get_socket_cookie(ops.cast()) },
        rules,
        ..Offer::default()
    };
    let _full = maps::short_offers.insert(key(ops, own, peer), offer, 0);
}

/// A SYN is about to be answered by a listener of this node.
#[inline(always)]
fn met(ops: *mut bpf_sock_ops) {
    // SAFETY: the kernel's context.
    if unsafe { (*ops).is_fullsock } != 0 {
        // A client's own timer.
        return;
    }
    let (own, peer) = ends(ops);
    if let Some(offer) = maps::short_offers.get_ptr_mut(key(ops, peer, own)) {
        // SAFETY: a map value.
        unsafe { (&raw mut (*offer).met).write_volatile(Met::LISTENER) };
    }
}

/// The client's end of a connection is established.
#[inline(always)]
fn connected(ops: *mut bpf_sock_ops) {
    let (own, peer) = ends(ops);
    let key = key(ops, own, peer);
    let Some(offer) = maps::short_offers.get_ptr_mut(key) else {
        return;
    };
    // SAFETY: a map value.
    let is_met = unsafe { (&raw const (*offer).met).read_volatile() } == Met::LISTENER;
    let socket = Socket::of(ops);
    let (true, Some(socket)) = (is_met, socket) else {
        let _gone = maps::short_offers.remove(key);
        return;
    };
    // SAFETY: a map value.
    let rules = unsafe { (*offer).rules };
    // An offer is made only if the service or the client opted in.
    let by_client = maps::rules.get(rules).is_none_or(|rules| rules.shortcut == 0);
    if enrol(
        ops,
        socket,
        0,
        (rules, u32::from(by_client) * EndFlags::BY_CLIENT),
    ) == 0
    {
        let _gone = maps::short_offers.remove(key);
        return;
    }
    // SAFETY: a map value.
    unsafe { (&raw mut (*offer).first).write_volatile(socket.sk.sequence().0) };
}

/// The server's end of a connection is established.
#[inline(always)]
fn accepted(ops: *mut bpf_sock_ops, depths: u32) {
    let (own, peer) = ends(ops);
    let key = key(ops, peer, own);
    // SAFETY: copied at once.
    let Some(offer) = (unsafe { maps::short_offers.get(key) }).copied() else {
        return;
    };
    let _gone = maps::short_offers.remove(key);
    let Some(socket) = Socket::of(ops) else {
        return;
    };
    let is_same = offer.first == socket.sk.sequence().1 && offer.met == Met::LISTENER;
    if !is_same || socket.choice(depths).is_out() {
        return;
    }
    let Some(client) = maps::short_ends.get_ptr_mut(offer.cookie) else {
        return;
    };
    // SAFETY: a map value; volatile because other programs write it.
    let (version, flags) = unsafe { ((*client).version, (&raw const (*client).flags).read_volatile()) };
    if version != ABI_VERSION {
        return;
    }
    let cookie = enrol(
        ops,
        socket,
        offer.cookie,
        (offer.rules, flags & EndFlags::BY_CLIENT),
    );
    // SAFETY: a map value. The client learns of its peer when this one is in the map.
    unsafe { (&raw mut (*client).peer).write_volatile(cookie) };
}

/// Makes the socket an end, and puts it into the map; returns its cookie, or 0 if there is no room.
#[inline(always)]
fn enrol(ops: *mut bpf_sock_ops, socket: Socket, peer: u64, (rules, flags): (u32, u32)) -> u64 {
    let next = socket.sk.sequence().1;
    // SAFETY: the kernel's context.
    let mut cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let end = End {
        peer,
        rules,
        flags,
        version: ABI_VERSION,
        first: next,
        read_seq: next,
        room: room(socket.sk.receive_buffer()),
        ..End::default()
    };
    if maps::short_ends
        .insert(cookie, end, u64::from(BPF_NOEXIST))
        .is_err()
    {
        return 0;
    }
    let map = (&raw const maps::short_socks).cast_mut().cast();
    // SAFETY: the kernel's context; the key is on the stack.
    let failed = unsafe { bpf_sock_hash_update(ops, map, (&raw mut cookie).cast(), 0) };
    if failed != 0 {
        let _gone = maps::short_ends.remove(cookie);
        return 0;
    }
    socket.record.enrol();
    // SAFETY: the kernel's context.
    unsafe {
        // Programs of others have set theirs.
        let flags = field!(ops, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_RTT_CB_FLAG;
        bpf_sock_ops_cb_flags_set(ops, flags.cast_signed());
    }
    cookie
}
