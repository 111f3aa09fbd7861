// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Live connections take the shortcut when it is switched on again, or for the first time: an iterator over their records, run by the
//! agent a few times.
//!
//! ```text
//! ends that know each other ─► back into the map
//! else: client ─► offer;  server: same first bytes ─► its end, answer;  client: answered ─► its end
//! ```
//!
//! The sequence numbers of the first bytes of both directions, which only the two ends of one connection have in common, prove a pair: a
//! proxy that kept the addresses has others. Invariant: nothing is handed to an end until a read of its application has returned after it
//! entered the map, since a read that had begun before looks at TCP alone.

use core::{ffi::c_void, ptr};

use aya_ebpf::{bindings::BPF_NOEXIST, helpers::generated::bpf_map_update_elem};
use nodemesh_abi::{
    ABI_VERSION, Connection, Protocol, Vantage,
    shortcut::{End, EndFlags, Met, Offer, OfferKey},
};

use super::socket::{Choice, Socket};
use crate::{
    atomic, kernel_sock::KernelSock, lifecycle::tcp, listing::IterContext, maps, place::current_settings,
    record::Record,
};

/// The iterator's current socket.
#[inline(always)]
pub fn visit(ctx: *mut c_void) -> i32 {
    let ctx = ctx.cast::<IterContext>();
    // SAFETY: the kernel passes this context; the verifier checks the access and demands the null check.
    let sk = unsafe { ptr::read_volatile(&raw const (*ctx).sk) };
    let settings = current_settings();
    if sk.is_null() || !settings.has_shortcut() {
        return 0;
    }
    let Some(record) = Record::of(sk) else {
        return 0;
    };
    let socket = KernelSock::new(sk);
    let is_open = record.is_live() && i32::from(socket.state()) == tcp::ESTABLISHED;
    // SAFETY: a live record; these fields are written only while the socket is not connected.
    let protocol = unsafe { (*record.0).protocol };
    if !is_open || protocol != Protocol::Tcp as u16 {
        return 0;
    }
    let visit = Visit {
        sk,
        socket: Socket { record, sk: socket },
        depths: settings.cgroup_depths,
    };
    visit.go();
    0
}

/// An established connection's socket.
#[derive(Clone, Copy)]
struct Visit {
    sk: *mut c_void,
    socket: Socket,
    depths: u32,
}

impl Visit {
    #[inline(always)]
    fn go(self) {
        let connection = self.connection();
        // SAFETY: a live record; these fields are written only while the socket is not connected.
        let (cookie, is_client) = unsafe {
            let vantage = (*connection).meter.vantage;
            ((*connection).cookie, vantage == Vantage::Client as u8)
        };
        let choice = self.socket.choice(self.depths);
        let (by_client, by_any) = self.opted_in(choice);
        if is_client {
            tell(cookie, by_client);
        }
        // In a map already, of ours or of somebody else.
        let is_in = self.socket.sk.is_in_map_of_sockets();
        if is_in || choice.is_out() || is_client && !by_any {
            return;
        }
        if let Some(own) = maps::short_ends.get_ptr_mut(cookie) {
            // SAFETY: a map value; other CPUs write it.
            let peer = unsafe { (&raw const (*own).peer).read_volatile() };
            if let Some(peer) = maps::short_ends.get_ptr(peer) {
                // SAFETY: map values.
                if unsafe { may_return(own, peer) } {
                    self.enter(own, cookie);
                }
                return;
            }
        }
        if is_client {
            self.client(cookie);
            tell(cookie, by_client);
        } else {
            self.server(cookie);
        }
    }

    /// Of a client: whether it opted in itself, and whether it or the service did.
    #[inline(always)]
    fn opted_in(self, choice: Choice) -> (bool, bool) {
        // SAFETY: as in `go`.
        let (rules, port) = unsafe { ((*self.connection()).rules, (*self.connection()).service_port) };
        let Some(rules) = maps::rules.get(rules) else {
            return (false, false);
        };
        let by_client = choice.is_in() && rules.is_short(port, true);
        (by_client, by_client || rules.is_short(port, false))
    }

    #[inline(always)]
    fn connection(self) -> *mut Connection {
        self.socket.record.0
    }

    /// The connection as its client sees it. The proof tells those apart that have it in common.
    #[inline(always)]
    fn key(self) -> OfferKey {
        // SAFETY: a live record; the fields are written only while the socket is not connected.
        unsafe {
            let connection = self.connection();
            OfferKey {
                client: (*connection).client_addr,
                server: (*connection).backend_addr,
                netns: 0,
                client_port: (*connection).client_port,
                server_port: (*connection).backend_port,
                pad: 0,
            }
        }
    }

