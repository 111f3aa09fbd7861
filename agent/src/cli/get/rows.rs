// SPDX-License-Identifier: Apache-2.0
//! What the control plane's answers look like: a row each, and the values that scripts get.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Result;
use comfy_table::Table;
use nodemesh_proto::v1::{BackendLoad, Entry, NodeState};
use serde_json::{Value, json};

use super::resource;
use crate::cli::{Format, table, units};

/// Text in `format`: the table, or the values.
pub(super) fn shown(format: Format, values: &[Value], rows: impl FnOnce() -> Table) -> Result<String> {
    Ok(match format {
        Format::Table => table::text(&rows()),
        Format::Json => serde_json::to_string_pretty(values)?,
        Format::Yaml => table::yaml(&values)?.trim_end().to_owned(),
    })
}

/// What a resource shows in the columns of its kind.
type Cells = fn(&Value) -> Vec<String>;

/// The resources of `kind`.
pub(super) fn resources(kind: &str, entries: &[Entry], with_namespace: bool) -> Result<Table> {
    let (headers, cells): (&[&str], Cells) = match kind {
        "Service" => (&["ADDRESSES", "PORTS", "BACKENDS", "MODEL"], service),
        "Workload" => (&["ADDRESSES", "STATE", "WEIGHT", "LABELS", "CGROUP"], workload),
        "AccessPolicy" => (&["TARGET", "DEFAULT", "ALLOW", "AUDIT", "DENY"], access_policy),
        _ => (&["TARGET", "ALGORITHM", "AFFINITY", "ADMISSION"], policy),
    };
    let mut columns = if with_namespace {
        vec!["NAMESPACE", "NAME"]
    } else {
        vec!["NAME"]
    };
    columns.extend(headers);
    columns.extend(["LEASED", "VERSION"]);
    let mut rows = table::new(&columns, &[columns.len() - 1]);
    for entry in entries {
        let mut row = if with_namespace {
            vec![entry.namespace.clone(), entry.name.clone()]
        } else {
            vec![entry.name.clone()]
        };
        row.extend(cells(&resource(entry)?));
        row.push(if entry.lease == 0 { "-" } else { "yes" }.to_owned());
        row.push(entry.version.clone());
        rows.add_row(row);
    }
    Ok(rows)
}

/// What a change made of an entry, in a few words.
pub(super) fn summary(entry: &Entry) -> Result<String> {
    let resource = resource(entry)?;
    let cells = match entry.kind.as_str() {
        "Service" => service(&resource),
        "Workload" => workload(&resource),
        "AccessPolicy" => access_policy(&resource),
        _ => policy(&resource),
    };
    Ok(cells.join(" "))
}

