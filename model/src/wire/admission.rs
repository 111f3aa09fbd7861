// SPDX-License-Identifier: Apache-2.0
//! What is written about admission and resilience: the spec of an access policy, and those parts of a traffic policy.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::TargetRef;
use crate::schema::words;

/// Who may connect.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{"rule": "has(self.rules) || has(self.default)", "message": "give rules, a default, or both"}]))]
pub(crate) struct AccessPolicySpec {
    /// The service; all services of the namespace without a name, all of the mesh with kind Mesh.
    pub(crate) target_ref: TargetRef,
    /// What holds where no rule matches.
    #[schemars(extend("enum" = words::<crate::DefaultAccess>()))]
    pub(crate) default: Option<String>,
    /// The rules; their order has no meaning.
    pub(crate) rules: Option<Vec<AccessRule>>,
}

/// A rule.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct AccessRule {
    /// Name of the rule, for events and metrics.
    pub(crate) name: Option<String>,
    /// What happens to the clients that it matches; deny wins.
    #[schemars(extend("enum" = words::<crate::Action>()))]
    pub(crate) action: String,
    /// The clients, one of which must match; everybody if absent.
    #[schemars(length(min = 1))]
    pub(crate) from: Option<Vec<Source>>,
    /// Ports of the service; all if absent.
    #[schemars(length(min = 1))]
    pub(crate) ports: Option<Vec<i64>>,
}

/// Clients: all fields that are given must match.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Source {
    /// Namespaces of workloads; a * at the end stands for anything.
    pub(crate) namespaces: Option<Vec<String>>,
    /// Names of workloads; a * at the end stands for anything.
    pub(crate) workloads: Option<Vec<String>>,
    /// SPIFFE IDs; a * at the end stands for anything.
    pub(crate) identities: Option<Vec<String>>,
    /// Labels of workloads.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    /// Address ranges.
    pub(crate) cidrs: Option<Vec<String>>,
    /// Clients that are no workload.
    #[schemars(extend("enum" = [true]))]
    pub(crate) unknown: Option<bool>,
}

/// A place.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Locality {
    /// The region.
    pub(crate) region: Option<String>,
    /// The zone.
    pub(crate) zone: Option<String>,
    /// The node.
    pub(crate) node: Option<String>,
}

/// Limits of a service.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Limits {
    /// New connections per second.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) connections_per_second: Option<i64>,
    /// Connections that may come at once after a pause.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) burst: Option<i64>,
    /// Connections at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(crate) connections: Option<i64>,
    /// Requests in flight at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(crate) requests: Option<i64>,
    /// The same for each client.
    pub(crate) per_client: Option<PartLimits>,
    /// The same for each replica.
    pub(crate) per_backend: Option<PartLimits>,
    /// What a refused connect says: again (`EAGAIN`) or refuse (`ECONNREFUSED`).
    #[schemars(extend("enum" = words::<crate::Excess>()))]
    pub(crate) excess: Option<String>,
}

/// Limits of each client, or of each replica.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct PartLimits {
    /// New connections per second of one of them.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) connections_per_second: Option<i64>,
    /// Connections of one that may come at once after a pause.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) burst: Option<i64>,
    /// Connections of one at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(crate) connections: Option<i64>,
    /// Requests of one in flight at once.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub(crate) requests: Option<i64>,
}

/// When a replica is left alone for a while.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct OutlierDetection {
    /// Failed connects in a row that eject a replica; 0: never.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(crate) connect_failures: Option<i64>,
    /// Failed requests in a row that do; 0: never.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(crate) request_failures: Option<i64>,
    /// Whether a 5xx answer is a failed request.
    pub(crate) server_errors: Option<bool>,
    /// How long the first ejection lasts; each further one twice as long.
    pub(crate) base_ejection_time: Option<String>,
    /// How long one lasts at most.
    pub(crate) max_ejection_time: Option<String>,
    /// Share of the replicas that may be ejected at once.
    #[schemars(range(min = 1, max = 100))]
    pub(crate) max_ejection_percent: Option<i64>,
    /// When silence of open streams ejects a replica.
    pub(crate) silence: Option<Silence>,
}

/// When silence ejects.
#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Silence {
    /// Streams that must agree; 0: never.
    #[schemars(range(min = 0, max = 10_000))]
    pub(crate) streams: Option<i64>,
    /// Shortest silence that counts.
    pub(crate) minimum: Option<String>,
}

/// An active health check.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct HealthCheck {
    /// How the replica is asked.
    #[schemars(extend("enum" = words::<crate::HealthCheckKind>()))]
    pub(crate) kind: String,
    /// The port; that of the replica if absent.
    #[schemars(range(min = 1, max = 65535))]
    pub(crate) port: Option<i64>,
    /// Path of an HTTP check, or the service of a gRPC one.
    pub(crate) path: Option<String>,
    /// Time between two checks.
    pub(crate) interval: Option<String>,
    /// How long an answer may take.
    pub(crate) timeout: Option<String>,
    /// Good answers in a row that bring a replica back.
    #[schemars(range(min = 1, max = 1_000))]
    pub(crate) healthy_threshold: Option<i64>,
    /// Bad ones in a row that take it out.
    #[schemars(range(min = 1, max = 1_000))]
    pub(crate) unhealthy_threshold: Option<i64>,
    /// Which nodes ask.
    #[schemars(extend("enum" = words::<crate::HealthCheckFrom>()))]
    pub(crate) from: Option<String>,
}

/// How a new replica gets its share.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct SlowStart {
    /// Time over which the share of a new replica grows from a tenth to the whole.
    pub(crate) window: Option<String>,
    /// One connection at a time until its first token was seen.
    pub(crate) until_first_token: Option<bool>,
}

/// Whether messages between sockets of one node may go past TCP.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Shortcut {
    /// Whether they may.
    pub(crate) enabled: bool,
    /// Ports of the service whose connections may not; at most 7.
    #[schemars(length(max = 7), inner(range(min = 1, max = 65535)))]
    pub(crate) except_ports: Option<Vec<i64>>,
}

/// Which replicas come first.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct LocalityTiers {
    /// Levels that share replicas with the client, the nearest first.
    #[schemars(length(min = 1, max = 3))]
    pub(crate) tiers: Vec<String>,
    /// Requests in flight per replica beyond which the next tier is taken.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) spill_requests: Option<i64>,
    /// Whether replicas that are in none of the tiers are left out: without one in a tier there is none.
    pub(crate) strict: Option<bool>,
}
