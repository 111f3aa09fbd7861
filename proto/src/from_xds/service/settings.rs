// SPDX-License-Identifier: Apache-2.0
//! What a cluster says of balancing, limits and health, as a `TrafficPolicy`. Called by `service`.
//!
//! Invariant: what holds without a policy is not written.

use nodemesh_abi::{Algorithm, ClientKeySource};
use nodemesh_model::{Keyword, Kind, ResourceName};
use serde_json::{Map, Value, json};

use crate::from_xds::{cluster::Cluster, listener::Target};

/// What a `TrafficPolicy` says.
#[derive(Clone, PartialEq)]
pub(super) struct Settings {
    algorithm: Algorithm,
    table_size: Option<u32>,
    client_key: ClientKeySource,
    affinity_timeout_s: u32,
    /// Fields of limits and health.
    rules: Map<String, Value>,
}

impl Settings {
    pub(super) fn of(cluster: &Cluster, target: &Target, rules: Map<String, Value>) -> Self {
        let balancer = cluster.balancer;
        let by_address = balancer.algorithm == Algorithm::Maglev && target.hashes_source;
        let implied = if by_address {
            ClientKeySource::Address
        } else {
            ClientKeySource::Workload
        };
        Self {
            algorithm: balancer.algorithm,
            table_size: balancer.table_size,
            client_key: cluster.client_key.unwrap_or(implied),
            affinity_timeout_s: cluster.affinity_timeout_s,
            rules,
        }
    }

    /// Whether it says what holds without a policy.
    pub(super) fn is_default(&self) -> bool {
        self.algorithm == Algorithm::LeastRequest
            && self.client_key == ClientKeySource::Workload
            && self.affinity_timeout_s == 0
            && self.rules.is_empty()
    }

    pub(super) fn spec(self, service: &ResourceName) -> Value {
        let mut spec = json!({
            "targetRef": {"kind": Kind::Service.word(), "name": service.name()},
            "loadBalancer": {"algorithm": self.algorithm.word(), "tableSize": self.table_size},
            "clientKey": self.client_key.word(),
        });
        if self.affinity_timeout_s != 0 {
            spec["sessionAffinity"] = json!({"timeout": format!("{}s", self.affinity_timeout_s)});
        }
        if let Some(spec) = spec.as_object_mut() {
            spec.extend(self.rules);
        }
        spec
    }
}
