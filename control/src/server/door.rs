// SPDX-License-Identifier: Apache-2.0
//! Lets connections in: accepts them, has them shake hands, and sees that they speak HTTP/2, within a time.
//!
//! Invariant: a client that connects and says nothing costs a descriptor for [`PATIENCE`] and nothing else, and keeps nobody
//! waiting.

use std::{io, sync::Arc, time::Duration};

use prometheus::IntCounter;
use rustls::ServerConfig;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, watch},
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::connection::{Connection, Peer, Place, Transport};
use crate::{
    metrics::{Metrics, Turned},
    security::Identity,
};

/// Time for the handshake and the first bytes.
const PATIENCE: Duration = Duration::from_secs(10);
/// What every client of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Pause after a failure to accept, which is for lack of descriptors or memory: others may free some.
const BREATH: Duration = Duration::from_millis(50);
/// Silence after which the kernel probes the other end, and the time between probes.
const PROBE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));
/// Time that what was sent may stay without acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// The way in, the same for all listeners.
#[derive(Clone)]
pub(super) struct Door {
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    established: mpsc::Sender<io::Result<Connection>>,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("TLS handshake: {0}")]
    Tls(io::Error),
    #[error("first bytes: {0}")]
    Io(#[from] io::Error),
    #[error("it speaks no HTTP/2")]
    NotHttp2,
    #[error("it speaks TLS, but this listener has no --tls-cert")]
    TlsToPlaintext,
    #[error("it was silent for {PATIENCE:?}")]
    Silent,
}

impl Door {
    pub(super) fn new(
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
        places: u32,
        metrics: Arc<Metrics>,
        established: mpsc::Sender<io::Result<Connection>>,
    ) -> Self {
        Self {
            tls,
            places: Arc::new(Semaphore::new(places as usize)),
            metrics,
            established,
        }
    }

    /// Accepts until it is aborted.
    pub(super) async fn accept(self, listener: TcpListener) {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "cannot accept connections");
                    tokio::time::sleep(BREATH).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
                self.turned(Turned::Full).inc();
                continue;
            };
            self.metrics.connections.inc();
            let place = Place {
                _permit: permit,
                open: self.metrics.connections.clone(),
            };
            let door = self.clone();
            tokio::spawn(door.let_in(stream, place));
        }
    }

    async fn let_in(self, stream: TcpStream, place: Place) {
        let remote = stream.peer_addr();
        let established = tokio::time::timeout(PATIENCE, self.establish(stream, place)).await;
        match established.unwrap_or(Err(Refused::Silent)) {
            Ok(connection) => {
                // The server is gone only when the process ends.
                let _ = self.established.send(Ok(connection)).await;
            }
            Err(refused) => {
                debug!(?remote, %refused, "connection refused");
                self.turned(match refused {
                    Refused::Tls(_) => Turned::Handshake,
                    Refused::Io(_) => Turned::Broken,
                    Refused::NotHttp2 | Refused::TlsToPlaintext => Turned::Protocol,
                    Refused::Silent => Turned::Silent,
                })
                .inc();
            }
        }
    }

    async fn establish(&self, stream: TcpStream, place: Place) -> Result<Connection, Refused> {
        let socket = SockRef::from(&stream);
        socket.set_tcp_nodelay(true)?;
        let (idle, interval) = PROBE;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval))?;
        socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
        let mut peer = Peer {
            remote: stream.peer_addr()?,
            local: stream.local_addr()?,
            identity: None,
        };
        let config = self.tls.as_ref().map(|tls| Arc::clone(&tls.borrow()));
        let mut transport = match config {
            None => Transport::Plain(stream),
            Some(config) => {
                let handshake = TlsAcceptor::from(config).accept(stream);
                let stream = handshake.await.map_err(Refused::Tls)?;
                let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                peer.identity = chain.first().map(|leaf| Arc::new(Identity::of(leaf)));
                Transport::Tls(Box::new(stream))
            }
        };
        check_preface(&mut transport).await?;
        Ok(Connection {
            transport,
            preface: PREFACE,
            peer,
            _place: place,
        })
    }

    fn turned(&self, turned: Turned) -> IntCounter {
        self.metrics.turned_away(turned)
    }
}

async fn check_preface(transport: &mut Transport) -> Result<(), Refused> {
    /// First byte of a TLS record with a handshake message, and the first of the version.
    const TLS_RECORD: [u8; 2] = [22, 3];
    let mut first = [0; PREFACE.len()];
    let length = transport.fill(&mut first).await?;
    let is_plain = matches!(transport, Transport::Plain(_));
    match &first[..length] {
        bytes if bytes == PREFACE => Ok(()),
        bytes if is_plain && bytes.starts_with(&TLS_RECORD) => Err(Refused::TlsToPlaintext),
        _ => Err(Refused::NotHttp2),
    }
}
