// SPDX-License-Identifier: Apache-2.0
//! A cluster: a real API server, `kubectl`, and the parts of controllers and kubelets, which the tests play.
//!
//! ```text
//!  node "api": etcd, API server <── kubectl (as a person, a controller, a kubelet)
//!                       ^── nodemesh-control <── agents of the other nodes
//! ```
//!
//! `api_server` runs it, `shell` runs `helm` and `kubectl` as a person does, `kubelet` runs pods with the cgroups that the API's UIDs give them, `objects` writes objects. Invariant: nothing
//! here reconciles: an object is what a test made it.

mod api_server;
mod kubelet;
pub mod objects;
mod shell;

pub use self::{
    api_server::{ApiServer, Asked},
    kubelet::ClusterPod,
};

/// The chart.
pub const CHART: &str = "deploy/helm/nodemesh";
/// Namespace of the control plane.
pub const SYSTEM: &str = "nodemesh";
/// Namespace of the services of the tests.
pub const NAMESPACE: &str = crate::manifest::NAMESPACE;
