// SPDX-License-Identifier: Apache-2.0
//! Sockets of the server: binds listeners, accepts, and runs one task per connection. An accept loop of its own,
//! because failures that close, the drain and the truth need the socket of each connection.

use std::convert::Infallible;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::HeaderName;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::connection::ConnectionHandle;
use super::marked::Marked;
use super::recorder::{Mark, Recorder, Way};
use super::replica::Replica;
use super::settings::HalfClose;
use crate::tap::Tap;
use crate::wire::Wire;

const BACKLOG: i32 = 4096;
/// Pause after an accept that found no free descriptor or memory.
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// How long a client may take to close after the server's FIN.
const FIN_LIMIT: Duration = Duration::from_secs(2);
const X_REPLICA: HeaderName = HeaderName::from_static("x-replica");
const X_REQUEST_ID: &str = "x-request-id";
/// Paths of the model, whose exchanges are recorded.
const MODEL_PATHS: &str = "/v1/";

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
    tls: Option<TlsAcceptor>,
    stopping: watch::Receiver<bool>,
}

type Stream = Wire<Tap<Recorder>>;

impl Door {
    pub(super) fn new(
        replica: Arc<Replica>,
        router: Router,
        tls: Option<TlsAcceptor>,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            replica,
            router,
            tls,
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
                    Ok((stream, peer)) => drop(tokio::spawn(self.clone().serve(stream, peer))),
                    Err(error) => {
                        eprintln!("accept: {error}");
                        tokio::time::sleep(ACCEPT_RETRY).await;
                    }
                },
            }
        }
    }

    async fn serve(self, stream: TcpStream, peer: SocketAddr) {
        let _open = self.replica.connection_opened();
        // A token must leave when it is written; a connection that is gone already shows at the first read.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else { return };
        let recorder = Arc::new(Recorder::new(
            Arc::clone(self.replica.ledger()),
            peer,
            local,
            self.tls.is_some(),
        ));
        let tap = Tap::new(stream, Arc::clone(&recorder));
        let Some(stream) = secure(self.tls.as_ref(), tap).await else {
            return;
        };
        let handle = ConnectionHandle::new(Arc::clone(&recorder));
        let end = self.converse(stream, &handle, &recorder).await;
        recorder.closed(end.cut, end.by_client);
        if let Some((way, stream)) = end.cut.zip(end.stream) {
            hang_up(stream, way).await;
        }
    }

    /// Serves requests until the connection ends.
    async fn converse(&self, stream: Stream, handle: &ConnectionHandle, recorder: &Arc<Recorder>) -> End {
        let settings = self.replica.settings();
        let service = service_fn(|request| self.answer(request, handle, recorder));
        let mut connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // Counted from the end of the last response, too: this is the keep-alive timeout.
            .header_read_timeout(settings.idle_timeout.0)
            .half_close(settings.half_close == HalfClose::Serve)
            .serve_connection(TokioIo::new(stream), service);
        let mut stopping = false;
        let mut stop = self.stopping.clone();
        loop {
            tokio::select! {
                ended = &mut connection => return End {
                    cut: None,
                    by_client: ended.is_err_and(|error| error.is_incomplete_message() || error.is_closed()),
                    stream: None,
                },
                way = handle.cut_asked() => return End {
                    cut: Some(way),
                    by_client: false,
                    stream: Some(connection.into_parts().io.into_inner()),
                },
                () = told_to_stop(&mut stop), if !stopping => {
                    stopping = true;
                    Pin::new(&mut connection).graceful_shutdown();
                }
            }
        }
    }

    fn answer(
        &self,
        mut request: Request<Incoming>,
        handle: &ConnectionHandle,
        recorder: &Recorder,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
        let handle = handle.clone();
        let of_model = request.uri().path().starts_with(MODEL_PATHS);
        if of_model {
            let id = request
                .headers()
                .get(X_REQUEST_ID)
                .and_then(|id| id.to_str().ok());
            recorder.begin(request.uri().path(), id);
        }
        request.extensions_mut().insert(handle.clone());
        let response = TowerToHyperService::new(self.router.clone()).call(request);
        let replica = self.replica.name().clone();
        async move {
            let mut response = response.await?;
            response.headers_mut().insert(X_REPLICA, replica);
            if of_model {
                let status = response.status();
                handle.mark(Mark::Head(status.as_u16()));
                response = response.map(|body| Body::new(Marked::new(body, status, handle)));
            }
            Ok(response)
        }
    }
}

/// How a connection ended.
struct End {
    /// The server broke it off.
    cut: Option<Way>,
    /// The client closed in the middle of a request or response.
    by_client: bool,
    /// Left to be closed.
    stream: Option<Stream>,
}

/// Shakes hands; `None` if the peer does not in time.
async fn secure(tls: Option<&TlsAcceptor>, tap: Tap<Recorder>) -> Option<Stream> {
    let Some(acceptor) = tls else {
        return Some(Wire::Plain(tap));
    };
    let stream = timeout(HANDSHAKE_LIMIT, acceptor.accept(tap)).await.ok()?.ok()?;
    let (tap, session) = stream.get_ref();
    tap.watcher().secured(session.protocol_version()?);
    Some(Wire::Tls(Box::new(stream.into())))
}

/// Closes the socket under whatever is on it, as the kernel does for a server that dies.
async fn hang_up(stream: Stream, way: Way) {
    let socket = stream.transport().stream();
    if way == Way::Rst {
        let _ = socket.set_zero_linger();
        return;
    }
    if SockRef::from(socket).shutdown(Shutdown::Write).is_err() {
        return;
    }
    // Closing with bytes unread would send a RST after the FIN.
    let drain = async {
        let mut rest = [0; 4096];
        while socket.readable().await.is_ok() {
            match socket.try_read(&mut rest) {
                Ok(0) => break,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => (),
            }
        }
    };
    let _ = timeout(FIN_LIMIT, drain).await;
}

/// Also resolves when the server is gone.
async fn told_to_stop(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|&stop| stop).await;
}
