// SPDX-License-Identifier: Apache-2.0
//! The resources as they are written: field names, nothing checked but their types. Read by `manifest`, consumed by the
//! `TryFrom` of each domain type.
//!
//! Invariant: numbers are `i64` and words are `String` here, so that a value out of range reaches the domain's check, which
//! names the range, and does not stop at the first one.

use std::collections::BTreeMap;

use serde::{Deserialize, de::IgnoredAny};

mod admission;

pub(crate) use admission::*;

/// `apiVersion` of every resource.
pub(crate) const API_VERSION: &str = "nodemesh.io/v1alpha1";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Document<S> {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    pub(crate) metadata: Metadata,
    pub(crate) spec: S,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Metadata {
    pub(crate) name: String,
    pub(crate) namespace: Option<String>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServiceSpec {
    pub(crate) model: Option<String>,
    pub(crate) addresses: Vec<String>,
    pub(crate) ports: Vec<ServicePort>,
    pub(crate) backends: Option<Vec<Backend>>,
    pub(crate) selector: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ServicePort {
    pub(crate) name: Option<String>,
    pub(crate) port: i64,
    pub(crate) protocol: Option<String>,
    pub(crate) target_port: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Backend {
    pub(crate) address: String,
    pub(crate) port_name: Option<String>,
    pub(crate) port: Option<i64>,
    pub(crate) weight: Option<i64>,
    pub(crate) state: Option<String>,
    pub(crate) locality: Option<Locality>,
    pub(crate) workload: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct WorkloadSpec {
    pub(crate) addresses: Option<Vec<String>>,
    pub(crate) weight: Option<i64>,
    pub(crate) state: Option<String>,
    pub(crate) cgroup: Option<String>,
    pub(crate) identity: Option<String>,
    pub(crate) locality: Option<Locality>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct TrafficPolicySpec {
    pub(crate) target_ref: TargetRef,
    pub(crate) load_balancer: Option<LoadBalancer>,
    pub(crate) client_key: Option<String>,
    pub(crate) session_affinity: Option<SessionAffinity>,
    pub(crate) limits: Option<Limits>,
    pub(crate) outlier_detection: Option<OutlierDetection>,
    pub(crate) health_checks: Option<HealthCheck>,
    pub(crate) slow_start: Option<SlowStart>,
    pub(crate) locality: Option<LocalityTiers>,
    pub(crate) on_removal: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TargetRef {
    pub(crate) kind: String,
    pub(crate) name: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LoadBalancer {
    pub(crate) algorithm: Option<String>,
    pub(crate) table_size: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SessionAffinity {
    pub(crate) timeout: String,
}
