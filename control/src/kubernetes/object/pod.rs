// SPDX-License-Identifier: Apache-2.0
//! A Pod: who a client is. Read by `reflect`, translated by `translate::pod`.
//!
//! Invariant: a pod that has ended has no addresses, whatever its status still says: another one may have them.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::Pod as Api;

use super::{Labels, addresses};

/// The kubelet knows a static pod by the hash of its file; the UID of the mirror that the API server has is another one.
const STATIC_UID: &str = "kubernetes.io/config.hash";

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    /// The UID that its cgroup bears.
    pub(crate) uid: String,
    pub(crate) labels: Labels,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) node: Option<String>,
    pub(crate) service_account: String,
    /// Its addresses are those of its node.
    pub(crate) has_host_network: bool,
    /// It runs, or is about to.
    pub(crate) is_live: bool,
}

impl From<Api> for Pod {
    fn from(api: Api) -> Self {
        let spec = api.spec.unwrap_or_default();
        let status = api.status.unwrap_or_default();
        let is_live = !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
        let ips = status.pod_ips.unwrap_or_default();
        let ips: Vec<String> = ips.into_iter().map(|ip| ip.ip).chain(status.pod_ip).collect();
        let mut addresses = if is_live { addresses(&ips) } else { Vec::new() };
        addresses.sort_unstable();
        addresses.dedup();
        let static_uid = api
            .metadata
            .annotations
            .and_then(|mut annotations| annotations.remove(STATIC_UID));
        Self {
            uid: static_uid.or(api.metadata.uid).unwrap_or_default(),
            labels: api.metadata.labels.unwrap_or_default(),
            addresses,
            node: spec.node_name,
            service_account: spec.service_account_name.unwrap_or_else(|| "default".to_owned()),
            has_host_network: spec.host_network.unwrap_or(false),
            is_live,
        }
    }
}
