// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The shortcut: two sockets of one node that hand each other small messages without TCP. How they find each other (`offers`), what
//! each tells the other (`ends`), and the pure rules of when a message may take it.
//!
//! ```text
//! client: connect() ──► Offer ◄── SYN at a listener of this node: met
//!         established ─► End, socket into `short_socks`, if it was met
//! server: accepted ────► End, socket into `short_socks`, if the offer's sequence number is its own: both ends know each other
//! switched on again: Offer by a client that is connected ──► answered by its server ──► both into `short_socks`
//! send:   small, and the peer has read all that TCP carried ──► its receive queue; else TCP, until it has again
//! ```
//!
//! Written by the programs; the agent sets [`EndFlags::LEAVING`] and takes out what has no unread bytes. Invariants: a byte that
//! takes the shortcut follows only bytes that are read or took it too; no program follows a pointer to the peer's socket, which may
//! be gone: all that is known of it is what its own reads wrote into its [`End`].

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Ip16, Port, layout::abi_struct};

/// Largest message that takes the shortcut, bytes: beyond, copying dominates and TCP is as good.
pub const MESSAGE_BYTES: u32 = 16_384;
/// A socket that sent this many bytes in larger messages, and few small ones between them, carries bulk: it leaves for good.
pub const BULK_BYTES: u32 = 1 << 20;
/// What a small message takes off that count.
pub const BULK_FORGIVEN: u32 = 1 << 17;
/// How often an application must have read all that there was before anything is handed to it: proxies read the beginning of a
/// connection and splice the rest, which is seen only if they are given the chance.
pub const PROVEN: u32 = 3;
/// Largest beginning of an HTTP message that takes the shortcut unproven: what a proxy reads at once, before it splices the rest.
pub const START_BYTES: u32 = 8_192;
/// Facts that may wait to be read at one end.
pub const FACTS: usize = 8;

/// Key of `short_offers`: a connection as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct OfferKey {
    /// Client's address.
    pub client: Ip16,
    /// Address that it is connected to.
    pub server: Ip16,
    /// Cookie of the network namespace, if the server's address is one of the loopback; else 0, for the ends may be in two.
    pub netns: u64,
    /// Client's port.
    pub client_port: Port,
    /// Port that it is connected to.
    pub server_port: Port,
    /// Zero.
    pub pad: u32,
}
abi_struct!(OfferKey: 48 { client: 0, server: 16, netns: 32, client_port: 40, server_port: 42, pad: 44 });

/// Value of `short_offers`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Offer {
    /// Cookie of the client's socket; in the end, see [`Met::ANSWERED`], of the server's.
    pub cookie: u64,
    /// Sequence number of the client's first byte: proof that the socket that answers is the other end, and not that of a
    /// proxy between them that kept the addresses.
    pub first: u32,
    /// See [`Met`].
    pub met: u32,
    /// Index into `rules`, of the service that was dialled.
    pub rules: u32,
    /// Sequence number of the server's first byte, of a connection that is established already; else 0.
    pub answer: u32,
}
abi_struct!(Offer: 24 { cookie: 0, first: 8, met: 12, rules: 16, answer: 20 });

/// What has become of an [`Offer`]: values of [`Offer::met`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met;

impl Met {
    /// Its SYN has reached a listener of this node; 0 before.
    pub const LISTENER: u32 = 1;
    /// It is of a connection that was established while the shortcut was off, and that may take it now.
    pub const LIVE: u32 = 2;
    /// The other end of such a connection has enrolled, and its cookie is in the place of the client's.
    pub const ANSWERED: u32 = 3;
}

/// Bits of [`End::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndFlags;

impl EndFlags {
    /// It is about to be taken out of the map: nothing may be handed to it.
    pub const LEAVING: u32 = 1;
    /// Its application took bytes that no read returned (`splice()`, `TCP_ZEROCOPY_RECEIVE`): it would not find what is handed to it.
    pub const SPLICES: u32 = 1 << 1;
    /// Its application waits inside of a read, or for several bytes at once (`SO_RCVLOWAT`), which the shortcut does not serve.
    pub const WAITS: u32 = 1 << 2;
    /// It sends bulk.
    pub const BULK: u32 = 1 << 3;
    /// It has entered the map in the middle of its connection, and no read has returned since: one that began before would not find
    /// what is handed to it.
    pub const FRESH: u32 = 1 << 4;
    /// Its client opted in, so that the service need not. Written when it is made and by the iterator that lets connections join.
    pub const BY_CLIENT: u32 = 1 << 5;

