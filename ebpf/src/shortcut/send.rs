// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! A message of an end: to the peer's receive queue, or to TCP.
//!
//! Runs with the sender's socket locked, so its own fields are written by one program at a time. Invariant: a message is handed over
//! only if the peer has read all that TCP carried before it, and what waits there fits into the half of its receive buffer.

use core::mem::offset_of;

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, sk_action, sk_msg_md},
    helpers::generated::{bpf_msg_pull_data, bpf_msg_redirect_hash, bpf_probe_read_kernel},
};
use nodemesh_abi::{
    Wire,
    meter::DownFacts,
    shortcut::{
        Apart, BULK_BYTES, BULK_FORGIVEN, End, EndFlags, FACTS, Fact, MESSAGE_BYTES, PROVEN, Route,
        START_BYTES,
    },
};

use crate::{
    atomic,
    kernel_sock::KnownTcp,
    maps,
    meter::Way,
    opaque::{forget, unknown},
    packet::{
        self, Shown, http1,
        segment::{Bytes, Segment},
    },
    place::current_settings,
    record::Record,
    shortcut::progress,
};

/// A message that was made linear.
#[derive(Clone, Copy)]
pub struct Message(*mut sk_msg_md);

impl Bytes for Message {
    #[inline(always)]
    fn read(self, at: u32, to: *mut u8, length: u32) -> bool {
        // The verifier wants to know how far a pointer into the message goes.
        let at = (unknown(u64::from(at)) & u64::from(MESSAGE_BYTES - 1)) as usize;
        // SAFETY: the kernel's context; the helper checks the address itself, and callers pass room for `length` bytes.
        unsafe {
            let start = (*self.0).__bindgen_anon_1.data.byte_add(at);
            let end = (*self.0).__bindgen_anon_2.data_end;
            if start as usize + length as usize > end as usize {
                return false;
            }
            bpf_probe_read_kernel(to.cast(), length, start.cast_const().cast());
        }
        true
    }
}

/// An application sends: always passes, by the shortcut or by TCP.
#[inline(always)]
pub fn message(msg: *mut sk_msg_md) -> u32 {
    // SAFETY: the kernel passes this context; the verifier demands the null checks.
    let (sk, size) = unsafe { ((*msg).__bindgen_anon_3.sk, (*msg).size) };
    if !sk.is_null()
        && let Some(record) = Record::of(sk.cast())
    {
        // SAFETY: a live record.
        if let Some(own) = maps::short_ends.get_ptr_mut(unsafe { (*record.0).cookie }) {
            let route =
                // SAFETY: a map value.
                match maps::short_ends.get_ptr_mut(unsafe { (&raw const (*own).peer).read_volatile() }) {
                    Some(peer) => {
                        // SAFETY: the verifier knows the socket.
                        match unsafe { KnownTcp::of(sk.cast_const().cast()) } {
                            Some(tcp) => Sending {
                                msg,
                                size,
                                record,
                                own,
                                peer,
                                tcp,
                            }
                            .route(),
                            None => Route::Off,
                        }
                    }
                    None => Route::Off,
                };
            sent(route, size);
        }
    }
    sk_action::SK_PASS
}

/// Counts how a message went.
#[inline(always)]
fn sent(route: Route, size: u32) {
    // SAFETY: a per-CPU value. A task that is preempted here may lose a count to the one that follows.
    unsafe {
        if let Some(count) = maps::short_counts.get_ptr_mut(route as u32) {
            (*count).messages += 1;
            (*count).bytes += u64::from(size);
        }
    }
}

/// A message, and the two ends.
#[derive(Clone, Copy)]
struct Sending {
    msg: *mut sk_msg_md,
    size: u32,
    record: Record,
    own: *mut End,
    peer: *mut End,
    tcp: KnownTcp,
}

