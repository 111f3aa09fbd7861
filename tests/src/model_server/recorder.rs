// SPDX-License-Identifier: Apache-2.0
//! The truth about the exchanges of one connection, put together from the system calls on its socket ([`crate::tap`]) and from
//! what the server says it is about to write ([`Mark`]).
//!
//! Invariant: what a mark announces is in the next write that succeeds, since the connection is one task that marks, then writes.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use rustls::ProtocolVersion;
use tokio::net::TcpStream;

use super::handshake::Handshake;
use super::ledger::Ledger;
use crate::monotonic::now_ns;
use crate::tap::{Watcher, peer_finished};
use crate::truth::{Exchange, Outcome};

/// What the next write carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// The head of the response, with its status.
    Head(u16),
    /// One or more tokens, or the body of an answer that is no stream.
    Tokens,
    /// A heartbeat.
    Heartbeat,
    /// The end of the response.
    End,
}

/// Who closed a connection, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Fin,
    Rst,
}

/// Of one connection.
pub(super) struct Recorder {
    ledger: Arc<Ledger>,
    peer: SocketAddr,
    local: SocketAddr,
    /// Held for a few instructions and never across an await; only the task of the connection takes it.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// While it lasts.
    handshake: Option<Handshake>,
    tls: Option<&'static str>,
    sequence: u64,
    arrived: Arrived,
    open: Option<Exchange>,
    next: Next,
    /// How the client left, and when that was noticed.
    left: Option<(Way, u64)>,
}

/// What was read since the last exchange ended.
#[derive(Default)]
struct Arrived {
    first_ns: Option<u64>,
    last_ns: u64,
    bytes: u64,
}

/// What the next write carries.
#[derive(Clone, Copy, Default)]
struct Next {
    head: Option<u16>,
    tokens: bool,
    heartbeat: bool,
    /// Stays until the response is flushed, which may take several writes.
    end: bool,
}

impl Recorder {
    /// With a handshake first if `secure`.
    pub(super) fn new(ledger: Arc<Ledger>, peer: SocketAddr, local: SocketAddr, secure: bool) -> Self {
        let state = State {
            handshake: secure.then(Handshake::default),
            ..State::default()
        };
        Self {
            ledger,
            peer,
            local,
            state: Mutex::new(state),
        }
    }

    /// The handshake is over; its bytes belong to no exchange.
    pub(super) fn secured(&self, version: ProtocolVersion) {
        let mut state = self.lock();
        let is_v13 = version == ProtocolVersion::TLSv1_3;
        state.tls = Some(if is_v13 { "1.3" } else { "1.2" });
        if let Some(handshake) = state.handshake.take() {
            let early = handshake.application(is_v13);
            state.arrived.first_ns = early.first().map(|record| record.first_ns);
            state.arrived.bytes = early.iter().map(|record| record.bytes).sum();
        }
    }

    /// The head of a request was read.
    pub(super) fn begin(&self, path: &str, id: Option<&str>) {
        self.ledger.started();
        let mut state = self.lock();
        state.sequence += 1;
        state.next = Next::default();
        let arrived = std::mem::take(&mut state.arrived);
        state.arrived.last_ns = arrived.last_ns;
        state.open = Some(Exchange {
            id: id.map(str::to_owned),
            path: path.to_owned(),
            peer: self.peer,
            local: self.local,
            sequence: state.sequence,
            tls: state.tls.map(str::to_owned),
            pipelined: arrived.first_ns.is_none(),
            status: None,
            request_first_ns: arrived.first_ns.unwrap_or(arrived.last_ns),
            request_last_ns: None,
            interim_ns: None,
            first_byte_ns: None,
            first_token_ns: None,
            emissions_ns: Vec::new(),
            heartbeats_ns: Vec::new(),
            writes: 0,
            last_write_ns: None,
            client_left_ns: None,
            ended_ns: 0,
            request_bytes: arrived.bytes,
            response_bytes: 0,
            outcome: Outcome::Complete,
        });
    }

    /// The body of the request was read to its end.
    pub(super) fn request_read(&self) {
        let mut state = self.lock();
        let last = state.arrived.last_ns;
        if let Some(exchange) = &mut state.open {
            exchange.request_last_ns.get_or_insert(last);
        }
    }

