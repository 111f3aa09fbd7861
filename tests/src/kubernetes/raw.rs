// SPDX-License-Identifier: Apache-2.0
//! Requests to the API server as they are, of an administrator: what no `kubectl` sends, and answers as no `kubectl` shows them.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, Result};
use axum::http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    runtime::Builder,
};
use tokio_rustls::TlsConnector;

use super::ApiServer;
use crate::{
    netns::NetNs,
    tls::{self, Versions},
};

/// A way to the API server, for any thread.
#[derive(Clone, Debug)]
pub struct Requests<'a> {
    netns: &'a NetNs,
    address: SocketAddr,
    /// Who signed the server's certificate, if it serves over TLS.
    authority: Option<&'a Path>,
}

impl ApiServer {
    /// The way there.
    pub fn requests(&self) -> Requests<'_> {
        Requests {
            netns: self.pod().netns(),
            address: self.address(),
            authority: self.authority(),
        }
    }
}

impl Requests<'_> {
    /// Code and body of the answer to a request whose body is of the media type `form`.
    pub fn ask(&self, method: &str, path: &str, form: &str, body: &str) -> Result<(u16, String)> {
        let address = self.address;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, address.to_string())
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, form)
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let ask = async {
            let stream = TcpStream::connect(address).await?;
            let Some(authority) = self.authority else {
                return answer(stream, request).await;
            };
            let connector = TlsConnector::from(tls::client(authority, Versions::Both)?);
            let stream = connector.connect(ServerName::from(address.ip()), stream).await?;
            answer(stream, request).await
        };
        self.netns.run(|| {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(ask)
        })?
    }
}

async fn answer(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
) -> Result<(u16, String)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(request).await.context("send a request")?;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.context("read an answer")?;
    Ok((code, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}
