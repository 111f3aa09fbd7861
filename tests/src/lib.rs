// SPDX-License-Identifier: Apache-2.0
//! The test bed: topologies of network namespaces, the agent in them, a model server, a load client and a socket probe.
//!
//! The end-to-end tests, the demo and the benchmarks are built on it. `topology` makes nodes and pods; `process` runs real
//! programs in them; `agent` runs the agent of a node and its CLI.
#![forbid(unsafe_code)]

pub mod admission_scene;
pub mod agent;
pub mod attachment;
pub mod bed;
pub mod bench;
pub mod certificate;
pub mod cgroup;
pub mod chaos;
pub mod control;
pub mod demo;
mod errno;
pub mod etcd;
pub mod eventually;
mod file_limit;
pub mod fleet;
pub mod flow_bed;
pub mod foreign;
pub mod frame;
mod interrupt;
mod journal;
pub mod kubernetes;
pub mod load;
pub mod manifest;
pub mod model_scene;
pub mod model_server;
pub mod monitoring;
pub mod monotonic;
pub mod netns;
pub mod packet_bed;
pub mod probe;
pub mod proc_net;
pub mod process;
pub mod real;
pub mod scrape;
pub mod single_node;
mod tap;
mod tls;
pub mod topology;
pub mod truth;
mod wire;
