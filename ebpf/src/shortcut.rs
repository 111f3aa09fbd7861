// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Who takes the shortcut: two sockets of this node find each other while their connection is established, and leave when the
//! shortcut is nothing for them.
//!
//! ```text
//! TCP_CONNECT ─► offer;  TIMEOUT_INIT of a SYN ─► met;  ACTIVE_ESTABLISHED ─► client's end;  PASSIVE_ESTABLISHED ─► server's end
//! RTT ─► bulk, unusual readers and sockets without a peer leave
//! ```
//!
//! Called by `lifecycle` for events of `sock_ops`. Invariant: a socket enters the map only if its SYN has met a listener of this node, its
//! service opted in, and neither its port nor the cgroup that made it opted out.

pub mod read;
pub mod send;

use aya_ebpf::{
    bindings::{
        BPF_NOEXIST, BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_RTT_CB, BPF_SOCK_OPS_RTT_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TIMEOUT_INIT, bpf_sock_ops,
    },
    helpers::generated::{
        bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_map_delete_elem, bpf_skc_to_tcp_sock,
        bpf_sock_hash_update, bpf_sock_ops_cb_flags_set,
    },
};
use nodemesh_abi::{
    ABI_VERSION, Connection, Ip16, Port,
    connection::Counted,
    limits::MAX_CGROUP_DEPTH,
    shortcut::{End, EndFlags, Offer, OfferKey, Progress, room},
};

use crate::{
    atomic, kernel_sock::KernelSock, maps, meter::Way, opaque, place::current_settings, record::Record,
    sock_addr::Endpoint,
};

/// `AF_INET` of Linux.
const AF_INET: u32 = 2;

