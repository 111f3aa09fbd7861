// SPDX-License-Identifier: Apache-2.0
//! The test bed: topologies of network namespaces, the agent in them, a model server, a load client and a socket probe.
//!
//! The end-to-end tests, the demo and the benchmarks are built on it. `topology` makes nodes and pods; `process` runs real
//! programs in them; `agent` runs the agent of a node and its CLI.
#![forbid(unsafe_code)]

pub mod agent;
pub mod cgroup;
mod errno;
pub mod eventually;
mod file_limit;
pub mod load;
pub mod model_server;
pub mod netns;
pub mod probe;
pub mod process;
pub mod topology;
