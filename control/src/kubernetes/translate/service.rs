// SPDX-License-Identifier: Apache-2.0
//! A Service of the cluster to a service of the mesh and, where it says more than that, a traffic policy.
//!
//! Called by `mesh`. Invariant: what clients reach by the cluster IP without the mesh is what they reach with it: the same ports
//! and the same replicas.

use nodemesh_model::{Family, Keyword as _, Kind};
use serde_json::{Map, Value, json};

use super::{
    super::{
        finding::{Finding, Reason},
        object::{EndpointSlice, Namespace, ObjectName, Port, Reach, Service},
    },
    Translation, annotations,
    endpoints::{self, Preferred, Topology},
    membership::{self, Membership},
    packet_path,
};

/// What a service is translated with.
pub(crate) struct Surroundings<'a, T> {
    pub(crate) namespace: Option<&'a Namespace>,
    pub(crate) topology: &'a T,
    pub(crate) membership: Membership,
}

/// What `service` comes down to; nothing if it is not in the mesh.
pub(crate) fn translate<'a, T: Topology>(
    name: &ObjectName,
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    surroundings: &Surroundings<'_, T>,
) -> Translation {
    let mut translation = Translation::default();
    let findings = &mut translation.findings;
    if !membership::is_member(service, surroundings.namespace, surroundings.membership, findings) {
        return translation;
    }
    let Some(addresses) = addresses(service, findings) else {
        return translation;
    };
    let ports = ports(&service.ports, findings);
    if ports.is_empty() {
        findings.push(Finding::new(
            Reason::NotSupported,
            "spec.ports: none is TCP or UDP; the Service is left out",
        ));
        return translation;
    }
    let families: Vec<Family> = addresses.iter().copied().map(Family::of).collect();
    let backends = endpoints::backends(service, &families, slices, surroundings.topology, findings);
    let mut spec = Map::new();
    if let Some(model) = service.annotations.get(annotations::MODEL) {
        match nodemesh_model::resource::service::model_name(model) {
            Ok(model) => drop(spec.insert("model".to_owned(), (*model).into())),
            Err(problem) => findings.push(Finding::new(
                Reason::InvalidAnnotation,
                format!("annotation {}: {problem}; it has no effect", annotations::MODEL),
            )),
        }
    }
    spec.insert("addresses".to_owned(), json!(addresses));
    spec.insert("ports".to_owned(), ports.into());
    let preferred = backends.preferred;
    if !backends.documents.is_empty() {
        spec.insert("backends".to_owned(), backends.documents.into());
    }
    packet_path::read(service, &families, &mut spec, findings);
    let policy = policy(name, service, preferred, findings);
    translation.put(Kind::Service, name, &service.labels, spec);
    if let Some(policy) = policy {
        translation.put(Kind::TrafficPolicy, name, &super::Labels::new(), policy);
    }
    translation
}

/// The cluster IPs; `None` if there is none to steer.
fn addresses(service: &Service, findings: &mut Vec<Finding>) -> Option<Vec<std::net::IpAddr>> {
    let why = match &service.reach {
        Reach::ClusterIps(addresses) => return Some(addresses.clone()),
        Reach::Pending => return None,
        Reach::ExternalName => {
            "spec.type: ExternalName is a name for something outside the mesh; the Service is left out"
        }
        Reach::Headless => {
            "spec.clusterIP: None means that clients choose a pod by themselves, so nothing is chosen for them; give the Service a \
             cluster IP to have it in the mesh"
        }
    };
    findings.push(Finding::new(Reason::NotSupported, why));
    None
}

fn ports(ports: &[Port], findings: &mut Vec<Finding>) -> Vec<Value> {
    let (known, others): (Vec<&Port>, Vec<&Port>) = ports
        .iter()
        .partition(|port| matches!(port.protocol.as_str(), "TCP" | "UDP"));
    for port in others {
        findings.push(Finding::new(
            Reason::NotSupported,
            format!(
                "spec.ports: port {} is {}; it is left out, the mesh knows TCP and UDP",
                port.number, port.protocol
            ),
        ));
    }
    let document = |port: &&Port| {
        let mut fields = Map::new();
        if !port.name.is_empty() {
            fields.insert("name".to_owned(), port.name.as_str().into());
        }
        fields.insert("port".to_owned(), port.number.into());
        fields.insert("protocol".to_owned(), port.protocol.as_str().into());
        if let Some(target) = port.target.filter(|target| *target != port.number) {
            fields.insert("targetPort".to_owned(), target.into());
        }
        Value::from(fields)
    };
    known.iter().map(document).collect()
}

/// The spec of the policy that the Service itself asks for.
fn policy(
    name: &ObjectName,
    service: &Service,
    preferred: Preferred,
    findings: &mut Vec<Finding>,
) -> Option<Map<String, Value>> {
    let mut spec = Map::new();
    if let Some(seconds) = service.affinity_s {
        spec.insert(
            "sessionAffinity".to_owned(),
            json!({"timeout": format!("{seconds}s")}),
        );
    }
    if service.is_local_only {
        // Hints and distribution are about others than those of the node.
        spec.insert("locality".to_owned(), json!({"tiers": ["node"], "strict": true}));
    } else if let Some(tiers) = tiers(service, findings).or_else(|| preferred.tiers()) {
        spec.insert("locality".to_owned(), json!({"tiers": tiers}));
    }
    annotations::read(&service.annotations, &mut spec, findings);
    if spec.is_empty() {
        return None;
    }
    let target = json!({"kind": Kind::Service.word(), "name": &*name.name});
    spec.insert("targetRef".to_owned(), target);
    Some(spec)
}

/// Which replicas come first.
fn tiers(service: &Service, findings: &mut Vec<Finding>) -> Option<&'static [&'static str]> {
    match service.traffic_distribution.as_deref()? {
        "PreferClose" | "PreferSameZone" => Some(&["zone"]),
        "PreferSameNode" => Some(&["node", "zone"]),
        other => {
            findings.push(Finding::new(
                Reason::NotSupported,
                format!("spec.trafficDistribution: {other:?} is not known to this release; it has no effect"),
            ));
            None
        }
    }
}