impl Sending {
    /// Hands the message over if it may be.
    #[inline(always)]
    fn route(self) -> Route {
        if self.is_bulk() {
            return Route::Large;
        }
        let wire = match self.refusal() {
            Ok(wire) => wire,
            Err(route) => return route,
        };
        // SAFETY: a map value.
        let outbound = unsafe { (*self.own).outbound };
        let written = self.tcp.written();
        if let Some(route) = self.queue(written) {
            return route;
        }
        // The verifier would walk a loop once for each offset that it knows.
        let at = self.record.zero() as u32;
        let segment = Segment {
            skb: Message(self.msg),
            at,
            end: at.wrapping_add(self.size),
            seq: written.wrapping_add(outbound as u32),
        };
        // SAFETY: a live record; the vantage is written before the record is.
        let up = Way::Sent.is_up(unsafe { (*self.record.0).meter.vantage });
        let mut fact = Fact {
            start: segment.seq,
            mark: segment.seq_end(),
            is_up: u8::from(up),
            ..Fact::default()
        };
        if wire == Wire::Http1 && !self.parse(&segment, up, &mut fact) {
            return Route::Wire;
        }
        if wire == Wire::Http1 && !self.is_proven(up, fact.facts) {
            return Route::Apart;
        }
        // SAFETY: that is the byte there.
        unsafe {
            forget(
                &mut fact,
                offset_of!(Fact, is_up),
                u8::from(up),
                self.record.zero(),
            );
        }
        self.hand_over(&segment, &fact)
    }

    /// Whether the peer's application would read this part of an HTTP message, as far as that is known. If it is not, TCP is about to be
    /// given the part while the peer has read all before: what it does with it will show.
    #[inline(always)]
    fn is_proven(self, up: bool, facts: u16) -> bool {
        let begins = if up {
            facts != 0
        } else {
            DownFacts(facts).has(DownFacts::HEADERS)
        };
        if begins && self.size <= START_BYTES {
            return true;
        }
        let events = !up && http1::known(self.record).has(DownFacts::EVENTS);
        // SAFETY: a map value, of which only this socket's sends write these fields.
        unsafe {
            let (proofs, apart) = if events {
                ((*self.own).events, Apart::Events)
            } else {
                ((*self.own).bodies, Apart::Body)
            };
            if proofs < PROVEN {
                (*self.own).apart = apart as u32;
            }
            proofs >= PROVEN
        }
    }

    /// The peer has read all that TCP carried, by reads.
    #[inline(always)]
    fn prove(self) {
        // SAFETY: as in `is_proven`.
        unsafe {
            let apart = (*self.own).apart;
            (*self.own).bodies += u32::from(apart == Apart::Body as u32);
            (*self.own).events += u32::from(apart == Apart::Events as u32);
            (*self.own).apart = 0;
        }
    }

    /// Counts large messages.
    #[inline(always)]
    fn is_bulk(self) -> bool {
        // SAFETY: map values.
        unsafe {
            let bulk = (*self.own).bulk;
            if self.size <= MESSAGE_BYTES {
                (*self.own).bulk = bulk.saturating_sub(BULK_FORGIVEN);
                return false;
            }
            let bulk = bulk.saturating_add(self.size);
            (*self.own).bulk = bulk;
            if bulk > BULK_BYTES {
                atomic::or(&raw mut (*self.own).flags, EndFlags::BULK);
            }
            true
        }
    }

    /// What speaks against it, whatever the state of the queues is; else what the connection carries.
    #[inline(always)]
    fn refusal(self) -> Result<Wire, Route> {
        // SAFETY: map values and a live record; volatile because other programs write them.
        let (own, peer, wire, rules) = unsafe {
            (
                (&raw const (*self.own).flags).read_volatile(),
                (&raw const (*self.peer).flags).read_volatile(),
                Wire::from_raw((&raw const (*self.record.0).meter.wire).read_volatile()),
                (*self.own).rules,
            )
        };
        if peer & (EndFlags::SPLICES | EndFlags::WAITS | EndFlags::FRESH) != 0 {
            let is_fresh = peer & EndFlags::FRESH != 0;
            return Err(if is_fresh { Route::Undrained } else { Route::Reader });
        }
        let is_off = (own | peer) & (EndFlags::LEAVING | EndFlags::BULK) != 0
            || !current_settings().has_shortcut()
            || own & EndFlags::BY_CLIENT == 0
                && maps::rules.get(rules).is_none_or(|rules| rules.shortcut == 0);
        if is_off || self.tcp.has_upper_protocol() {
            return Err(Route::Off);
        }
        match wire {
            Wire::Http1 | Wire::Other => Ok(wire),
            _ => Err(Route::Wire),
        }
    }

