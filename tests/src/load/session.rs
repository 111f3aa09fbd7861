// SPDX-License-Identifier: Apache-2.0
//! One client connection with HTTP/1.1 on it, and maybe TLS below. A worker owns it; dropping it closes the connection at once,
//! as the kernel does for a process that dies.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::cancel::How;
use super::dial::Dialled;
use super::response::{Body, Head, Malformed, take_head};
use crate::tap::{Tap, Watcher, peer_left};
use crate::wire::Wire;

/// How long the server may take to close a one-shot connection first.
const CLOSE_WAIT: Duration = Duration::from_millis(500);
const READ_BYTES: usize = 8 << 10;

/// An open connection.
pub(super) struct Session {
    wire: Wire<Tap<Traffic>>,
    traffic: Arc<Traffic>,
    buffer: BytesMut,
    body: Body,
    pub(super) source: SocketAddr,
    pub(super) peer: SocketAddr,
    pub(super) dialled: SocketAddr,
    /// Requests begun.
    pub(super) requests: u64,
    /// It cannot carry another request.
    pub(super) ends: bool,
    /// Named by an answer on this connection.
    pub(super) replica: Option<String>,
}

/// What went through the socket of one connection, and when; one task writes and reads it.
#[derive(Default)]
pub(super) struct Traffic {
    read_bytes: AtomicU64,
    read_ns: AtomicU64,
    written_bytes: AtomicU64,
    /// 0 between [`Traffic::begin_write`] and the first write.
    first_write_ns: AtomicU64,
    last_write_ns: AtomicU64,
}

/// A read that brought no response.
pub(super) enum ReadError {
    Io(io::Error),
    Malformed,
}

impl Session {
    /// Shakes hands if there is a `connector`.
    pub(super) async fn open(
        dialled: Dialled,
        connector: Option<(&TlsConnector, ServerName<'static>)>,
    ) -> io::Result<Self> {
        let traffic = Arc::new(Traffic::default());
        let source = dialled.stream.local_addr()?;
        let tap = Tap::new(dialled.stream, Arc::clone(&traffic));
        let wire = match connector {
            None => Wire::Plain(tap),
            Some((connector, name)) => Wire::Tls(Box::new(connector.connect(name, tap).await?.into())),
        };
        Ok(Self {
            wire,
            traffic,
            buffer: BytesMut::new(),
            body: Body::Length(0),
            source,
            peer: dialled.peer,
            dialled: dialled.address,
            requests: 0,
            ends: false,
            replica: None,
        })
    }

    pub(super) fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Whether the server has kept the connection open since the last answer.
    pub(super) fn is_usable(&self) -> bool {
        !peer_left(self.socket())
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.wire.write_all(bytes).await?;
        self.wire.flush().await
    }

    /// Reads until a head is complete. Cancel safe.
    pub(super) async fn head(&mut self) -> Result<Head, ReadError> {
        loop {
            if let Some(head) = take_head(&mut self.buffer)? {
                self.body = head.body;
                self.ends |= head.closes;
                return Ok(head);
            }
            if self.read().await? == 0 {
                return Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// The next piece of the body; `None` at its end. Cancel safe.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, ReadError> {
        loop {
            if let Some(piece) = self.body.take(&mut self.buffer)? {
                return Ok(Some(piece));
            }
            if self.body.is_done() {
                return Ok(None);
            }
            if self.read().await? == 0 {
                return match self.body {
                    Body::UntilClose => Ok(None),
                    _ => Err(ReadError::Io(io::ErrorKind::UnexpectedEof.into())),
                };
            }
        }
    }

    /// A further piece of the body that is here already.
    pub(super) fn ready_piece(&mut self) -> Result<Option<Bytes>, Malformed> {
        self.body.take(&mut self.buffer)
    }

    async fn read(&mut self) -> io::Result<usize> {
        self.buffer.reserve(READ_BYTES);
        self.wire.read_buf(&mut self.buffer).await
    }

    /// Does what is to be done before the connection is dropped; after [`How::HalfClose`] it can still be read.
    pub(super) async fn give_up(&mut self, how: How, in_decode: bool) {
        self.ends = true;
        // A peer that closed meanwhile makes these fail, and there is nothing left to give up then.
        match how {
            How::Fin | How::HalfClose => drop(self.wire.shutdown().await),
            How::Rst => drop(self.socket().set_zero_linger()),
            // A process dies at any time; here, with a part of the response unread, since the other case is a FIN.
            How::Kill if in_decode => drop(self.socket().readable().await),
            How::Kill => (),
        }
    }

    /// Ends a connection whose last answer said `connection: close`, letting the server close first: so `TIME_WAIT`
    /// stays there, and this end does not run out of ports.
    pub(super) async fn closed_by_server(mut self) {
        let wait = async { while self.read().await.is_ok_and(|bytes| bytes > 0) {} };
        let _ = timeout(CLOSE_WAIT, wait).await;
    }

    fn socket(&self) -> &TcpStream {
        self.wire.transport().stream()
    }
}

impl Traffic {
    /// Bytes read so far.
    pub(super) fn read_bytes(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }

    /// Bytes written so far.
    pub(super) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    /// When the latest bytes came.
    pub(super) fn read_ns(&self) -> u64 {
        self.read_ns.load(Ordering::Relaxed)
    }

    /// Makes the next write the first of [`Self::writes_ns`].
    pub(super) fn begin_write(&self) {
        self.first_write_ns.store(0, Ordering::Relaxed);
    }

    /// The first and the latest write since [`Self::begin_write`]; `None` before the first.
    pub(super) fn writes_ns(&self) -> Option<(u64, u64)> {
        let first = self.first_write_ns.load(Ordering::Relaxed);
        (first > 0).then(|| (first, self.last_write_ns.load(Ordering::Relaxed)))
    }
}

impl Watcher for Traffic {
    fn read(&self, bytes: &[u8], now_ns: u64) {
        self.read_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.read_ns.store(now_ns, Ordering::Relaxed);
    }

    fn wrote(&self, bytes: usize, before_ns: u64) {
        self.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        // One task writes, so nothing comes in between.
        if self.first_write_ns.load(Ordering::Relaxed) == 0 {
            self.first_write_ns.store(before_ns, Ordering::Relaxed);
        }
        self.last_write_ns.store(before_ns, Ordering::Relaxed);
    }
}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Malformed> for ReadError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}
