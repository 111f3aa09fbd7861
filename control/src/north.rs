// SPDX-License-Identifier: Apache-2.0
//! What people, servers and nodes say to the control plane: the services of `nodemesh.v1`, and Envoy's load reports.
//!
//! ```text
//! Registry --RegistryService--> registry
//! Node.Report --NodeService--> Reports --+
//! LRS --LoadService--> Loads ------------+--> Nodes, Backends, metrics
//! xds::Nodes ----------------------------+
//! ```
//!
//! Mounted by `app`. Invariant: nothing here decides anything about a resource; requests are translated, and errors into the codes
//! that the .proto files promise.

mod backends;
mod entry;
mod load_service;
mod load_table;
mod node_service;
mod nodes;
mod registration;
mod registry_service;
mod reports;
mod status;
mod watch;

#[cfg(test)]
mod tests;

pub(crate) use backends::Cluster;
pub use load_service::LoadService;
pub use load_table::{BackendKey, Load, Loads};
pub use node_service::NodeService;
pub use registration::LeaseTimes;
pub use registry_service::{RegistryService, Sources};
pub use reports::{Report, Reports};
