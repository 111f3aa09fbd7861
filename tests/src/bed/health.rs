// SPDX-License-Identifier: Apache-2.0
//! What answers health checks beside a replica: HTTP and gRPC at one port of a pod, as well as the test says.
//!
//! Invariant: ends, with its runtime, when dropped; who asks then is refused.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{Response, StatusCode, Uri},
};
use tokio::runtime::Runtime;
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};

use crate::topology::Pod;

/// `HealthCheckResponse` of gRPC with `SERVING`, and with `NOT_SERVING`, each with the prefix of its length.
const ANSWERS: [&[u8]; 2] = [&[0, 0, 0, 0, 2, 8, 1], &[0, 0, 0, 0, 2, 8, 2]];

/// A running server.
#[derive(Debug)]
pub struct HealthServer {
    shared: Arc<Shared>,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Shared {
    is_well: AtomicBool,
    asked: Mutex<BTreeMap<String, u64>>,
}

impl HealthServer {
    /// Starts it at `port` of the IPv4 address of `pod`; it is well.
    pub fn start(pod: &Pod, port: u16) -> Self {
        let shared = Arc::new(Shared {
            is_well: AtomicBool::new(true),
            asked: Mutex::default(),
        });
        let address = SocketAddr::new(pod.v4(), port);
        let listener = pod.netns().run(|| TcpListener::bind(address));
        let listener = listener.expect("a network namespace").expect("a free port");
        listener.set_nonblocking(true).expect("a socket");
        let runtime = Runtime::new().expect("a runtime");
        let router = Router::new().fallback(answer).with_state(Arc::clone(&shared));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            let server = Server::builder()
                .accept_http1(true)
                .add_routes(Routes::from(router));
            server.serve_with_incoming(TcpIncoming::from(listener)).await
        });
        Self {
            shared,
            _runtime: runtime,
        }
    }

    /// Whether it says from now on that the replica is well.
    pub fn set(&self, is_well: bool) {
        self.shared.is_well.store(is_well, Ordering::Relaxed);
    }

    /// How often each path was asked for.
    pub fn asked(&self) -> BTreeMap<String, u64> {
        self.shared
            .asked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri) -> Response<Body> {
    let path = uri.path().to_owned();
    let is_grpc = path.starts_with("/grpc.health.v1.Health/");
    let mut asked = shared.asked.lock().unwrap_or_else(PoisonError::into_inner);
    *asked.entry(path).or_default() += 1;
    drop(asked);
    let is_well = shared.is_well.load(Ordering::Relaxed);
    let answer = Response::builder();
    let answer = if is_grpc {
        let headers = answer
            .header("content-type", "application/grpc")
            .header("grpc-status", "0");
        headers.body(Body::from(ANSWERS[usize::from(!is_well)]))
    } else {
        let code = if is_well {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        answer.status(code).body(Body::empty())
    };
    answer.expect("an answer of constants")
}
