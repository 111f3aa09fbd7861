// SPDX-License-Identifier: Apache-2.0
//! One health check: asks a backend once, over a connection of its own. Used by `check`.
//!
//! The programs know the agent's process and leave its connections alone. Invariant: whatever answers, a probe ends by its timeout.

use std::{convert::Infallible, future, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::Empty;
use hyper::{Request, client::conn::http1, header, http::uri::PathAndQuery};
use hyper_util::rt::TokioIo;
use nodemesh_model::resource::policy::{HealthCheck, HealthCheckKind};
use tokio::{net::TcpStream, time::timeout};
use tonic::{client::Grpc, transport::Endpoint};
use tonic_prost::ProstCodec;

/// `SERVING` of `grpc.health.v1.HealthCheckResponse`.
const SERVING: i32 = 1;
const USER_AGENT: &str = concat!("nodemesh/", env!("CARGO_PKG_VERSION"));

/// `grpc.health.v1.HealthCheckRequest`: the whole server is meant.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// Asks what listens at `address`; why it is not well, if it is not.
pub(super) async fn ask(address: SocketAddr, check: &HealthCheck) -> Result<()> {
    let answer = async {
        match check.kind {
            HealthCheckKind::Tcp => connect(address).await.map(drop),
            HealthCheckKind::Http => http(address, &check.path).await,
            HealthCheckKind::Grpc => grpc(address, check.timeout).await,
        }
    };
    timeout(check.timeout, answer).await.with_context(|| {
        let timeout = humantime::format_duration(check.timeout);
        format!("no answer within {timeout}")
    })?
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    TcpStream::connect(address).await.context("connect")
}

async fn http(address: SocketAddr, path: &str) -> Result<()> {
    let stream = connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path)
        .header(header::HOST, address.to_string())
        .header(header::USER_AGENT, USER_AGENT)
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    // In this task, so that nothing is left of it when the time is over. Its end is the answer's business.
    let driver = async {
        drop(connection.await);
        future::pending::<Infallible>().await
    };
    tokio::select! {
        response = sender.send_request(request) => {
            let status = response.context("ask")?.status();
            ensure!(status.is_success(), "the status is {status}");
            Ok(())
        }
        never = driver => match never {},
    }
}

async fn grpc(address: SocketAddr, patience: Duration) -> Result<()> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(patience)
        .user_agent(USER_AGENT)?;
    let channel = endpoint.connect().await.context("connect")?;
    let mut client = Grpc::new(channel);
    client.ready().await.context("connect")?;
    let request = tonic::Request::new(HealthCheckRequest::default());
    let path = PathAndQuery::from_static("/grpc.health.v1.Health/Check");
    let codec = ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
    let answer = client.unary(request, path, codec).await.context("ask")?;
    let status = answer.into_inner().status;
    ensure!(
        status == SERVING,
        "the status is {status}, not SERVING ({SERVING})"
    );
    Ok(())
}

#[cfg(test)]
mod tests;
