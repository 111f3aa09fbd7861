// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Packets of mesh sockets, at `cgroup_skb`: what plaintext shows of them, and byte events where the tracepoints are missing.
//!
//! Parsing and counting are functions of their own, one after the other, so that their stacks need not fit side by side.
//! Invariant: a packet of a socket without a record costs one lookup in its storage, and every packet passes.

mod cursor;
pub mod http1;
mod http2;
pub mod segment;
mod tls;

use core::{ffi::c_void, mem::offset_of};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_ktime_get_ns, bpf_skc_to_tcp_sock},
};
use nodemesh_abi::{
    MeterPath, Wire,
    meter::{DownFacts, MeterFlags, UpFacts},
    parse::request::{self, START, Start},
    shortcut::Fact,
};
use segment::{Content, Segment};

use crate::{
    count::Subject,
    kernel_sock::KernelSock,
    meter::{self, Way},
    opaque::forget,
    place::current_settings,
    policy,
    record::Record,
    shortcut,
    verdict::{ALLOW, DENY},
};

/// What a packet shows. All zero: nothing.
///
/// Of plain fields, because the BTF of a Rust enum with data is none that kernels accept.
#[derive(Clone, Copy)]
pub struct Shown {
    /// 1 in request direction.
    is_up: u8,
    /// 1 if frames are to be walked.
    walks: u8,
    /// 1 if anything shows.
    tells: u8,
    /// What the connection carries, if that shows now.
    wire: Wire,
    /// Request direction.
    up: UpFacts,
    /// Response direction.
    down: DownFacts,
    /// Bytes of the last TLS record, with [`DownFacts::RECORD`].
    tail: u16,
    /// Class of the response's status; 0 if it does not show.
    pub status: u8,
    /// Where the response ends, with [`DownFacts::LENGTH`].
    pub response_end: u32,
    /// Bits of [`MeterFlags`] to set.
    flags: u32,
    /// Whether the application's data is known to begin, on TLS.
    app: AppData,
    /// Where it begins.
    app_start: u32,
}

/// What is known of the beginning of the application's data on TLS.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AppData {
    /// Nothing yet.
    Unseen,
    /// Where it is.
    Begins,
    /// Where it is, and that session tickets come before the first response.
    BeginsWithTickets,
}

impl Shown {
    pub const NOTHING: Self = Self {
        is_up: 0,
        walks: 0,
        tells: 0,
        wire: Wire::Unknown,
        up: UpFacts(0),
        down: DownFacts(0),
        tail: 0,
        status: 0,
        response_end: 0,
        flags: 0,
        app: AppData::Unseen,
        app_start: 0,
    };

    /// What a message shows that takes the shortcut.
    #[inline(always)]
    pub fn of(fact: &Fact) -> Self {
        let (up, down) = if fact.is_up != 0 {
            (fact.facts, 0)
        } else {
            (0, fact.facts)
        };
        Self {
            is_up: fact.is_up,
            tells: 1,
            up: UpFacts(up),
            down: DownFacts(down),
            status: fact.status,
            response_end: fact.response_end,
            ..Self::NOTHING
        }
    }

    /// The facts in one direction.
    #[inline(always)]
    pub fn facts(&self, up: bool) -> u16 {
        if up { self.up.0 } else { self.down.0 }
    }

    #[inline(always)]
    fn is_nothing(&self) -> bool {
        self.wire == Wire::Unknown && self.up.0 == 0 && self.down.0 == 0 && self.app == AppData::Unseen
    }
}

/// A packet leaves or reaches a socket; returns whether it may go on.
#[inline(always)]
pub fn seen(skb: *mut __sk_buff, way: Way) -> i32 {
    match Segment::of(skb) {
        Some(Content::Data(segment)) => data(&segment, skb, way),
        Some(Content::Syn(at)) if way == Way::Received && !admits(skb, at) => return DENY,
        // Acknowledgements, half of all packets, go no further.
        _ => {}
    }
    ALLOW
}

/// Whether a SYN, whose TCP header is at `at`, may reach its listener. One that cannot be read may: it is none that is answered.
#[inline(always)]
fn admits(skb: *mut __sk_buff, at: u32) -> bool {
    let Some((client, addr, port)) = segment::parties(skb, at) else {
        return true;
    };
    policy::admits_syn(client, addr, port)
}

