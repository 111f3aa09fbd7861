// SPDX-License-Identifier: Apache-2.0
//! A cluster: an API server, `kubectl`, and the parts of controllers and kubelets, which the tests play.
//!
//! ```text
//!  node "api": etcd, API server <── kubectl (as a person, a controller, a kubelet)
//!                       ^── nodemesh-control <── agents of the other nodes
//! ```
//!
//! `api_server` runs it: the `real` one, or its `double` where that could not be built (`served` decides). `shell` runs `helm` and `kubectl` as a person does, `kubelet` runs pods with the cgroups that the API's UIDs give them, `objects` writes objects. Invariant: nothing
//! here reconciles: an object is what a test made it.

mod api_server;
mod double;
mod kubelet;
pub mod objects;
mod raw;
mod real;
mod served;
mod shell;

pub use self::{
    api_server::{ApiServer, Asked},
    double::Double,
    kubelet::ClusterPod,
    raw::Requests,
    served::Served,
};

/// The chart.
pub const CHART: &str = "deploy/helm/nodemesh";
/// Namespace of the control plane.
pub const SYSTEM: &str = "nodemesh";
/// Namespace of the services of the tests.
pub const NAMESPACE: &str = crate::manifest::NAMESPACE;