    /// Takes the answer to an earlier visit, or makes an offer.
    #[inline(always)]
    fn client(self, cookie: u64) {
        let key = self.key();
        let (sent, received) = self.socket.sk.first_bytes();
        // What the client sends counts its SYN as acknowledged too.
        let first = sent.wrapping_add(1);
        // SAFETY: copied at once.
        let found = unsafe { maps::short_offers.get(key) }.copied();
        if let Some(offer) = found
            && offer.met == Met::ANSWERED
            && (offer.first, offer.answer) == (first, received)
        {
            let _gone = maps::short_offers.remove(key);
            self.pair(cookie, offer.cookie, offer.rules);
            return;
        }
        let offer = Offer {
            cookie,
            first,
            met: Met::LIVE,
            // SAFETY: a live record; the field is written only while the socket is not connected.
            rules: unsafe { (*self.connection()).rules },
            answer: received,
        };
        let _full = maps::short_offers.insert(key, offer, 0);
    }

    /// Answers the offer of the other end, if that has made one.
    #[inline(always)]
    fn server(self, cookie: u64) {
        let Some(offer) = maps::short_offers.get_ptr_mut(self.key()) else {
            return;
        };
        // SAFETY: a map value, of which nobody else writes these fields: `sock_ops` writes those of connections that begin.
        let found = unsafe { *offer };
        let (sent, received) = self.socket.sk.first_bytes();
        let is_same = found.met == Met::LIVE && (found.first, found.answer) == (received, sent);
        if is_same && self.pair(cookie, found.cookie, found.rules) {
            // SAFETY: as above.
            unsafe {
                (&raw mut (*offer).cookie).write_volatile(cookie);
                (&raw mut (*offer).met).write_volatile(Met::ANSWERED);
            }
        }
    }

    /// Makes the socket an end with this peer, and puts it into the map.
    #[inline(always)]
    fn pair(self, cookie: u64, peer: u64, rules: u32) -> bool {
        let end = End {
            peer,
            rules,
            version: ABI_VERSION,
            flags: EndFlags::FRESH,
            ..End::default()
        };
        // One that never had a peer may be there, with what was read so far.
        let _there = maps::short_ends.insert(cookie, end, u64::from(BPF_NOEXIST));
        let Some(own) = maps::short_ends.get_ptr_mut(cookie) else {
            return false;
        };
        // SAFETY: a map value.
        unsafe {
            (&raw mut (*own).peer).write_volatile(peer);
            self.socket.record.enrol();
            // A barrier too: whoever closes the socket ends its record first and then looks whether it is an end.
            if atomic::fetch_or(&raw mut (*own).flags, EndFlags::FRESH) & EndFlags::OUT != 0 {
                return false;
            }
        }
        if !self.socket.record.is_live() {
            let _gone = maps::short_ends.remove(cookie);
            return false;
        }
        self.enter(own, cookie)
    }

    /// Puts the socket into the map.
    #[inline(always)]
    fn enter(self, own: *mut End, mut cookie: u64) -> bool {
        // SAFETY: a map value; the key is on the stack, the socket is the iterator's current one.
        unsafe {
            // Before it can be found: a read may have begun that looks at TCP alone.
            atomic::or(&raw mut (*own).flags, EndFlags::FRESH);
            let map = (&raw const maps::short_socks).cast_mut().cast();
            let failed = bpf_map_update_elem(map, (&raw mut cookie).cast(), self.sk, u64::from(BPF_NOEXIST));
            if failed == 0 {
                (&raw mut (*own).version).write_volatile(ABI_VERSION);
            }
            failed == 0
        }
    }
}

/// Tells both ends whether the client opted in.
#[inline(always)]
fn tell(cookie: u64, by_client: bool) {
    let Some(own) = maps::short_ends.get_ptr_mut(cookie) else {
        return;
    };
    // SAFETY: map values; other CPUs write them.
    unsafe {
        mark(own, by_client);
        if let Some(peer) = maps::short_ends.get_ptr_mut((&raw const (*own).peer).read_volatile()) {
            mark(peer, by_client);
        }
    }
}

/// Sets or clears that the client of an end opted in.
///
/// # Safety
/// `end` is a map value.
#[inline(always)]
unsafe fn mark(end: *mut End, by_client: bool) {
    // SAFETY: the caller's.
    unsafe {
        let flags = &raw mut (*end).flags;
        if by_client {
            atomic::or(flags, EndFlags::BY_CLIENT);
        } else if flags.read_volatile() & EndFlags::BY_CLIENT != 0 {
            atomic::fetch_and(flags, !EndFlags::BY_CLIENT);
        }
    }
}

/// Whether an end that was taken out may be back.
///
/// # Safety
/// Both are map values.
#[inline(always)]
unsafe fn may_return(own: *const End, peer: *const End) -> bool {
    // SAFETY: the caller's; volatile because other CPUs write them.
    let (flags, rules) = unsafe {
        let own = ((&raw const (*own).flags).read_volatile(), (*own).rules);
        (own.0 | (&raw const (*peer).flags).read_volatile(), own.1)
    };
    let opted_in =
        flags & EndFlags::BY_CLIENT != 0 || maps::rules.get(rules).is_some_and(|rules| rules.shortcut != 0);
    opted_in && flags & EndFlags::OUT == 0
}
