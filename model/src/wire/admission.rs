// SPDX-License-Identifier: Apache-2.0
//! What is written about admission and resilience: the spec of an access policy, and those parts of a traffic policy.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::TargetRef;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct AccessPolicySpec {
    pub(crate) target_ref: TargetRef,
    pub(crate) default: Option<String>,
    pub(crate) rules: Option<Vec<AccessRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessRule {
    pub(crate) name: Option<String>,
    pub(crate) action: String,
    pub(crate) from: Option<Vec<Source>>,
    pub(crate) ports: Option<Vec<i64>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    pub(crate) namespaces: Option<Vec<String>>,
    pub(crate) workloads: Option<Vec<String>>,
    pub(crate) identities: Option<Vec<String>>,
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) cidrs: Option<Vec<String>>,
    pub(crate) unknown: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Locality {
    pub(crate) region: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) node: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Limits {
    pub(crate) connections_per_second: Option<i64>,
    pub(crate) burst: Option<i64>,
    pub(crate) connections: Option<i64>,
    pub(crate) requests: Option<i64>,
    pub(crate) per_client: Option<ClientLimits>,
    pub(crate) per_backend: Option<BackendLimits>,
    pub(crate) excess: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct ClientLimits {
    pub(crate) connections_per_second: Option<i64>,
    pub(crate) burst: Option<i64>,
    pub(crate) connections: Option<i64>,
    pub(crate) requests: Option<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BackendLimits {
    pub(crate) connections: Option<i64>,
    pub(crate) requests: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct OutlierDetection {
    pub(crate) connect_failures: Option<i64>,
    pub(crate) request_failures: Option<i64>,
    pub(crate) server_errors: Option<bool>,
    pub(crate) base_ejection_time: Option<String>,
    pub(crate) max_ejection_time: Option<String>,
    pub(crate) max_ejection_percent: Option<i64>,
    pub(crate) silence: Option<Silence>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Silence {
    pub(crate) streams: Option<i64>,
    pub(crate) minimum: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HealthCheck {
    pub(crate) kind: String,
    pub(crate) port: Option<i64>,
    pub(crate) path: Option<String>,
    pub(crate) interval: Option<String>,
    pub(crate) timeout: Option<String>,
    pub(crate) healthy_threshold: Option<i64>,
    pub(crate) unhealthy_threshold: Option<i64>,
    pub(crate) from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SlowStart {
    pub(crate) window: Option<String>,
    pub(crate) until_first_token: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LocalityTiers {
    pub(crate) tiers: Vec<String>,
    pub(crate) spill_requests: Option<i64>,
}
