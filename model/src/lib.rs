// SPDX-License-Identifier: Apache-2.0
//! The domain of nodemesh: services, workloads and traffic policies, and what they come down to in kernel maps.
//!
//! ```text
//! text --Manifest::parse--> Manifest --Resources::merge--> Resources --Desired::compile--> Desired --slot_table--> rows
//!        (per file)                   (all files)                     (this node)
//! ```
//!
//! Everything here is a pure function of its input: no I/O, no clock, no randomness. Unchanged parts are shared between the
//! old and the new value of each stage (`Arc`), so the cost of a change follows its size.
#![forbid(unsafe_code)]

pub mod access;
pub mod desired;
pub mod document;
pub mod frontend;
pub mod invalid;
pub mod keyword;
pub mod maglev;
pub mod manifest;
pub mod name;
pub mod resource;
pub mod resources;
pub mod schema;
pub mod slots;
#[cfg(any(test, feature = "strategies"))]
pub mod strategy;
mod value;
mod wire;
mod yaml;

pub use access::{AccessRules, Decision, Directory, Prefix, Principal, PrincipalName, RuleName};
pub use desired::{Client, CompileError, Desired};
pub use frontend::{Frontend, FrontendBackend, FrontendName, FrontendPacket};
pub use invalid::{AdmissionProblem, InvalidResource, InvalidResources, PacketProblem, Problem};
pub use keyword::{BackendState, Family, Keyword, Kind, PacketMode};
pub use manifest::Manifest;
pub use name::ResourceName;
pub use resource::{
    AccessPolicy, Backend, LoadBalancer, Locality, LocalityLevel, PacketPath, Resource, Service, ServicePort,
    Target, TrafficPolicy, Workload,
    access_policy::{AccessRule, AccessTarget, Action, DefaultAccess, NamePattern, Source},
    policy::{Excess, HealthCheck, HealthCheckFrom, HealthCheckKind, OnRemoval, ServiceRules, Silence},
};
pub use resources::{AccessWarning, NodeAccess, Resources, Warning};
