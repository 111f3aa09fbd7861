// SPDX-License-Identifier: Apache-2.0
//! `/v1/drain`: begins a drain, takes one back, and answers when the last byte has left.
//!
//! A GET waits, so that a Kubernetes `preStop` hook (`httpGet`) is all that a pod needs; a POST answers at once unless it is asked to wait.
//! Invariant: over HTTP a drain is only for this node and for the backend itself to ask.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use axum::{
    Json,
    extract::{ConnectInfo, Query, State},
    http::{Method, StatusCode},
    response::{IntoResponse as _, Response},
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{
    report::Node,
    routes::{Shared, problem},
};
use crate::{
    api::{DrainQuery, Drained},
    drain::{DrainTarget, left},
    reconcile::thread::Command,
};

/// Time between two looks at what is left.
const PERIOD: Duration = Duration::from_millis(20);
/// Longest wait for the reconciler.
const APPLIED: Duration = Duration::from_secs(10);

/// From the admin socket.
pub(super) async fn by_operator(
    State(node): Shared,
    method: Method,
    Query(query): Query<DrainQuery>,
) -> Response {
    serve(&node, &method, query, |_| true).await
}

/// From the network.
pub(super) async fn by_peer(
    State(node): Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    method: Method,
    Query(query): Query<DrainQuery>,
) -> Response {
    let peer = peer.ip().to_canonical();
    serve(&node, &method, query, |target| may_ask(peer, target)).await
}

/// Whether `peer` may ask for a drain of `target`: this node may, and who has the address.
fn may_ask(peer: IpAddr, target: &DrainTarget) -> bool {
    peer.is_loopback() || target.addr() == Some(peer)
}

async fn serve(
    node: &Arc<Node>,
    method: &Method,
    query: DrainQuery,
    may_ask: impl Fn(&DrainTarget) -> bool,
) -> Response {
    let bad = |error: anyhow::Error| problem(StatusCode::BAD_REQUEST, format!("{error:#}"));
    let target: DrainTarget = match query.backend.parse() {
        Ok(target) => target,
        Err(error) => return bad(anyhow::Error::new(error)),
    };
    if !may_ask(&target) {
        let error =
            "over HTTP only this node and the backend itself may drain it; use `nodemesh drain` on the node";
        return problem(StatusCode::FORBIDDEN, error.to_owned());
    }
    let deadline = match query
        .timeout
        .as_deref()
        .map(humantime::parse_duration)
        .transpose()
    {
        Ok(timeout) => timeout.map(|timeout| Instant::now() + timeout),
        Err(error) => return bad(anyhow::anyhow!("timeout: {error}; write 90s or 5m")),
    };
    if let Err(error) = change(node, &target, query.undo).await {
        return bad(error);
    }
    let waits = query.wait.unwrap_or(method == Method::GET) && !query.undo;
    let outcome = if waits {
        wait(node, &target, deadline).await
    } else {
        left::of(&target, &node.view(), &node.maps).map(|left| (StatusCode::OK, left))
    };
    match outcome {
        Ok((status, left)) => (status, Json(left)).into_response(),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}")),
    }
}

/// Has `target` drained, or not any more, and waits until the kernel does so.
async fn change(node: &Node, target: &DrainTarget, undo: bool) -> Result<()> {
    let known = left::of(target, &node.view(), &node.maps)?;
    let is_drained = node.drains.targets().contains(target);
    ensure!(
        is_drained || undo || !known.backends.is_empty(),
        "no service of this node has a backend {target}; `nodemesh backends` lists them"
    );
    ensure!(
        is_drained || !undo,
        "{target} is not drained on this node; what the configuration drains is undone there"
    );
    let targets = node.drains.change(target, undo)?;
    node.commands
        .send(Command::Drain(targets))
        .context("the reconciler has ended")?;
    let mut view = node.view.clone();
    let applied = view.wait_for(|view| view.drained.contains(target) != undo);
    tokio::time::timeout(APPLIED, applied)
        .await
        .with_context(|| format!("{target} is noted, but the kernel's rows are still to be written"))?
        .map(drop)
        .context("the reconciler has ended")
}

async fn wait(node: &Node, target: &DrainTarget, deadline: Option<Instant>) -> Result<(StatusCode, Drained)> {
    let over = async {
        loop {
            let left = left::of(target, &node.view(), &node.maps)?;
            if left.drained {
                return Ok((StatusCode::OK, left));
            }
            sleep(PERIOD).await;
        }
    };
    let Some(deadline) = deadline else {
        return over.await;
    };
    match timeout_at(deadline, over).await {
        Ok(left) => left,
        Err(_) => Ok((
            StatusCode::GATEWAY_TIMEOUT,
            left::of(target, &node.view(), &node.maps)?,
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_node_and_the_backend_itself_may_ask_over_http() {
        let target = |text: &str| text.parse::<DrainTarget>().unwrap();
        let peer = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(may_ask(peer("127.0.0.1"), &target("10.0.0.1:8000")));
        assert!(may_ask(peer("::1"), &target("prod/chat-0")));
        assert!(may_ask(peer("10.0.0.1"), &target("10.0.0.1:8000")));
        assert!(may_ask(peer("10.0.0.1"), &target("prod/chat/10.0.0.1")));
        assert!(!may_ask(peer("10.0.0.2"), &target("10.0.0.1:8000")));
        assert!(
            !may_ask(peer("10.0.0.1"), &target("prod/chat-0")),
            "whose address is not told"
        );
    }
}
