// SPDX-License-Identifier: Apache-2.0
//! The gRPC server: listeners, TLS, and the gate that every call passes.
//!
//! ```text
//! TcpListener --accept--> door (TLS, HTTP/2 preface) --Connection--> tonic --Gate--> services
//! ```
//!
//! Started by `app`. Invariant: what a client can take of the server is limited before anything is done for it: connections,
//! handshake time, header and message sizes, calls at once, calls per second.

mod connection;
mod door;
mod ending;
mod gate;
mod guarded;
pub mod http;
mod rate;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tonic::{service::Routes, transport};
use tracing::{info, warn};

pub use connection::Peer;
pub use ending::Ending;
pub use gate::{Gate, GateLayer};
pub use rate::RateLimit;

use crate::{config::LimitConfig, metrics::Metrics, xds};
use door::Door;

/// Connections that are established and wait to be served.
const ESTABLISHED: usize = 64;
/// Connections that the kernel keeps until they are accepted: a fleet may come back at once.
const BACKLOG: u32 = 4096;
/// Longest list of headers of a call, bytes.
const MAX_HEADER_LIST: u32 = 16 << 10;
/// Streams that a client may reset before they were looked at, before its connection ends.
const MAX_PENDING_RESETS: usize = 64;

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address}: {source}; choose another address with {flag}")]
pub struct ListenError {
    address: SocketAddr,
    flag: &'static str,
    source: io::Error,
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    doors: Vec<JoinHandle<()>>,
    serving: JoinHandle<Result<(), transport::Error>>,
    closing: watch::Sender<bool>,
}

/// Opens a listener that `flag` asks for.
pub fn listen(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ListenError> {
    let open = || {
        let socket = if address.is_ipv4() {
            TcpSocket::new_v4()
        } else {
            TcpSocket::new_v6()
        }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| ListenError {
        address,
        flag,
        source,
    })
}

impl Server {
    /// Serves `routes` on `listeners`, over TLS if there is a configuration for it.
    pub fn start(
        listeners: Vec<TcpListener>,
        tls: Option<watch::Receiver<Arc<ServerConfig>>>,
        gate: GateLayer,
        routes: Routes,
        limits: &LimitConfig,
        metrics: &Arc<Metrics>,
    ) -> Self {
        let (established, mut connections) = mpsc::channel(ESTABLISHED);
        let door = Door::new(tls, limits.max_connections, Arc::clone(metrics), established);
        let addresses = listeners.iter().filter_map(|listener| listener.local_addr().ok());
        let addresses: Vec<_> = addresses.collect();
        let doors = listeners
            .into_iter()
            .map(|listener| tokio::spawn(door.clone().accept(listener)))
            .collect();
        drop(door);
        let (closing, mut closed) = watch::channel(false);
        let incoming = futures_util::stream::poll_fn(move |context| connections.poll_recv(context));
        let serving = xds::keep_alive(transport::Server::builder())
            .timeout(limits.request_timeout)
            .max_concurrent_streams(limits.max_streams)
            .http2_max_header_list_size(MAX_HEADER_LIST)
            .http2_max_pending_accept_reset_streams(Some(MAX_PENDING_RESETS))
            .layer(gate)
            .add_routes(routes)
            .serve_with_incoming_shutdown(incoming, async move {
                // A sender that is gone means the same.
                let _ = closed.wait_for(|is_closed| *is_closed).await;
            });
        for address in &addresses {
            info!(%address, "serving gRPC");
        }
        Self {
            addresses,
            doors,
            serving: tokio::spawn(serving),
            closing,
        }
    }

    /// Takes no more connections and lets calls finish for as long as `grace`. Streams end only if the gate's [`Ending`] was
    /// announced.
    pub async fn stop(mut self, grace: Duration) {
        for door in &self.doors {
            door.abort();
        }
        self.closing.send_replace(true);
        match tokio::time::timeout(grace, &mut self.serving).await {
            Ok(Ok(Err(error))) => warn!(%error, "the gRPC server ended"),
            Ok(_) => {}
            Err(_) => {
                warn!(?grace, "some calls were not done in time and are cut off");
                self.serving.abort();
            }
        }
    }
}
