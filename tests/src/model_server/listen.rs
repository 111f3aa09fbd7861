// SPDX-License-Identifier: Apache-2.0
//! Sockets of the server: binds listeners, accepts, and runs one task per connection. An accept loop of its own,
//! because `--failure reset` and the drain need the socket of each connection.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::HeaderName;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::connection::ConnectionHandle;
use super::replica::Replica;

const BACKLOG: i32 = 4096;
/// Pause after an accept that found no free descriptor or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
const X_REPLICA: HeaderName = HeaderName::from_static("x-replica");

/// Binds one listener. An IPv6 one leaves the IPv4 port alone, so that both can be given.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// What every connection of the server needs.
#[derive(Clone)]
pub(super) struct Door {
    replica: Arc<Replica>,
    router: Router,
    idle_timeout: Duration,
    stopping: watch::Receiver<bool>,
}

impl Door {
    pub(super) fn new(
        replica: Arc<Replica>,
        router: Router,
        idle_timeout: Duration,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            replica,
            router,
            idle_timeout,
            stopping,
        }
    }

    /// Accepts until the server stops; the listener closes then.
    pub(super) async fn accept(self, listener: TcpListener) {
        let mut stopping = self.stopping.clone();
        loop {
            tokio::select! {
                biased;
                () = told_to_stop(&mut stopping) => return,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => drop(tokio::spawn(self.clone().serve(stream))),
                    Err(error) => {
                        eprintln!("accept: {error}");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    async fn serve(mut self, stream: TcpStream) {
        let _open = self.replica.connection_opened();
        // A token must leave when it is written; a connection that is gone already shows at the first read.
        let _ = stream.set_nodelay(true);
        let handle = ConnectionHandle::default();
        let service = {
            let routes = TowerToHyperService::new(self.router);
            let handle = handle.clone();
            let replica = self.replica.name().clone();
            service_fn(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(handle.clone());
                let response = routes.call(request);
                let replica = replica.clone();
                async move {
                    let mut response = response.await?;
                    response.headers_mut().insert(X_REPLICA, replica);
                    Ok::<_, Infallible>(response)
                }
            })
        };
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Counted from the end of the last response, too: this is the keep-alive timeout.
            .header_read_timeout(self.idle_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let mut stopping = false;
        loop {
            tokio::select! {
                _ = &mut connection => return,
                () = handle.reset_asked() => {
                    let _ = connection.into_parts().io.into_inner().set_zero_linger();
                    return;
                }
                () = told_to_stop(&mut self.stopping), if !stopping => {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        }
    }
}

/// Also resolves when the server is gone.
async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stop| stop).await;
}
