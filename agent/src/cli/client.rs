// SPDX-License-Identifier: Apache-2.0
//! Asks the agent through its admin socket: HTTP/1.1 over a unix socket, one request per connection.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Method, Request, StatusCode, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use crate::{api::Problem, config::ADMIN_SOCKET};

/// The agent of this node.
#[derive(Debug)]
pub struct AdminClient {
    socket: PathBuf,
    patience: Option<Duration>,
}

impl AdminClient {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            patience: None,
        }
    }

    /// The agent of `run_dir`, whose answers may take no longer than `patience`.
    pub fn patient(run_dir: &Path, patience: Duration) -> Self {
        Self {
            socket: run_dir.join(ADMIN_SOCKET),
            patience: Some(patience),
        }
    }

    /// `GET path`.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::GET, path, Bytes::new())
    }

    /// `GET path` as it comes, whatever its form.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        self.fetch(Method::GET, path, Bytes::new())
    }

    /// `PUT path` with a JSON body.
    pub(super) fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T> {
        self.call(Method::PUT, path, serde_json::to_vec(body)?.into())
    }

    /// `POST path`, without a body. An answer that the time was over is an answer.
    pub(super) fn post<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.call(Method::POST, path, Bytes::new())
    }

    /// `GET path`, shown to `each` part by part as it comes.
    pub(super) fn stream(&self, path: &str, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let mut each = |chunk: Bytes| each(&chunk);
        runtime()?.block_on(self.exchange(Method::GET, path, Bytes::new(), &mut each))
    }

    fn call<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        serde_json::from_slice(&self.fetch(method, path, body)?)
            .context("the agent's answer is not what this version of the CLI expects")
    }

    fn fetch(&self, method: Method, path: &str, body: Bytes) -> Result<Vec<u8>> {
        let mut answer = Vec::new();
        let mut gather = |chunk: Bytes| {
            answer.extend_from_slice(&chunk);
            Ok(())
        };
        let exchange = self.exchange(method, path, body, &mut gather);
        runtime()?.block_on(async {
            match self.patience {
                Some(patience) => timeout(patience, exchange)
                    .await
                    .with_context(|| format!("the agent does not answer within {} s", patience.as_secs()))?,
                None => exchange.await,
            }
        })?;
        Ok(answer)
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        each: &mut dyn FnMut(Bytes) -> Result<()>,
    ) -> Result<()> {
        let stream = UnixStream::connect(&self.socket).await.with_context(|| {
            format!(
                "no agent answers at {}; start `nodemesh-agent run`, or name its folder with --run-dir",
                self.socket.display()
            )
        })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let driver = tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "nodemesh")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))?;
        let response = sender.send_request(request).await.context("ask the agent")?;
        let status = response.status();
        let mut body = response.into_body();
        if !status.is_success() && status != StatusCode::GATEWAY_TIMEOUT {
            let body = body
                .collect()
                .await
                .context("read the agent's answer")?
                .to_bytes();
            match serde_json::from_slice::<Problem>(&body) {
                Ok(problem) => bail!("{}", problem.error),
                Err(_) => bail!(
                    "the agent answered {status}: {}",
                    String::from_utf8_lossy(&body).trim()
                ),
            }
        }
        while let Some(frame) = body.frame().await {
            if let Ok(chunk) = frame.context("read the agent's answer")?.into_data() {
                each(chunk)?;
            }
        }
        driver.abort();
        Ok(())
    }
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}