/// An event of a TCP socket, other than those that nobody asked for.
#[inline(always)]
pub fn event(ops: *mut bpf_sock_ops, op: u32) {
    if op == BPF_SOCK_OPS_RTT_CB {
        return sampled(ops);
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

/// The socket behind an event.
#[derive(Clone, Copy)]
struct Socket {
    record: Record,
    sk: KernelSock,
}

impl Socket {
    /// Of an event of a mesh socket.
    #[inline(always)]
    fn of(ops: *mut bpf_sock_ops) -> Option<Self> {
        // SAFETY: the kernel passes this context; the verifier demands the null checks.
        unsafe {
            let sk = (*ops).__bindgen_anon_2.sk;
            if sk.is_null() {
                return None;
            }
            let tcp = bpf_skc_to_tcp_sock(sk.cast());
            if tcp.is_null() {
                return None;
            }
            let record = Record::of(tcp.cast())?;
            let sk = KernelSock::new(tcp.cast_const().cast());
            Some(Self { record, sk })
        }
    }

    /// Whether the cgroup that made it, or one above, is kept from the shortcut.
    #[inline(always)]
    fn is_opted_out(self, depths: u32) -> bool {
        if depths == 0 {
            return false;
        }
        for depth in 0..=MAX_CGROUP_DEPTH {
            if depths & (1 << depth) == 0 {
                continue;
            }
            // SAFETY: copied at once; an update by the agent replaces the element.
            if let Some(entry) = unsafe { maps::cgroups.get(self.sk.cgroup_at(depth)) }
                && entry.excluded != 0
            {
                return true;
            }
        }
        false
    }
}

/// The field of the context, read whole and alone: the verifier allows no other access, and the compiler would join several.
macro_rules! field {
    ($ops:ident, $($field:tt)+) => {
        opaque::unknown(u64::from((&raw const (*$ops).$($field)+).read_volatile())) as u32
    };
}

/// The two ends of a socket: its own, and the peer's.
#[inline(always)]
fn ends(ops: *mut bpf_sock_ops) -> (Endpoint, Endpoint) {
    // SAFETY: the kernel's context. What a socket of the other family has there is not used.
    unsafe {
        let is_v4 = field!(ops, family) == AF_INET;
        // The first of four bytes in network byte order; the own port is a number.
        let peer_port = Port::new((u32::from_be(field!(ops, remote_port)) & 0xffff) as u16);
        let own_port = Port::new((field!(ops, local_port) & 0xffff) as u16);
        let (own, peer) = (field!(ops, local_ip4), field!(ops, remote_ip4));
        let own6 = [
            field!(ops, local_ip6[0]),
            field!(ops, local_ip6[1]),
            field!(ops, local_ip6[2]),
            field!(ops, local_ip6[3]),
        ];
        let peer6 = [
            field!(ops, remote_ip6[0]),
            field!(ops, remote_ip6[1]),
            field!(ops, remote_ip6[2]),
            field!(ops, remote_ip6[3]),
        ];
        let addr = |v4, v6| {
            if is_v4 {
                Ip16::from_v4_word(v4)
            } else {
                Ip16::from_words(v6)
            }
        };
        let own = Endpoint {
            addr: addr(own, own6),
            port: own_port,
        };
        let peer = Endpoint {
            addr: addr(peer, peer6),
            port: peer_port,
        };
        (own, peer)
    }
}

/// The key of the connection from `client` to `server`.
#[inline(always)]
fn key(ops: *mut bpf_sock_ops, client: Endpoint, server: Endpoint) -> OfferKey {
    let netns = if server.addr.is_loopback() {
        // SAFETY: the helper takes the hook's own context.
        unsafe { bpf_get_netns_cookie(ops.cast()) }
    } else {
        0
    };
    OfferKey {
        client: client.addr,
        server: server.addr,
        netns,
        client_port: client.port,
        server_port: server.port,
        pad: 0,
    }
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
    let opted_in = maps::rules.get(rules).is_some_and(|rules| rules.is_short(port));
    if !live || !opted_in || socket.is_opted_out(depths) {
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
        unsafe { (&raw mut (*offer).met).write_volatile(1) };
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
    let is_met = unsafe { (&raw const (*offer).met).read_volatile() } != 0;
    let socket = Socket::of(ops);
    let (true, Some(socket)) = (is_met, socket) else {
        let _gone = maps::short_offers.remove(key);
        return;
    };
    // SAFETY: a map value.
    let rules = unsafe { (*offer).rules };
    if enrol(ops, socket, 0, rules) == 0 {
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
    let is_same = offer.first == socket.sk.sequence().1 && offer.met != 0;
    if !is_same || socket.is_opted_out(depths) {
        return;
    }
    let Some(client) = maps::short_ends.get_ptr_mut(offer.cookie) else {
        return;
    };
    // SAFETY: a map value.
    if unsafe { (*client).version } != ABI_VERSION {
        return;
    }
    let cookie = enrol(ops, socket, offer.cookie, offer.rules);
    // SAFETY: a map value. The client learns of its peer when this one is in the map.
    unsafe { (&raw mut (*client).peer).write_volatile(cookie) };
}

/// Makes the socket an end, and puts it into the map; returns its cookie, or 0 if there is no room.
#[inline(always)]
fn enrol(ops: *mut bpf_sock_ops, socket: Socket, peer: u64, rules: u32) -> u64 {
    let next = socket.sk.sequence().1;
    // SAFETY: the kernel's context.
    let mut cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let end = End {
        peer,
        rules,
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

/// TCP has measured a round trip, so it carries the connection's bytes: time to ask whether the shortcut is of any use.
#[inline(always)]
fn sampled(ops: *mut bpf_sock_ops) {
    // SAFETY: the kernel's context.
    let mut cookie = unsafe { bpf_get_socket_cookie(ops.cast()) };
    let Some(own) = maps::short_ends.get_ptr_mut(cookie) else {
        return;
    };
    // SAFETY: map values; other CPUs write them.
    unsafe {
        let peer_cookie = (&raw const (*own).peer).read_volatile();
        let peer_flags = match maps::short_ends.get_ptr(peer_cookie) {
            Some(peer) => (&raw const (*peer).flags).read_volatile(),
            None => EndFlags::LEAVING,
        };
        let flags = (&raw const (*own).flags).read_volatile();
        if (flags | peer_flags) & (EndFlags::CLOSED | EndFlags::BULK) == 0 {
            return;
        }
        atomic::or(&raw mut (*own).flags, EndFlags::LEAVING);
        // What a peer is about to hand over, it has counted already.
        if flags & EndFlags::LEAVING == 0 || progress(own).unread() != 0 {
            return;
        }
        bpf_map_delete_elem(
            (&raw const maps::short_socks).cast_mut().cast(),
            (&raw mut cookie).cast(),
        );
        let flags = field!(ops, bpf_sock_ops_cb_flags) & !BPF_SOCK_OPS_RTT_CB_FLAG;
        bpf_sock_ops_cb_flags_set(ops, flags.cast_signed());
    }
}

/// How far the application of an end has come.
///
/// # Safety
/// `end` is a map value.
#[inline(always)]
pub unsafe fn progress(end: *const End) -> Progress {
    // SAFETY: the caller's; volatile because other CPUs write it.
    unsafe {
        Progress {
            inbound: (&raw const (*end).inbound).read_volatile(),
            read: (&raw const (*end).read).read_volatile(),
            first: (*end).first,
            read_seq: (&raw const (*end).read_seq).read_volatile(),
            emptied: (&raw const (*end).emptied).read_volatile(),
        }
    }
}

/// Bytes that were handed to a socket and that its application has not read.
///
/// # Safety
/// `connection` is the record of a socket that the kernel keeps meanwhile.
#[inline(always)]
pub unsafe fn unread(connection: *const Connection) -> u32 {
    // SAFETY: the caller's.
    let (counted, cookie) = unsafe { ((*connection).counted, (*connection).cookie) };
    if counted & Counted::SHORT == 0 {
        return 0;
    }
    match maps::short_ends.get_ptr(cookie) {
        // SAFETY: a map value.
        Some(end) => unsafe { progress(end) }.unread() as u32,
        None => 0,
    }
}

/// The socket of an end is closed.
#[inline(always)]
pub fn ended(record: Record) {
    // SAFETY: a live record.
    let (counted, cookie) = unsafe { ((*record.0).counted, (*record.0).cookie) };
    if counted & Counted::SHORT != 0 {
        let _gone = maps::short_ends.remove(cookie);
    }
}

/// Bytes that took the shortcut through a socket, towards it or away from it: what TCP's sequence numbers lack.
#[inline(always)]
pub fn beside_tcp(record: Record, way: Way) -> u32 {
    // SAFETY: a live record.
    let (counted, cookie) = unsafe { ((*record.0).counted, (*record.0).cookie) };
    if counted & Counted::SHORT == 0 {
        return 0;
    }
    let Some(end) = maps::short_ends.get_ptr(cookie) else {
        return 0;
    };
    // SAFETY: a map value; other CPUs write it.
    unsafe {
        match way {
            Way::Sent => (&raw const (*end).outbound).read_volatile() as u32,
            Way::Received => (&raw const (*end).inbound).read_volatile() as u32,
        }
    }
}
