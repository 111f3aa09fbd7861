// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The words of a meter: what a connection is doing, what its bytes are, and what is remembered of it as bits.
//!
//! Read by the agent too. Invariant: an unknown number is the state of which least is claimed.

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Phase {
    /// No request yet.
    Fresh = 0,
    /// Between two requests.
    Idle = 1,
    /// A request has begun; no byte of its response yet.
    Request = 2,
    /// The response has begun.
    Response = 3,
    /// The response seems complete; what follows will tell.
    Tail = 4,
    /// Exchanges cannot be told apart.
    Opaque = 5,
    /// HTTP/2 in plaintext: each stream has an exchange of its own.
    Streams = 6,
}

impl Phase {
    /// From the number in a record.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Fresh,
            1 => Self::Idle,
            2 => Self::Request,
            3 => Self::Response,
            4 => Self::Tail,
            6 => Self::Streams,
            _ => Self::Opaque,
        }
    }
}

/// What the bytes of a connection are, as far as its first ones told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Wire {
    /// Nothing seen yet.
    Unknown = 0,
    /// HTTP/1.x in plaintext.
    Http1 = 1,
    /// TLS, before the first record of the client's application.
    TlsHandshake = 2,
    /// TLS.
    Tls = 3,
    /// HTTP/2 in plaintext.
    Http2 = 4,
    /// TLS that carries HTTP/2.
    TlsHttp2 = 5,
    /// Anything else, and what was upgraded to it.
    Other = 6,
}

impl Wire {
    /// From the number in a record.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            0 => Self::Unknown,
            1 => Self::Http1,
            2 => Self::TlsHandshake,
            3 => Self::Tls,
            4 => Self::Http2,
            5 => Self::TlsHttp2,
            _ => Self::Other,
        }
    }

    /// The word for people and labels.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Http1 => "http1",
            Self::TlsHandshake | Self::Tls => "tls",
            Self::Http2 => "http2",
            Self::TlsHttp2 => "tls_http2",
            Self::Other => "other",
        }
    }
}

/// Bits of [`super::Meter::flags`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MeterFlags;

impl MeterFlags {
    /// The times of the present request are not exact: it began before the meter or a part of it was not seen.
    pub const UNTIMED: u32 = 1;
    /// The peer has sent FIN.
    pub const PEER_FIN: u32 = 1 << 1;
    /// The peer's FIN came after the first byte of the response.
    pub const FIN_IN_RESPONSE: u32 = 1 << 2;
    /// The present request is a HEAD.
    pub const HEAD: u32 = 1 << 3;
    /// The present response is a stream of server-sent events.
    pub const EVENTS: u32 = 1 << 4;
    /// [`super::Meter::response_end`] is the end of the present response.
    pub const LENGTH: u32 = 1 << 5;
    /// The present response is in chunks, so that its end is marked.
    pub const CHUNKED: u32 = 1 << 6;
    /// The client offers HTTP/2 in its TLS handshake.
    pub const OFFERS_HTTP2: u32 = 1 << 7;
    /// TLS 1.3, whose session tickets look like the beginning of a first response.
    pub const TICKETS: u32 = 1 << 8;
    /// The connection is older than the meter: its first request is counted and not timed.
    pub const ADOPTED: u32 = 1 << 9;
    /// The times of the present request were of the first on a connection with session tickets.
    pub const TICKETS_NOW: u32 = 1 << 10;
    /// The TLS handshake is one of TLS 1.2 or older.
    pub const TLS12: u32 = 1 << 11;
    /// The first line of the present request was seen.
    pub const BEGUN: u32 = 1 << 12;
    /// The connection has ended: nothing that is still seen of it counts.
    pub const ENDED: u32 = 1 << 13;
    /// The event that ends a stream of tokens was seen in the present response.
    pub const DONE: u32 = 1 << 14;
    /// The TLS records in response direction are not followed, because a packet was missed.
    pub const UNFRAMED: u32 = 1 << 15;

    /// The client has said under TLS that it sends no more.
    pub const CLIENT_LEFT: u32 = 1 << 16;
    /// It said so after the first byte of the response.
    pub const LEFT_IN_RESPONSE: u32 = 1 << 17;
    /// The present response has had more than one write.
    pub const AGAIN: u32 = 1 << 18;

    /// The client reset the connection between two requests, at the server: a request that is read from now on was canceled.
    pub const RESET_BETWEEN: u32 = 1 << 19;

    /// What is about one request and is cleared by the next.
    pub(super) const OF_REQUEST: u32 = Self::UNTIMED
        | Self::FIN_IN_RESPONSE
        | Self::HEAD
        | Self::EVENTS
        | Self::LENGTH
        | Self::CHUNKED
        | Self::TICKETS_NOW
        | Self::BEGUN
        | Self::DONE
        | Self::AGAIN;
}