    /// Of what keeps a peer from handing it anything.
    pub const CLOSED: u32 = Self::LEAVING | Self::SPLICES | Self::WAITS;
    /// Of what keeps either end out for good.
    pub const OUT: u32 = Self::CLOSED | Self::BULK;
}

/// A part of an HTTP message that does not begin with its head: proxies may splice it, even those that have read every head by `recv()`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Apart {
    /// Of any body but a stream of events.
    Body = 1,
    /// Of a stream of events.
    Events = 2,
}

/// What a message shows that its reader has not read yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Fact {
    /// Where the message begins, as the meter counts.
    pub start: u32,
    /// Where it ends.
    pub mark: u32,
    /// Where the response ends, with [`crate::meter::DownFacts::LENGTH`].
    pub response_end: u32,
    /// Bits of [`crate::meter::UpFacts`] or [`crate::meter::DownFacts`].
    pub facts: u16,
    /// Class of a status; 0 if it does not show.
    pub status: u8,
    /// 1 in request direction.
    pub is_up: u8,
}
abi_struct!(Fact: 16 { start: 0, mark: 4, response_end: 8, facts: 12, status: 14, is_up: 15 });

/// Value of `short_ends`, by the cookie of its socket: one end of a shortcut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct End {
    /// Cookie of the other end; 0 until that has accepted.
    pub peer: u64,
    /// Bytes that reads have returned since it was made. Written by its own reads, atomically.
    pub read: u64,
    /// Bytes that were ever handed to it. Written by the peer's sends, atomically.
    pub inbound: u64,
    /// Bytes that it ever handed over. Written by its own sends, as is `bulk`.
    pub outbound: u64,
    /// Sequence number of the first byte that it reads.
    pub first: u32,
    /// Sequence number of the next byte that it reads from TCP, as of its latest completed read.
    pub read_seq: u32,
    /// Most bytes that may wait to be read: the socket's receive buffer, less what TCP is left. 0 where no read has returned since the
    /// end was made in the middle of its connection: what it has read is counted from the first one on.
    pub room: u32,
    /// See [`EndFlags`].
    pub flags: u32,
    /// How often a read has left nothing behind, see [`PROVEN`].
    pub emptied: u32,
    /// Bytes sent in large messages, see [`BULK_BYTES`].
    pub bulk: u32,
    /// Facts that were ever put into `facts`. Written by the peer's sends.
    pub put: u32,
    /// Facts that were ever taken out. Written by its own reads.
    pub taken: u32,
    /// Index into `rules`, of the service that the client dialled.
    pub rules: u32,
    /// Version of the ABI of the program that runs when its socket sends.
    pub version: u32,
    /// How often the peer's application has read a part of an HTTP body that came when it had read all before, and did not splice it.
    /// Written by its own sends, as are the next two.
    pub bodies: u32,
    /// The same of streams of events.
    pub events: u32,
    /// An [`Apart`] that TCP was given last; 0 for none.
    pub apart: u32,
    /// Zero.
    pub pad: u32,
    /// Facts about what waits to be read, a ring.
    pub facts: [Fact; FACTS],
}
abi_struct!(End: 216 {
    peer: 0, read: 8, inbound: 16, outbound: 24, first: 32, read_seq: 36, room: 40, flags: 44, emptied: 48, bulk: 52, put: 56,
    taken: 60, rules: 64, version: 68, bodies: 72, events: 76, apart: 80, pad: 84, facts: 88,
});

