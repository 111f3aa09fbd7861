// SPDX-License-Identifier: Apache-2.0
//! Resources back to documents: the form in which they are stored, shown and sent. The counterpart of `manifest`.
//!
//! Invariant: the document is canonical (equal resources have equal documents: defaults are left out, addresses are in their
//! shortest form) and reads back as the same resource.

use nodemesh_abi::ClientKeySource;
use serde_json::{Map, Value, json};

use crate::{
    keyword::{BackendState, Keyword, Kind},
    name::{Labels, ResourceName},
    resource::{Backend, Metadata, Resource, Service, ServicePort, Target, TrafficPolicy, Workload},
    wire::API_VERSION,
};

#[cfg(test)]
mod tests;

impl Resource {
    /// Its document.
    pub fn to_value(&self) -> Value {
        let spec = match self {
            Self::Service(service) => service_spec(service),
            Self::Workload(workload) => workload_spec(workload),
            Self::TrafficPolicy(policy) => policy_spec(policy),
            Self::AccessPolicy(policy) => policy.to_spec(),
        };
        document(self.kind(), metadata(self.metadata()).into(), spec.into())
    }
}

/// The document of a resource with this content, which is not checked.
pub fn document(kind: Kind, metadata: Value, spec: Value) -> Value {
    let mut fields = Fields::default();
    fields.put("apiVersion", API_VERSION);
    fields.put("kind", kind.word());
    fields.put("metadata", metadata);
    fields.put("spec", spec);
    fields.0.into()
}

fn metadata(metadata: &Metadata) -> Map<String, Value> {
    let mut fields = Fields::default();
    fields.put("namespace", metadata.name.namespace());
    fields.put("name", metadata.name.name());
    fields.put_labels("labels", &metadata.labels);
    fields.put_labels("annotations", &metadata.annotations);
    fields.0
}

fn service_spec(service: &Service) -> Map<String, Value> {
    let mut fields = Fields::default();
    fields.put_some("model", service.model.as_deref());
    fields.put("addresses", json!(service.addresses));
    fields.put("ports", service.ports.iter().map(port).collect::<Vec<_>>());
    if !service.backends.is_empty() {
        fields.put(
            "backends",
            service.backends.iter().map(backend).collect::<Vec<_>>(),
        );
    }
    if let Some(selector) = &service.selector {
        fields.put("selector", json!(selector));
    }
    if let Some(packet) = &service.packet {
        fields.put("packetPath", packet.mode.word());
        if !packet.external.is_empty() {
            fields.put("externalAddresses", json!(packet.external));
        }
    }
    fields.0
}

fn port(port: &ServicePort) -> Value {
    let mut fields = Fields::default();
    fields.put_some("name", port.name.as_deref());
    fields.put("port", port.port);
    fields.put("protocol", port.protocol.word());
    fields.put_unless("targetPort", port.target_port, port.port);
    fields.put_some("nodePort", port.node_port);
    fields.0.into()
}

fn backend(backend: &Backend) -> Value {
    let mut fields = Fields::default();
    fields.put("address", backend.address.to_string());
    fields.put_some("portName", backend.port_name.as_deref());
    fields.put_some("port", backend.port);
    fields.put_unless("weight", backend.weight, 1);
    fields.put_state(backend.state);
    fields.put_some("workload", backend.workload.as_ref().map(ResourceName::name));
    fields.put_some(
        "locality",
        backend.locality.as_ref().map(|place| place.to_value()),
    );
    fields.0.into()
}

fn workload_spec(workload: &Workload) -> Map<String, Value> {
    let mut fields = Fields::default();
    if !workload.addresses.is_empty() {
        fields.put("addresses", json!(workload.addresses));
    }
    fields.put_unless("weight", workload.weight, 1);
    fields.put_state(workload.state);
    fields.put_some("cgroup", workload.cgroup.as_deref());
    fields.put_some("identity", workload.own_identity());
    fields.put_some(
        "locality",
        workload.locality.as_ref().map(|place| place.to_value()),
    );
    fields.0
}

fn policy_spec(policy: &TrafficPolicy) -> Map<String, Value> {
    let mut target = Fields::default();
    target.put("kind", Kind::Service.word());
    if let Target::Service(service) = &policy.target {
        target.put("name", service.name());
    }
    let mut balancer = Fields::default();
    balancer.put("algorithm", policy.load_balancer.algorithm.word());
    balancer.put_some("tableSize", policy.load_balancer.table_size);
    let mut fields = Fields::default();
    fields.put("targetRef", target.0);
    fields.put("loadBalancer", balancer.0);
    if policy.client_key != ClientKeySource::Workload {
        fields.put("clientKey", policy.client_key.word());
    }
    if policy.affinity_timeout_s != 0 {
        let timeout = format!("{}s", policy.affinity_timeout_s);
        fields.put("sessionAffinity", json!({"timeout": timeout}));
    }
    fields.0.extend(policy.rules.to_fields());
    fields.0
}

/// A mapping under construction.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, name: &str, value: impl Into<Value>) {
        self.0.insert(name.to_owned(), value.into());
    }

    fn put_some(&mut self, name: &str, value: Option<impl Into<Value>>) {
        if let Some(value) = value {
            self.put(name, value);
        }
    }

    fn put_unless<T: Into<Value> + PartialEq + Copy>(&mut self, name: &str, value: T, default: T) {
        if value != default {
            self.put(name, value);
        }
    }

    fn put_state(&mut self, state: BackendState) {
        if state != BackendState::default() {
            self.put("state", state.word());
        }
    }

    fn put_labels(&mut self, name: &str, labels: &Labels) {
        if !labels.is_empty() {
            self.put(name, json!(labels));
        }
    }
}
