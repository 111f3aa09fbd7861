// SPDX-License-Identifier: Apache-2.0
//! One client connection with HTTP/1.1 on it. A worker owns it; dropping it closes the connection at once.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Request, Response, body::Incoming};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::dial::Dialled;

/// How long the server may take to close a one-shot connection first.
const CLOSE_WAIT: Duration = Duration::from_millis(500);

/// An open connection.
pub(super) struct Session {
    sender: SendRequest<Full<Bytes>>,
    driver: JoinHandle<Option<TcpStream>>,
    /// Named by an answer on this connection.
    pub(super) replica: Option<String>,
}

impl Session {
    pub(super) async fn open(dialled: Dialled) -> hyper::Result<Self> {
        let (sender, connection) = handshake(TokioIo::new(dialled.stream)).await?;
        let driver = tokio::spawn(async move {
            let parts = connection.without_shutdown().await.ok()?;
            Some(parts.io.into_inner())
        });
        Ok(Self {
            sender,
            driver,
            replica: None,
        })
    }

    /// Whether the server has kept the connection open since the last answer.
    pub(super) async fn usable(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    pub(super) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        self.sender.send_request(request).await
    }

    /// Ends a connection whose last answer said `connection: close`, letting the server close first: so `TIME_WAIT`
    /// stays there, and this end does not run out of ports.
    pub(super) async fn closed_by_server(mut self) {
        let wait = async {
            if let Ok(Some(stream)) = (&mut self.driver).await {
                let mut rest = [0; 64];
                while stream.readable().await.is_ok() {
                    match stream.try_read(&mut rest) {
                        Ok(0) => break,
                        Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
                        Ok(_) | Err(_) => (),
                    }
                }
            }
        };
        let _ = tokio::time::timeout(CLOSE_WAIT, wait).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
