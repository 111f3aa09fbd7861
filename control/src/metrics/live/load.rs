// SPDX-License-Identifier: Apache-2.0
//! What the clients of the whole fleet make of the backends.

use super::Family;
use crate::north::{BackendKey, Cluster, Load, Loads};

const LABELS: &[&str] = &["namespace", "service", "port", "backend"];

type Column = (Family, fn(&Load) -> Option<f64>);

pub(super) fn families(loads: &Loads) -> Vec<Family> {
    let (nodes, ignored) = loads.counts();
    let single = [
        Family::gauge("load_nodes", "Nodes that report load.", &[]).with(nodes as f64),
        Family::counter(
            "load_entries_ignored_total",
            "Entries of load reports that were left out: no address, named twice, or too many.",
            &[],
        )
        .with(ignored as f64),
    ];
    let mut columns = columns();
    for (key, load) in loads.list() {
        let BackendKey { cluster, address } = &key;
        let cluster = Cluster::of(cluster);
        let (port, address) = (cluster.port.to_string(), address.to_string());
        let labels = [cluster.namespace, cluster.service, &port, &address];
        for (family, number) in &mut columns {
            if let Some(number) = number(&load) {
                family.add(&labels, number);
            }
        }
    }
    let columns = columns.into_iter().map(|(family, _)| family);
    single.into_iter().chain(columns).collect()
}

fn columns() -> [Column; 6] {
    let gauge = |name, help| Family::gauge(name, help, LABELS);
    let counter = |name, help| Family::counter(name, help, LABELS);
    [
        (
            gauge(
                "backend_in_flight",
                "Requests in flight to a backend, from all nodes.",
            ),
            |load| Some(load.in_flight as f64),
        ),
        (
            gauge(
                "backend_connections_active",
                "Open connections to a backend, from all nodes.",
            ),
            |load| Some(load.connections as f64),
        ),
        (
            gauge(
                "backend_nodes",
                "Nodes that have something going on with a backend.",
            ),
            |load| Some(load.nodes.into()),
        ),
        (
            counter(
                "backend_requests_total",
                "Requests to a backend since this control plane started.",
            ),
            |load| Some(load.requests as f64),
        ),
        (
            counter(
                "backend_errors_total",
                "Failed requests to a backend since this control plane started.",
            ),
            |load| Some(load.errors as f64),
        ),
        (
            gauge(
                "backend_ttft_seconds",
                "Mean time to first token of a backend in the last report interval, over all nodes.",
            ),
            |load| (load.ttft_count > 0).then(|| load.ttft_mean_s()),
        ),
    ]
}
