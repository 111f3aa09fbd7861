// SPDX-License-Identifier: Apache-2.0
//! A `NetworkPolicy` of the cluster. Read by `reflect`, translated by `translate::network_policy`.
//!
//! Source: Kubernetes documentation, "Network Policies". Invariant: an absent list and an empty one are told apart where the API does:
//! no rule allows nothing, a rule without peers allows everybody.

use ipnet::IpNet;
use k8s_openapi::{
    api::networking::v1::{NetworkPolicy as Api, NetworkPolicyPeer as ApiPeer, NetworkPolicyPort as ApiPort},
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, LabelSelectorRequirement},
        util::intstr::IntOrString,
    },
};

use super::Labels;

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NetworkPolicy {
    /// The pods of its namespace that it isolates.
    pub(crate) pods: Selector,
    /// Who may reach them; `None` if it does not isolate them in this direction.
    pub(crate) ingress: Option<Vec<Rule>>,
    /// Whom they may reach.
    pub(crate) egress: Option<Vec<Rule>>,
}

/// What is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Any of these; everybody if there is none.
    pub(crate) peers: Vec<Peer>,
    /// Any of these ports of the pods; all if there is none.
    pub(crate) ports: Vec<PolicyPort>,
}

/// Who may.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Pods that match.
    Pods {
        /// Namespaces that match; the policy's own without a selector.
        namespaces: Option<Selector>,
        /// Pods that match; all without a selector.
        pods: Option<Selector>,
    },
    /// Addresses.
    Block { cidr: IpNet, except: Vec<IpNet> },
    /// Something that cannot be read: the text of it.
    Unreadable(String),
}

/// A port of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PolicyPort {
    pub(crate) protocol: String,
    pub(crate) number: PortNumber,
}

/// Which port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PortNumber {
    Any,
    /// From, to; both included.
    Range(i32, i32),
    /// By the name that the pod gives it.
    Name(String),
}

/// What labels must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) labels: Labels,
    pub(crate) requirements: Vec<Requirement>,
}

/// What one label must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    key: String,
    operator: String,
    values: Vec<String>,
}

impl Selector {
    /// Whether `labels` match. An operator that is not known matches nothing.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        let has_labels = self
            .labels
            .iter()
            .all(|(key, value)| labels.get(key) == Some(value));
        has_labels
            && self
                .requirements
                .iter()
                .all(|requirement| requirement.matches(labels))
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|value| self.values.contains(value)),
            "NotIn" => value.is_none_or(|value| !self.values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

impl From<Api> for NetworkPolicy {
    fn from(api: Api) -> Self {
        let spec = api.spec.unwrap_or_default();
        let types = spec.policy_types.unwrap_or_default();
        // Without types, ingress always is one and egress is if there are rules for it.
        let is_of = |name: &str, default: bool| {
            if types.is_empty() {
                default
            } else {
                types.iter().any(|of| of == name)
            }
        };
        let isolates_egress = is_of("Egress", spec.egress.is_some());
        let ingress = spec.ingress.unwrap_or_default().into_iter();
        let egress = spec.egress.unwrap_or_default().into_iter();
        Self {
            pods: spec.pod_selector.map(selector).unwrap_or_default(),
            ingress: is_of("Ingress", true).then(|| ingress.map(|api| rule(api.from, api.ports)).collect()),
            egress: isolates_egress.then(|| egress.map(|api| rule(api.to, api.ports)).collect()),
        }
    }
}

fn rule(peers: Option<Vec<ApiPeer>>, ports: Option<Vec<ApiPort>>) -> Rule {
    Rule {
        peers: peers.unwrap_or_default().into_iter().map(peer).collect(),
        ports: ports.unwrap_or_default().into_iter().map(port).collect(),
    }
}

fn peer(api: ApiPeer) -> Peer {
    let Some(block) = api.ip_block else {
        return Peer::Pods {
            namespaces: api.namespace_selector.map(selector),
            pods: api.pod_selector.map(selector),
        };
    };
    let except: Result<Vec<IpNet>, _> = block.except.iter().flatten().map(|text| text.parse()).collect();
    match (block.cidr.parse(), except) {
        (Ok(cidr), Ok(except)) => Peer::Block { cidr, except },
        _ => Peer::Unreadable(block.cidr),
    }
}

fn port(api: ApiPort) -> PolicyPort {
    let number = match (api.port, api.end_port) {
        (None, _) => PortNumber::Any,
        (Some(IntOrString::Int(first)), last) => PortNumber::Range(first, last.unwrap_or(first)),
        (Some(IntOrString::String(name)), _) => PortNumber::Name(name),
    };
    PolicyPort {
        protocol: api.protocol.unwrap_or_else(|| "TCP".to_owned()),
        number,
    }
}

fn selector(api: LabelSelector) -> Selector {
    let requirements = api.match_expressions.unwrap_or_default().into_iter();
    Selector {
        labels: api.match_labels.unwrap_or_default(),
        requirements: requirements.map(requirement).collect(),
    }
}

fn requirement(api: LabelSelectorRequirement) -> Requirement {
    Requirement {
        key: api.key,
        operator: api.operator,
        values: api.values.unwrap_or_default(),
    }
}
