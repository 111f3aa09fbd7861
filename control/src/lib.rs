// SPDX-License-Identifier: Apache-2.0
//! The control plane of nodemesh: one source of truth for a fleet, pushed to every node.
//!
//! ```text
//! CLI, servers --nodemesh.v1--> registry --> store (embedded | etcd | the objects of a Kubernetes cluster)
//!                                  |            |
//!                                  |<--watch----+
//!                                  v
//!                            Arc<State> --> xds --ADS--> agents, Envoy, gRPC
//! ```
//!
//! What is written goes through the registry to the store; what is read comes from the store's watch, so that every replica of the
//! control plane serves the same state.
#![forbid(unsafe_code)]

pub mod app;
pub mod config;
pub mod dns;
pub mod kubernetes;
pub mod logging;
pub mod metrics;
pub mod north;
pub mod registry;
pub mod security;
pub mod server;
pub mod store;
pub mod xds;
