// SPDX-License-Identifier: Apache-2.0
//! The control plane and its peers that other people wrote: gRPC clients, Envoy, and a foreign xDS server.
//!
//! ```text
//!  Control (nodemesh-control) ── ADS ──► GrpcClient (grpcio), Envoy
//!  ForeignServer (Python)     ── ADS ──► nodemesh-agent
//! ```
//!
//! Used by `tests/xds_peers.rs`. They talk on the loopback of one network namespace, so that ports are nobody else's. Invariant: what
//! a peer cannot do fails the test at once, with the reason.

mod control;
mod envoy;
mod foreign;
mod grpc;

use std::path::PathBuf;

use tokio::runtime;

use super::tool;
use crate::topology::Pod;

pub use self::{
    control::Control,
    envoy::{AdsVariant, Envoy},
    foreign::{ForeignServer, Said, assignment, cluster, listener, weighted_listener},
    grpc::{Calls, GrpcBackend, GrpcClient, ResourceStatus},
};

const PYTHON_REQUIREMENTS: &str = include_str!("../../real/xds-requirements.txt");
const ENVOY_REQUIREMENTS: &str = include_str!("../../real/envoy-requirements.txt");

/// The Python that has gRPC with xDS.
fn python() -> PathBuf {
    installed(PYTHON_REQUIREMENTS, "python")
}

fn installed(requirements: &str, program: &str) -> PathBuf {
    let environment = tool::environment(requirements)
        .unwrap_or_else(|| panic!("no {program} with what its tests need: `cargo xtask setup` installs it"));
    environment.join("bin").join(program)
}

/// Does `work` with sockets of the pod's network namespace.
fn within<T: Send>(pod: &Pod, work: impl AsyncFnOnce() -> T + Send) -> T {
    let run = || {
        let runtime = runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(work())
    };
    pod.netns().run(run).expect("enter the network namespace")
}