/// Why a message went by TCP; an index into `short_counts`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Route {
    /// It did not: it took the shortcut.
    Short = 0,
    /// It was too large.
    Large = 1,
    /// TCP still carries bytes that the peer has not read, or it has read none yet.
    Undrained = 2,
    /// As much as may wait at the peer waits there.
    Full = 3,
    /// The peer reads in a way that the shortcut does not serve.
    Reader = 4,
    /// What the connection carries is left to TCP: TLS, HTTP/2.
    Wire = 5,
    /// Its service or the node has the shortcut switched off, or an end is leaving.
    Off = 6,
    /// It is a part of an HTTP body, and the peer has not shown yet that it would read it: see [`Apart`].
    Apart = 7,
}

impl Route {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 8] = [
        Self::Short,
        Self::Large,
        Self::Undrained,
        Self::Full,
        Self::Reader,
        Self::Wire,
        Self::Off,
        Self::Apart,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();

    /// The word for labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Short => "shortcut",
            Self::Large => "large",
            Self::Undrained => "undrained",
            Self::Full => "full",
            Self::Reader => "reader",
            Self::Wire => "wire",
            Self::Off => "off",
            Self::Apart => "apart",
        }
    }
}

/// Value of `short_counts`, per CPU, by [`Route`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct RouteCount {
    /// Messages.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
}
abi_struct!(RouteCount: 16 { messages: 0, bytes: 8 });

/// Share of a receive buffer that may be filled by the shortcut: half, for what follows by TCP needs the rest.
#[inline(always)]
pub const fn room(receive_buffer: u32) -> u32 {
    receive_buffer / 2
}

/// How far the application of an end has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// [`End::inbound`].
    pub inbound: u64,
    /// [`End::read`].
    pub read: u64,
    /// [`End::first`].
    pub first: u32,
    /// [`End::read_seq`].
    pub read_seq: u32,
    /// [`End::emptied`].
    pub emptied: u32,
}

impl Progress {
    /// Bytes that were handed to it and not read.
    #[inline(always)]
    pub const fn unread(&self) -> u64 {
        self.inbound
            .wrapping_sub(self.read.wrapping_sub(self.by_tcp() as u64))
    }

    /// Bytes that it has taken from TCP.
    #[inline(always)]
    const fn by_tcp(&self) -> u32 {
        self.read_seq.wrapping_sub(self.first)
    }

    /// Whether its reads returned fewer bytes than it has taken from TCP.
    #[inline(always)]
    pub const fn splices(&self) -> bool {
        // Both begin at 0 together, and differ by what took the shortcut, which only adds to `read`.
        (self.read as u32).wrapping_sub(self.by_tcp()).cast_signed() < 0
    }

    /// Whether it reads as the shortcut needs it, and has read all that TCP carried up to `sent`, the sequence number after the peer's
    /// last byte.
    #[inline(always)]
    pub const fn is_drained(&self, sent: u32) -> bool {
        self.emptied >= PROVEN && self.read_seq == sent
    }
}

impl End {
    /// How far its application has come.
    pub const fn progress(&self) -> Progress {
        Progress {
            inbound: self.inbound,
            read: self.read,
            first: self.first,
            read_seq: self.read_seq,
            emptied: self.emptied,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_by_tcp_is_not_taken_for_what_was_handed_over() {
        let mut end = Progress {
            first: u32::MAX - 10,
            read_seq: u32::MAX - 10,
            ..Progress::default()
        };
        assert!(!end.is_drained(u32::MAX - 10), "nothing was read yet");
        end.read += 100;
        end.emptied = PROVEN;
        end.read_seq = end.first.wrapping_add(100);
        assert_eq!((end.unread(), end.splices()), (0, false));
        assert!(end.is_drained(end.first.wrapping_add(100)) && !end.is_drained(end.first.wrapping_add(101)));
        end.inbound += 30;
        assert_eq!(end.unread(), 30);
        end.read += 20;
        assert_eq!((end.unread(), end.splices()), (10, false));
    }

    #[test]
    fn bytes_that_no_read_returned_are_noticed() {
        let mut end = Progress {
            first: 7,
            read_seq: 107,
            read: 60,
            ..Progress::default()
        };
        assert!(end.splices());
        end.read = 100;
        assert!(!end.splices());
    }

    #[test]
    fn routes_are_numbered_in_order() {
        for (index, route) in Route::ALL.into_iter().enumerate() {
            assert_eq!(route as usize, index);
        }
    }
}