#[inline(always)]
fn data(segment: &Segment, skb: *mut __sk_buff, way: Way) {
    // SAFETY: the kernel passes this context; the verifier demands the null check.
    let sk = unsafe { (*skb).__bindgen_anon_2.sk };
    if sk.is_null() {
        return;
    }
    let Some(record) = Record::of(sk.cast()) else {
        return;
    };
    // SAFETY: a live record; the vantage is written before the record is.
    let up = way.is_up(unsafe { (*record.0).meter.vantage });
    let segment = &segment.after(shortcut::beside_tcp(record, way));
    let order = segment.advance(record, up);
    if order.new_bytes == 0 {
        return;
    }
    // SAFETY: a live record; volatile because other programs write it.
    let wire = Wire::from_raw(unsafe { (&raw const (*record.0).meter.wire).read_volatile() });
    let mut shown = Shown::NOTHING;
    match (wire, up) {
        (Wire::Unknown, true) => first(segment, record, order.in_order, &mut shown),
        (Wire::Http1, true) => http1::request(segment, &mut shown),
        (Wire::Http1, false) => http1::response(segment, record, &mut shown),
        (Wire::TlsHandshake, true) => tls::records(segment, record, order.in_order, &mut shown),
        (Wire::TlsHandshake | Wire::Tls, false) => tls::answer(segment, record, order.in_order, &mut shown),
        (Wire::Http2, _) if !order.in_order => shown.wire = Wire::Other,
        _ => {}
    }
    shown.is_up = u8::from(up);
    shown.walks = u8::from(wire == Wire::Http2 && order.in_order || shown.wire == Wire::Http2);
    shown.tells = u8::from(!shown.is_nothing());
    let tells = shown.tells;
    // SAFETY: that is the byte there.
    unsafe { forget(&mut shown, offset_of!(Shown, tells), tells, record.zero()) };
    let by_packet = current_settings().meter_path == MeterPath::Packet as u32;
    if shown.tells | shown.walks == 0 && !by_packet {
        return;
    }
    // SAFETY: the verifier knows the socket; null for anything but TCP.
    let tcp = unsafe { bpf_skc_to_tcp_sock(sk.cast()) };
    if tcp.is_null() {
        return;
    }
    let tcp = tcp.cast_const().cast();
    if shown.tells != 0 {
        show(record, tcp, &shown, segment.seq_end());
    }
    if shown.walks != 0 {
        http2::frames(segment, record, tcp, shown.is_up != 0);
    }
    if by_packet {
        bytes(record, tcp, order.new_bytes, way);
    }
}

/// The first packet in request direction.
#[inline(always)]
fn first(segment: &Segment, record: Record, in_order: bool, shown: &mut Shown) {
    let adopted = {
        // SAFETY: a live record.
        let flags = unsafe { (&raw const (*record.0).meter.flags).read_volatile() };
        flags & MeterFlags::ADOPTED != 0
    };
    let start = request::recognise(&segment.start::<START>());
    shown.wire = match start {
        Start::Http1(facts) => {
            shown.up = facts;
            Wire::Http1
        }
        Start::Http2 => {
            http2::preface(record);
            Wire::Http2
        }
        Start::Tls => {
            tls::hello(segment, shown);
            tls::records(segment, record, in_order, shown);
            if shown.wire == Wire::Other {
                Wire::Other
            } else {
                Wire::TlsHandshake
            }
        }
        // The middle of something: what follows may be a beginning.
        Start::TlsData if adopted => {
            shown.app = AppData::Begins;
            shown.app_start = segment.seq;
            Wire::Tls
        }
        Start::Other if adopted => Wire::Unknown,
        Start::TlsData | Start::Other => Wire::Other,
    };
}

/// Tells the meter what a packet that ends at `mark` shows, and counts what follows from it.
#[inline(never)]
pub fn show(record: Record, tcp: *const c_void, shown: &Shown, mark: u32) {
    let down = shown.down;
    // SAFETY: a live record; a look at what changes only under the lock, to take the lock once: either section looks again.
    let down_seq = unsafe { (&raw const (*record.0).meter.down_seq).read_volatile() };
    if shown.is_up == 0 && down.0 != 0 && !down.are_due(down_seq, mark) {
        let deferred = record.locked(
            #[inline(always)]
            |meter| {
                let is_due = meter.is_due(down, mark);
                if !is_due {
                    meter.defer_down(down, mark, shown.status, shown.response_end, shown.tail);
                }
                !is_due
            },
        );
        if deferred {
            return;
        }
    }
    let Some(subject) = Subject::of(record) else {
        return;
    };
    subject.step(
        KernelSock::new(tcp),
        0,
        #[inline(always)]
        |meter, effects| {
            meter.flags |= shown.flags;
            if shown.wire != Wire::Unknown {
                meter.recognise(shown.wire, effects);
            }
            if shown.app != AppData::Unseen {
                meter.handshake_done(shown.app_start, shown.app == AppData::BeginsWithTickets, effects);
            }
            if shown.is_up != 0 && shown.up.0 != 0 {
                meter.note_up(shown.up, mark, effects);
            } else if shown.down.0 != 0 {
                meter.note_down(
                    shown.down,
                    mark,
                    shown.status,
                    shown.response_end,
                    shown.tail,
                    effects,
                );
            }
        },
    );
}

/// Feeds the bytes of a packet to the meter, where no tracepoint does.
#[inline(never)]
fn bytes(record: Record, tcp: *const c_void, new: u32, way: Way) {
    meter::bytes(record, KernelSock::new(tcp), new, way);
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: the helper takes no pointer.
    unsafe { bpf_ktime_get_ns() }
}
