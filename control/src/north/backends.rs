// SPDX-License-Identifier: Apache-2.0
//! The answer to `Backends`.

use std::{collections::HashMap, net::IpAddr};

use nodemesh_proto::v1;

use super::load_table::{BackendKey, Load, Loads};
use crate::registry::State;

/// The load of the backends of `service` in `namespace`; empty for all.
pub(super) fn selected(loads: &Loads, state: &State, namespace: &str, service: &str) -> Vec<v1::BackendLoad> {
    let mut names = WorkloadNames {
        state,
        by_namespace: HashMap::new(),
    };
    let all = loads.list();
    let backends = all.iter().filter_map(|(key, load)| {
        let cluster = Cluster::of(&key.cluster);
        let is_wanted = (namespace.is_empty() || cluster.namespace == namespace)
            && (service.is_empty() || cluster.service == service);
        is_wanted.then(|| backend(&cluster, key, load, &mut names))
    });
    let mut backends: Vec<_> = backends.collect();
    backends.sort_by(|a, b| {
        let order = |backend: &v1::BackendLoad| {
            let address: Option<IpAddr> = backend.address.parse().ok();
            (backend.service_port, address, backend.port)
        };
        let names = (&a.namespace, &a.service).cmp(&(&b.namespace, &b.service));
        names.then_with(|| order(a).cmp(&order(b)))
    });
    backends
}

/// A cluster's name taken apart; of a foreign one all is the service.
pub(crate) struct Cluster<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) service: &'a str,
    pub(crate) port: u32,
}

impl<'a> Cluster<'a> {
    pub(crate) fn of(name: &'a str) -> Self {
        // As `nodemesh_proto::cluster_name` makes them.
        let mut parts = name.strip_suffix("/udp").unwrap_or(name).split('/');
        if let (Some(namespace), Some(service), Some(port), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
            && let Ok(port) = port.parse::<u16>()
        {
            return Self {
                namespace,
                service,
                port: port.into(),
            };
        }
        Self {
            namespace: "",
            service: name,
            port: 0,
        }
    }
}

fn backend(
    cluster: &Cluster<'_>,
    key: &BackendKey,
    load: &Load,
    names: &mut WorkloadNames<'_>,
) -> v1::BackendLoad {
    v1::BackendLoad {
        namespace: cluster.namespace.to_owned(),
        service: cluster.service.to_owned(),
        service_port: cluster.port,
        address: key.address.ip().to_string(),
        port: key.address.port().into(),
        workload: names.of(cluster.namespace, key.address.ip()),
        nodes: load.nodes,
        in_flight: load.in_flight,
        connections_active: load.connections,
        requests_total: load.requests,
        errors_total: load.errors,
        request_rate: load.rate,
        ttft_mean_s: load.ttft_mean_s(),
        ttft_count: load.ttft_count,
    }
}

impl Load {
    /// Mean time to first token in the last interval, seconds; 0 without one.
    pub fn ttft_mean_s(&self) -> f64 {
        match self.ttft_count {
            0 => 0.0,
            count => self.ttft_sum_s / count as f64,
        }
    }
}

/// Workloads by address, looked up per namespace when first asked for.
struct WorkloadNames<'a> {
    state: &'a State,
    by_namespace: HashMap<String, HashMap<IpAddr, String>>,
}

impl WorkloadNames<'_> {
    fn of(&mut self, namespace: &str, address: IpAddr) -> String {
        if !self.by_namespace.contains_key(namespace) {
            let workloads = self.state.workloads_of(namespace);
            let names = workloads.flat_map(|workload| {
                let name = workload.metadata.name.name();
                workload
                    .addresses
                    .iter()
                    .map(|address| (*address, name.to_owned()))
            });
            self.by_namespace.insert(namespace.to_owned(), names.collect());
        }
        let names = self.by_namespace.get(namespace);
        names
            .and_then(|names| names.get(&address))
            .cloned()
            .unwrap_or_default()
    }
}