    /// What the state of the queues says against it; `written` is the sequence number after the last byte that TCP was given.
    #[inline(always)]
    fn queue(self, written: u32) -> Option<Route> {
        // SAFETY: map values; other CPUs write them.
        unsafe {
            let peer = self.peer;
            let seen = progress(peer);
            if !seen.is_drained(written) {
                return Some(Route::Undrained);
            }
            self.prove();
            let room = (&raw const (*peer).room).read_volatile();
            (seen.unread() + u64::from(self.size) > u64::from(room)).then_some(Route::Full)
        }
    }

    /// Reads what the message shows; false if it cannot be read.
    #[inline(always)]
    fn parse(self, segment: &Segment<Message>, up: bool, fact: &mut Fact) -> bool {
        // SAFETY: the kernel's context.
        unsafe {
            let (data, end) = (
                (*self.msg).__bindgen_anon_1.data as usize,
                (*self.msg).__bindgen_anon_2.data_end as usize,
            );
            if data + self.size as usize > end && bpf_msg_pull_data(self.msg, 0, self.size, 0) != 0 {
                return false;
            }
        }
        let mut shown = Shown::NOTHING;
        if up {
            http1::request(segment, &mut shown);
        } else {
            http1::response(segment, self.record, &mut shown);
        }
        fact.facts = shown.facts(up);
        fact.status = shown.status;
        fact.response_end = shown.response_end;
        true
    }

    /// Hands the message over, and tells both ends what it shows.
    #[inline(always)]
    fn hand_over(self, segment: &Segment<Message>, fact: &Fact) -> Route {
        let tells = fact.facts != 0;
        // SAFETY: map values; other CPUs write them.
        unsafe {
            let peer = self.peer;
            let put = (*peer).put;
            if tells {
                if put.wrapping_sub((&raw const (*peer).taken).read_volatile()) >= FACTS as u32 {
                    return Route::Full;
                }
                let index = unknown(u64::from(put)) as usize % FACTS;
                (&raw mut (*peer).facts).cast::<Fact>().add(index).write(*fact);
            }
            // Counted before it is looked whether the peer is leaving: whoever takes the peer out looks the other way round.
            atomic::fetch_add(&raw mut (*peer).inbound, u64::from(self.size));
            let leaving = (&raw const (*peer).flags).read_volatile() & EndFlags::LEAVING != 0;
            if leaving || !self.redirect() {
                atomic::fetch_add(&raw mut (*peer).inbound, u64::from(self.size).wrapping_neg());
                return Route::Off;
            }
            if tells {
                (&raw mut (*peer).put).write_volatile(put.wrapping_add(1));
            }
            (*self.own).outbound += u64::from(self.size);
        }
        segment.advance(self.record, fact.is_up != 0);
        if tells {
            packet::show(self.record, self.tcp.as_ptr(), &Shown::of(fact), fact.mark);
        }
        Route::Short
    }

    #[inline(always)]
    fn redirect(self) -> bool {
        let map = (&raw const maps::short_socks).cast_mut().cast();
        // SAFETY: the kernel's context; the key is on the stack.
        unsafe {
            let mut cookie = (&raw const (*self.own).peer).read_volatile();
            bpf_msg_redirect_hash(self.msg, map, (&raw mut cookie).cast(), u64::from(BPF_F_INGRESS))
                == i64::from(sk_action::SK_PASS)
        }
    }
}
