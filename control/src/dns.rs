// SPDX-License-Identifier: Apache-2.0
//! Names of services: `<service>.<namespace>.<zone>` has the virtual addresses of the service.
//!
//! ```text
//! udp, tcp --bytes--> Zone::reply(state) --bytes--> udp, tcp
//! ```
//!
//! Started by `app`. Invariant: an answer is of the newest state, and of nothing but that: this server asks nobody else.

mod tcp;
mod udp;
mod zone;

#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    task::JoinHandle,
};

pub use zone::{InvalidZone, Reply, Zone};

use crate::{metrics::Metrics, registry::State};

/// Why the sockets could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("listen on {address} for DNS: {source}; choose another address with --dns")]
pub struct DnsListenError {
    address: SocketAddr,
    source: io::Error,
}

/// The open sockets.
#[derive(Debug)]
pub struct DnsSockets {
    udp: UdpSocket,
    tcp: TcpListener,
}

/// What answers are made of.
#[derive(Clone, Debug)]
struct Responder {
    zone: Arc<Zone>,
    states: watch::Receiver<Arc<State>>,
    metrics: Arc<Metrics>,
}

/// A running DNS server; ends when dropped.
#[derive(Debug)]
pub struct DnsServer {
    /// Where it listens.
    pub address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl DnsSockets {
    /// Opens both on the same port; port 0 is any that is free for both.
    pub async fn open(address: SocketAddr) -> Result<Self, DnsListenError> {
        /// Free ports that are tried.
        const ATTEMPTS: u32 = 16;
        let failed = |source| DnsListenError { address, source };
        let mut last = io::ErrorKind::AddrInUse.into();
        for _ in 0..ATTEMPTS {
            let udp = UdpSocket::bind(address).await.map_err(failed)?;
            let bound = udp.local_addr().map_err(failed)?;
            match TcpListener::bind(bound).await {
                Ok(tcp) => return Ok(Self { udp, tcp }),
                Err(error) if address.port() == 0 => last = error,
                Err(error) => return Err(failed(error)),
            }
        }
        Err(failed(last))
    }

    /// Answers from the newest of `states`.
    pub fn serve(
        self,
        zone: Zone,
        states: watch::Receiver<Arc<State>>,
        metrics: Arc<Metrics>,
    ) -> io::Result<DnsServer> {
        let responder = Responder {
            zone: Arc::new(zone),
            states,
            metrics,
        };
        Ok(DnsServer {
            address: self.udp.local_addr()?,
            tasks: [
                tokio::spawn(udp::serve(self.udp, responder.clone())),
                tokio::spawn(tcp::serve(self.tcp, responder)),
            ],
        })
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Responder {
    /// The answer to a message that came over `transport`; `None` if it deserves none.
    fn reply(&self, query: &[u8], transport: zone::Transport) -> Option<Vec<u8>> {
        let state = Arc::clone(&self.states.borrow());
        let Reply { bytes, code } = self.zone.reply(query, &state, transport)?;
        let labels = [transport.word(), zone::word(code)];
        self.metrics.dns_queries.with_label_values(&labels).inc();
        Some(bytes)
    }
}
