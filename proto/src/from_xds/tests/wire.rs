// SPDX-License-Identifier: Apache-2.0
//! Resources to put, and what comes of them, for the tests beside.

use nodemesh_model::{Desired, Frontend, Keyword, Locality, Manifest, Resources, desired};
use serde_json::Value;

use crate::{
    IntoAny,
    from_xds::{Assembled, Received},
    to_xds::{self, Rows},
    type_url,
    xds::google::protobuf::Any,
};

/// A resource on the wire: its name and bytes.
pub(super) type Sent = (String, Any);

/// Everything that a control plane with these `resources` can send.
pub(super) fn sent(resources: &Resources) -> Vec<Sent> {
    let mut sent = Vec::new();
    for service in resources.services().values() {
        let workloads = desired::selected(service, resources);
        let policy = resources.policy_of(&service.metadata.name).map(AsRef::as_ref);
        let wire = to_xds::resources(service, &workloads, policy);
        let assignments = wire.assignments.into_iter();
        sent.extend(wire.policy.map(|(name, document)| (name, document.into_any())));
        sent.extend(
            wire.clusters
                .into_iter()
                .map(|wire| (wire.name.clone(), wire.into_any())),
        );
        sent.extend(assignments.map(|wire| (wire.cluster_name.clone(), wire.into_any())));
        let listeners = wire.listeners.into_iter().chain(wire.api_listeners);
        sent.extend(listeners.map(|wire| (wire.name.clone(), wire.into_any())));
        sent.extend(
            wire.routes
                .into_iter()
                .map(|wire| (wire.name.clone(), wire.into_any())),
        );
    }
    let rows = if resources.access_policies().is_empty() {
        Rows::Compact
    } else {
        Rows::Whole
    };
    let tables = resources
        .workloads()
        .values()
        .map(|workload| to_xds::workload_table(workload, rows));
    sent.extend(tables.map(|(name, table)| (name, table.into_any())));
    let policies = resources.access_policies().values().map(to_xds::access_policy);
    sent.extend(policies.map(|(name, document)| (name, document.into_any())));
    sent
}

/// The resources of documents that are valid together.
pub(super) fn merged(documents: Vec<Value>) -> Resources {
    merged_manifest(&Manifest::from_values(documents))
}

pub(super) fn merged_manifest(manifest: &Manifest) -> Resources {
    Resources::merge([("test", manifest)]).unwrap_or_else(|errors| panic!("{errors}"))
}

/// Where the node is that compiles.
fn node() -> Locality {
    Locality::new(Some("eu"), Some("eu-1"), Some("gpu-1")).unwrap()
}

pub(super) fn compiled(resources: &Resources) -> Desired {
    Desired::compile(resources, &node(), None).unwrap_or_else(|error| panic!("{error}"))
}

/// What a node would write to its maps.
pub(super) fn desired_of(assembled: &Assembled) -> Desired {
    compiled(&merged_manifest(&assembled.manifest))
}

/// Puts `sent`, of which nothing may be refused.
pub(super) fn put_all<'a>(received: &mut Received, sent: impl IntoIterator<Item = &'a Sent>) {
    for (name, any) in sent {
        received
            .put(&any.type_url, name, &any.value)
            .unwrap_or_else(|rejected| panic!("{rejected}"));
    }
}

/// What is put together of `messages`, none of which may be refused.
pub(super) fn received(messages: &[Sent]) -> Received {
    let mut received = Received::default();
    put_all(&mut received, messages);
    received
}

/// A listener, cluster or assignment by its own name.
pub(super) fn named(wire: impl IntoAny + HasName) -> Sent {
    (wire.name(), wire.into_any())
}

/// A message that bears the name of its resource.
pub(super) trait HasName {
    fn name(&self) -> String;
}

impl HasName for crate::xds::envoy::config::listener::v3::Listener {
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl HasName for crate::xds::envoy::config::cluster::v3::Cluster {
    fn name(&self) -> String {
        self.name.clone()
    }
}

impl HasName for crate::xds::envoy::config::endpoint::v3::ClusterLoadAssignment {
    fn name(&self) -> String {
        self.cluster_name.clone()
    }
}

/// A frontend and its backends in text: `10.0.0.1:80/TCP random: 10.1.0.1:8000 x3, 10.1.0.2:8000 x1 draining`.
pub(super) fn told(frontend: &Frontend) -> String {
    let backends = frontend.backends.iter().map(|backend| {
        let address = std::net::IpAddr::from(backend.addr);
        let state = if backend.is_available() {
            ""
        } else {
            backend.state.word()
        };
        format!("{address}:{} x{} {state}", backend.port.get(), backend.weight)
            .trim_end()
            .to_owned()
    });
    let address = std::net::IpAddr::from(frontend.key.addr);
    let (port, protocol) = (frontend.key.port.get(), frontend.protocol().word());
    let algorithm = frontend.algorithm.word();
    let backends: Vec<_> = backends.collect();
    format!("{address}:{port}/{protocol} {algorithm}: {}", backends.join(", "))
}

/// All frontends in text, by name.
pub(super) fn all_told(assembled: &Assembled) -> Vec<String> {
    desired_of(assembled)
        .frontends
        .values()
        .map(|frontend| told(frontend))
        .collect()
}

/// `type: field: effect` of all that is not supported.
pub(super) fn unsupported(assembled: &Assembled) -> Vec<String> {
    let short = |url: &'static str| url.rsplit('.').next().unwrap_or_default();
    let listed = assembled.unsupported.iter();
    listed
        .map(|field| format!("{} {}: {}", short(field.type_url), field.field, field.effect))
        .collect()
}

/// Nothing is refused, unsupported or waited for.
pub(super) fn assert_no_complaint(assembled: &Assembled) {
    assert_eq!(assembled.rejected, []);
    assert_eq!(assembled.unsupported, []);
    assert_eq!(assembled.incomplete, []);
}

/// The type URLs that mean something to a node.
pub(super) const TYPES: [&str; 6] = [
    type_url::LISTENER,
    type_url::CLUSTER,
    type_url::ASSIGNMENT,
    type_url::ROUTE,
    type_url::WORKLOAD_TABLE,
    type_url::POLICY_DOCUMENT,
];
