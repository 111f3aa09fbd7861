// SPDX-License-Identifier: Apache-2.0
//! What the control plane and its clients say to each other: the protobuf package `nodemesh.v1`, the xDS types of Envoy, and the
//! doors between xDS and `model`.
//!
//! ```text
//! model::Service, Workload, TrafficPolicy, AccessPolicy --to_xds--> Listener, Cluster, ... --pack--> Any
//! Any --Received::put--> Received --assemble--> model::Manifest, what is refused, what is not supported
//! ```
//!
//! Pure functions: no I/O, no clock, no randomness. Invariant: what `to_xds` writes `from_xds` reads back to the same
//! `model::Desired`, without a complaint.
#![forbid(unsafe_code)]

pub mod from_xds;
mod metadata;
mod names;
pub mod pack;
mod rules;
pub mod to_xds;
pub mod type_url;

pub use from_xds::{Assembled, Received, Rejected, Unsupported, Waiting};
pub use names::{CONTROL_PLANE, api_listener_name, cluster_name, listener_name, policy_name};
pub use pack::IntoAny;
pub use to_xds::ServiceResources;

/// The messages and services of `nodemesh/v1/*.proto`, as generated.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated; the comments of the .proto files become its documentation"
)]
pub mod v1 {
    tonic::include_proto!("nodemesh.v1");
}

/// The xDS types and services, by protobuf package: `xds::envoy::config::cluster::v3::Cluster`.
pub use envoy_types::pb as xds;