/// `-` in place of nothing.
fn or_dash(text: String) -> String {
    if text.is_empty() { "-".to_owned() } else { text }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn list(value: &Value) -> String {
    let items = value.as_array().into_iter().flatten().map(text);
    or_dash(items.collect::<Vec<_>>().join(","))
}

fn pairs(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten();
    let pairs = pairs.map(|(key, value)| format!("{key}={}", text(value)));
    or_dash(pairs.collect::<Vec<_>>().join(","))
}

fn service(resource: &Value) -> Vec<String> {
    let spec = &resource["spec"];
    let ports = spec["ports"].as_array().into_iter().flatten();
    let ports = ports.map(|port| format!("{}/{}", port["port"], port["protocol"].as_str().unwrap_or("TCP")));
    let backends = if spec["selector"].is_object() {
        format!("by {}", pairs(&spec["selector"]))
    } else {
        spec["backends"].as_array().map_or(0, Vec::len).to_string()
    };
    vec![
        list(&spec["addresses"]),
        or_dash(ports.collect::<Vec<_>>().join(",")),
        backends,
        or_dash(text(&spec["model"])),
    ]
}

fn workload(resource: &Value) -> Vec<String> {
    let spec = &resource["spec"];
    let or = |value: &Value, default: &str| match text(value) {
        text if text.is_empty() => default.to_owned(),
        text => text,
    };
    vec![
        list(&spec["addresses"]),
        or(&spec["state"], "active"),
        or(&spec["weight"], "1"),
        pairs(&resource["metadata"]["labels"]),
        or(&spec["cgroup"], "-"),
    ]
}

/// The service that a policy is about, `*` for all of the namespace, `mesh` for all there are.
fn target(spec: &Value) -> String {
    let target = &spec["targetRef"];
    match text(&target["name"]) {
        _ if target["kind"] == "Mesh" => "mesh".to_owned(),
        name if name.is_empty() => "*".to_owned(),
        name => name,
    }
}

fn policy(resource: &Value) -> Vec<String> {
    let spec = &resource["spec"];
    let parts = [
        ("limits", "limits"),
        ("outlierDetection", "outliers"),
        ("healthChecks", "health"),
        ("slowStart", "slow-start"),
        ("locality", "locality"),
        ("onRemoval", "on-removal"),
        ("shortcut", "shortcut"),
    ];
    let parts = parts.iter().filter(|(field, _)| !spec[field].is_null());
    let parts: Vec<_> = parts.map(|(_, word)| *word).collect();
    vec![
        target(spec),
        or_dash(text(&spec["loadBalancer"]["algorithm"])),
        or_dash(text(&spec["sessionAffinity"]["timeout"])),
        or_dash(parts.join(",")),
    ]
}

fn access_policy(resource: &Value) -> Vec<String> {
    let spec = &resource["spec"];
    let rules = |action: &str| {
        let rules = spec["rules"].as_array().into_iter().flatten();
        rules.filter(|rule| rule["action"] == action).count().to_string()
    };
    vec![
        target(spec),
        or_dash(text(&spec["default"])),
        rules("allow"),
        rules("audit"),
        rules("deny"),
    ]
}

/// The last part of a type URL: `Listener`.
fn short_type(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

fn ago(milliseconds: i64) -> String {
    let then = UNIX_EPOCH + Duration::from_millis(milliseconds.try_into().unwrap_or_default());
    let age = SystemTime::now().duration_since(then).unwrap_or_default();
    units::seconds(age.as_secs_f64())
}

/// The connected nodes.
pub(super) fn nodes(nodes: &[NodeState]) -> Table {
    let headers = [
        "NODE",
        "ADDRESS",
        "VERSION",
        "CONNECTED",
        "ACKED",
        "APPLIED",
        "NACK",
        "ERRORS",
    ];
    let mut rows = table::new(&headers, &[7]);
    for node in nodes {
        let types = node.types.iter();
        let acked = types.clone().map(|state| {
            let version = if state.acked_version.is_empty() {
                "-"
            } else {
                &state.acked_version
            };
            format!("{}={version}", short_type(&state.type_url))
        });
        let nacks = types
            .filter(|state| !state.nack_message.is_empty())
            .map(|state| {
                (
                    short_type(&state.type_url),
                    state.nack_message.split_whitespace().collect::<Vec<_>>(),
                )
            })
            .map(|(of, words)| format!("{of}: {}", words.join(" ")));
        rows.add_row([
            node.id.clone(),
            node.address.clone(),
            or_dash(node.version.clone()),
            ago(node.connected_since_ms),
            or_dash(acked.collect::<Vec<_>>().join(",")),
            or_dash(node.applied_version.clone()),
            or_dash(nacks.collect::<Vec<_>>().join("; ")),
            node.errors.len().to_string(),
        ]);
    }
    rows
}

/// A node for scripts.
pub(in crate::cli) fn node_value(node: &NodeState) -> Value {
    let types: Vec<Value> = node
        .types
        .iter()
        .map(|state| {
            json!({
                "typeUrl": state.type_url,
                "ackedVersion": state.acked_version,
                "pendingVersion": state.pending_version,
                "nackMessage": state.nack_message,
                "nackMs": state.nack_ms,
            })
        })
        .collect();
    let maps: Vec<Value> = node
        .maps
        .iter()
        .map(|map| json!({"name": map.name, "entries": map.entries, "capacity": map.capacity}))
        .collect();
    json!({
        "id": node.id,
        "address": node.address,
        "version": node.version,
        "kernel": node.kernel,
        "connectedSinceMs": node.connected_since_ms,
        "appliedVersion": node.applied_version,
        "types": types,
        "errors": node.errors,
        "maps": maps,
    })
}

fn socket(address: &str, port: u32) -> String {
    if address.contains(':') {
        format!("[{address}]:{port}")
    } else {
        format!("{address}:{port}")
    }
}

/// The load of backends.
pub(in crate::cli) fn backends(backends: &[BackendLoad]) -> Table {
    let headers = [
        "SERVICE", "PORT", "ADDRESS", "WORKLOAD", "NODES", "INFLIGHT", "ACTIVE", "REQUESTS", "ERRORS",
        "REQ/S", "TTFT",
    ];
    let mut rows = table::new(&headers, &[1, 4, 5, 6, 7, 8, 9, 10]);
    for load in backends {
        let ttft = (load.ttft_count > 0).then_some(load.ttft_mean_s);
        rows.add_row([
            format!("{}/{}", load.namespace, load.service),
            load.service_port.to_string(),
            socket(&load.address, load.port),
            or_dash(load.workload.clone()),
            load.nodes.to_string(),
            load.in_flight.to_string(),
            load.connections_active.to_string(),
            load.requests_total.to_string(),
            load.errors_total.to_string(),
            units::rate(load.request_rate),
            units::maybe_seconds(ttft),
        ]);
    }
    rows
}

/// A backend for scripts.
pub(super) fn backend_value(load: &BackendLoad) -> Value {
    json!({
        "namespace": load.namespace,
        "service": load.service,
        "servicePort": load.service_port,
        "address": load.address,
        "port": load.port,
        "workload": load.workload,
        "nodes": load.nodes,
        "inFlight": load.in_flight,
        "connectionsActive": load.connections_active,
        "requestsTotal": load.requests_total,
        "errorsTotal": load.errors_total,
        "requestRate": load.request_rate,
        "ttftMeanSeconds": (load.ttft_count > 0).then_some(load.ttft_mean_s),
        "ttftCount": load.ttft_count,
    })
}

#[cfg(test)]
mod tests {
    use nodemesh_proto::v1::TypeState;

    use super::*;

    fn entry(kind: &str, lease: i64, spec: &Value) -> Entry {
        Entry {
            kind: kind.into(),
            namespace: "models".into(),
            name: "chat".into(),
            version: "42".into(),
            resource: json!({"kind": kind, "spec": spec}).to_string(),
            lease,
        }
    }

    fn row(kind: &str, lease: i64, spec: &Value) -> String {
        let rows = resources(kind, &[entry(kind, lease, spec)], true).unwrap();
        table::rows(&rows)[1].clone()
    }

    #[test]
    fn one_line_says_what_a_resource_is() {
        let ports = json!([{"port": 80}, {"port": 53, "protocol": "UDP"}]);
        assert_eq!(
            row(
                "Service",
                0,
                &json!({"addresses": ["10.96.0.1", "fd00::1"], "ports": ports, "selector": {"app": "chat"}, "model": "llama"})
            ),
            "models chat 10.96.0.1,fd00::1 80/TCP,53/UDP by app=chat llama - 42"
        );
        assert_eq!(
            row("Service", 0, &json!({"ports": [], "backends": [{}, {}]})),
            "models chat - - 2 - - 42"
        );
        assert_eq!(
            row(
                "Workload",
                7,
                &json!({"addresses": ["10.0.0.1"], "state": "draining"})
            ),
            "models chat 10.0.0.1 draining 1 - - yes 42"
        );
        assert_eq!(
            row(
                "TrafficPolicy",
                0,
                &json!({"targetRef": {"kind": "Service"}, "loadBalancer": {"algorithm": "maglev"}})
            ),
            "models chat * maglev - - - 42"
        );
        let limited =
            json!({"targetRef": {"kind": "Service", "name": "llama"}, "limits": {}, "slowStart": {}});
        assert_eq!(
            row("TrafficPolicy", 0, &limited),
            "models chat llama - - limits,slow-start - 42"
        );
        let rules = json!([{"action": "allow"}, {"action": "deny"}, {"action": "allow"}]);
        assert_eq!(
            row(
                "AccessPolicy",
                0,
                &json!({"targetRef": {"kind": "Mesh"}, "default": "deny", "rules": rules})
            ),
            "models chat mesh deny 2 0 1 - 42"
        );
    }

    #[test]
    fn one_line_says_how_a_node_is() {
        let state = |type_url: &str, acked: &str, nack: &str| TypeState {
            type_url: format!("type.googleapis.com/envoy.config.{type_url}"),
            acked_version: acked.into(),
            nack_message: nack.into(),
            ..TypeState::default()
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let node = NodeState {
            id: "gpu-7".into(),
            address: "10.0.0.7:4444".into(),
            version: "nodemesh-agent 0.1.0".into(),
            connected_since_ms: i64::try_from(now).unwrap() - 192_500,
            types: vec![
                state("cluster.v3.Cluster", "9", ""),
                state("listener.v3.Listener", "", "x: bad"),
            ],
            applied_version: "8".into(),
            errors: vec!["x: bad".into()],
            ..NodeState::default()
        };
        assert_eq!(
            table::rows(&nodes(std::slice::from_ref(&node)))[1],
            "gpu-7 10.0.0.7:4444 nodemesh-agent 0.1.0 3m12s Cluster=9,Listener=- 8 Listener: x: bad 1"
        );
        assert_eq!(node_value(&node)["types"][1]["nackMessage"], "x: bad");
    }

    #[test]
    fn one_line_says_what_a_backend_does() {
        let load = BackendLoad {
            namespace: "models".into(),
            service: "chat".into(),
            service_port: 80,
            address: "fd00::1".into(),
            port: 8000,
            nodes: 3,
            in_flight: 12,
            connections_active: 40,
            requests_total: 1_000,
            errors_total: 2,
            request_rate: 3.25,
            ..BackendLoad::default()
        };
        assert_eq!(
            table::rows(&backends(std::slice::from_ref(&load)))[1],
            "models/chat 80 [fd00::1]:8000 - 3 12 40 1000 2 3.2 -"
        );
        assert_eq!(backend_value(&load)["ttftMeanSeconds"], Value::Null);
    }
}