    pub(super) fn mark(&self, mark: Mark) {
        let next = &mut self.lock().next;
        match mark {
            Mark::Head(status) => next.head = Some(status),
            Mark::Tokens => next.tokens = true,
            Mark::Heartbeat => next.heartbeat = true,
            Mark::End => next.end = true,
        }
    }

    /// The connection is closed. `cut` is how the server broke it off, if it did; else the client did if `by_client`.
    pub(super) fn closed(&self, cut: Option<Way>, by_client: bool) {
        let mut state = self.lock();
        let outcome = match (cut, state.left) {
            (Some(Way::Rst), _) => Outcome::ServerRst,
            (None, Some((Way::Rst, _))) => Outcome::ClientRst,
            (None, Some((Way::Fin, _))) => Outcome::ClientFin,
            (None, None) if by_client => Outcome::ClientFin,
            (Some(Way::Fin), _) | (None, None) => Outcome::ServerFin,
        };
        let now = now_ns();
        if outcome == Outcome::ClientFin {
            state.left.get_or_insert((Way::Fin, now));
        }
        self.end(state, outcome, now);
    }

    fn end(&self, mut state: MutexGuard<'_, State>, outcome: Outcome, ended_ns: u64) {
        let Some(mut exchange) = state.open.take() else {
            return;
        };
        exchange.client_left_ns = state.left.map(|(_, noticed)| noticed);
        exchange.outcome = outcome;
        exchange.ended_ns = ended_ns;
        drop(state);
        self.ledger.ended(exchange);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn left(&mut self, way: Way) {
        self.left.get_or_insert_with(|| (way, now_ns()));
    }
}

impl Watcher for Recorder {
    fn read(&self, bytes: &[u8], now_ns: u64) {
        let state = &mut *self.lock();
        state.arrived.last_ns = now_ns;
        if let Some(handshake) = &mut state.handshake {
            handshake.read(bytes, now_ns);
        } else if let Some(exchange) = &mut state.open {
            exchange.request_bytes += bytes.len() as u64;
        } else {
            state.arrived.first_ns.get_or_insert(now_ns);
            state.arrived.bytes += bytes.len() as u64;
        }
    }

    /// A client that left before the first byte, the first token or the end was written is noticed here, so that the phase is
    /// that of its FIN and not of the next read.
    fn writing(&self, stream: &TcpStream) {
        let mut state = self.lock();
        let Some(exchange) = &state.open else { return };
        let next = state.next;
        let turning = next.head.is_some() || next.end || next.tokens && exchange.first_token_ns.is_none();
        if turning && state.left.is_none() && peer_finished(stream) {
            state.left(Way::Fin);
        }
    }

    fn wrote(&self, bytes: usize, before_ns: u64) {
        let state = &mut *self.lock();
        let Some(exchange) = &mut state.open else { return };
        let next = std::mem::take(&mut state.next);
        state.next.end = next.end;
        exchange.writes += 1;
        exchange.response_bytes += bytes as u64;
        exchange.last_write_ns = Some(before_ns);
        if let Some(status) = next.head {
            exchange.status = Some(status);
            exchange.first_byte_ns = Some(before_ns);
        } else if exchange.first_byte_ns.is_none() {
            exchange.interim_ns.get_or_insert(before_ns);
        }
        if next.tokens {
            exchange.first_token_ns.get_or_insert(before_ns);
            exchange.emissions_ns.push(before_ns);
        }
        if next.heartbeat {
            exchange.heartbeats_ns.push(before_ns);
        }
    }

    fn flushed(&self) {
        let state = self.lock();
        // Also if the end took no bytes, as it does in HTTP/1.0.
        if !state.next.end {
            return;
        }
        let (outcome, ended) = (
            match state.left {
                None => Outcome::Complete,
                Some((Way::Fin, _)) => Outcome::HalfClose,
                Some((Way::Rst, _)) => Outcome::ClientRst,
            },
            state.open.as_ref().and_then(|exchange| exchange.last_write_ns),
        );
        self.end(state, outcome, ended.unwrap_or_default());
    }

    /// A RST that follows a FIN shows as `EPIPE`, one that comes alone as `ECONNRESET`.
    fn left(&self, error: Option<&io::Error>) {
        let errno = error.and_then(io::Error::raw_os_error).map(Errno::from_raw);
        let way = match (error, errno) {
            (None, _) | (_, Some(Errno::EPIPE)) => Way::Fin,
            _ => Way::Rst,
        };
        self.lock().left(way);
    }
}
