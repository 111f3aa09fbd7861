// SPDX-License-Identifier: Apache-2.0
//! A model service: virtual addresses and ports, and the replicas behind them.
//!
//! Invariant: at least one address and one port; ports and backends are unique; every backend has a family of the service.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use nodemesh_abi::{Protocol, limits::MAX_BACKENDS};

use super::{Locality, Metadata, address, check_labels, weight};
use crate::{
    invalid::{Findings, Problem},
    keyword::{self, BackendState, Family, Keyword},
    name::{Labels, dns_label},
    wire,
};

/// Longest name of a model, bytes.
const MAX_MODEL_NAME: usize = 253;

/// A stable virtual address for the replicas of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Service {
    /// Name and labels.
    pub metadata: Metadata,
    /// Model that the replicas serve.
    pub model: Option<Arc<str>>,
    /// Virtual addresses: at least one, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Virtual ports, at least one.
    pub ports: Vec<ServicePort>,
    /// Replicas that the service itself lists.
    pub backends: Vec<Backend>,
    /// Labels of the Workloads of the namespace that are replicas too; never an empty map.
    pub selector: Option<Labels>,
}

/// A virtual port.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServicePort {
    /// Its name; always there if the service has several ports.
    pub name: Option<Arc<str>>,
    /// Port that clients dial.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Port of the replicas that name none of their own.
    pub target_port: u16,
}

/// A replica that a service lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; `None` for the target port of each service port.
    pub port: Option<u16>,
    /// Its share of the load, 1 to 65535.
    pub weight: u32,
    /// Whether it takes new connections.
    pub state: BackendState,
    /// Where it is; `None` if that is not known.
    pub locality: Option<Arc<Locality>>,
}

impl Service {
    /// Whether the selector matches `labels`; a service without one matches nothing.
    pub fn selects(&self, labels: &Labels) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
    }
}

impl TryFrom<wire::Document<wire::ServiceSpec>> for Service {
    type Error = Findings;

    fn try_from(document: wire::Document<wire::ServiceSpec>) -> Result<Self, Findings> {
        let mut findings = Findings::default();
        let spec = document.spec;
        let metadata = Metadata::validate(document.metadata, &mut findings);
        let model = spec
            .model
            .and_then(|name| findings.check("spec.model", model_name(name)));
        if spec.addresses.is_empty() {
            findings.add(
                "spec.addresses",
                Problem::Empty {
                    example: "10.96.0.10",
                },
            );
        }
        let addresses = address::parse_set("spec.addresses", &spec.addresses, &mut findings);
        // Which families there will be is not known while one of the addresses is invalid.
        let families = if addresses.len() == spec.addresses.len() {
            &*addresses
        } else {
            &[]
        };
        let ports = ports(spec.ports, &mut findings);
        let backends = backends(spec.backends.unwrap_or_default(), families, &ports, &mut findings);
        if let Some(selector) = &spec.selector {
            if selector.is_empty() {
                findings.add("spec.selector", Problem::EmptySelector);
            }
            check_labels("spec.selector", selector, &mut findings);
        }
        match metadata {
            Some(metadata) if findings.is_empty() => Ok(Self {
                metadata,
                model,
                addresses,
                ports,
                backends,
                selector: spec.selector,
            }),
            _ => Err(findings),
        }
    }
}

fn model_name(name: String) -> Result<Arc<str>, Problem> {
    let valid =
        !name.trim().is_empty() && name.len() <= MAX_MODEL_NAME && !name.chars().any(char::is_control);
    if valid {
        Ok(name.into())
    } else {
        Err(Problem::ModelName { found: name })
    }
}

fn ports(wire: Vec<wire::ServicePort>, findings: &mut Findings) -> Vec<ServicePort> {
    if wire.is_empty() {
        findings.add(
            "spec.ports",
            Problem::Empty {
                example: "{port: 8000}",
            },
        );
    }
    let several = wire.len() > 1;
    let mut names = HashMap::new();
    let mut numbers = BTreeMap::new();
    let mut ports = Vec::with_capacity(wire.len());
    for (index, wire) in wire.into_iter().enumerate() {
        let place = format!("spec.ports[{index}]");
        match &wire.name {
            None if several => findings.add(format_args!("{place}.name"), Problem::PortNameMissing),
            None => {}
            Some(name) => {
                findings.check(format_args!("{place}.name"), dns_label(name));
                if let Some(first) = names.insert(name.clone(), index) {
                    let problem = Problem::DuplicatePortName {
                        found: name.clone(),
                        first,
                    };
                    findings.add(format_args!("{place}.name"), problem);
                }
            }
        }
        let protocol = wire
            .protocol
            .as_deref()
            .map_or(Ok(Protocol::Tcp), keyword::parse::<Protocol>);
        let protocol = findings.check(format_args!("{place}.protocol"), protocol);
        let port = findings.check(format_args!("{place}.port"), address::port(wire.port));
        let target = wire
            .target_port
            .map_or(Ok(port.unwrap_or_default()), address::port);
        let target = findings.check(format_args!("{place}.targetPort"), target);
        let (Some(port), Some(protocol), Some(target_port)) = (port, protocol, target) else {
            continue;
        };
        if let Some(first) = numbers.insert((port, protocol), index) {
            let problem = Problem::DuplicatePort {
                port,
                protocol: protocol.word(),
                first,
            };
            findings.add(format_args!("{place}.port"), problem);
        }
        ports.push(ServicePort {
            name: wire.name.map(Into::into),
            port,
            protocol,
            target_port,
        });
    }
    ports
}

fn backends(
    wire: Vec<wire::Backend>,
    addresses: &[IpAddr],
    ports: &[ServicePort],
    findings: &mut Findings,
) -> Vec<Backend> {
    if wire.len() > MAX_BACKENDS {
        findings.add("spec.backends", Problem::TooManyBackends { found: wire.len() });
        return Vec::new();
    }
    let mut seen = HashMap::with_capacity(wire.len());
    let mut backends = Vec::with_capacity(wire.len());
    for (index, wire) in wire.into_iter().enumerate() {
        let at = |field: &'static str| Place { index, field };
        if let (Some(_), [_, _, ..]) = (wire.port, ports) {
            findings.add(at(".port"), Problem::BackendPort { ports: ports.len() });
        }
        let port = wire
            .port
            .and_then(|port| findings.check(at(".port"), address::port(port)));
        let weight = findings.check(at(".weight"), weight(wire.weight));
        let state = wire
            .state
            .as_deref()
            .map_or(Ok(BackendState::default()), keyword::parse);
        let state = findings.check(at(".state"), state);
        let locality = wire
            .locality
            .and_then(|wire| Locality::read(Some(wire), &at(".locality").to_string(), findings));
        let Some(address) = findings.check(at(".address"), address::parse(&wire.address)) else {
            continue;
        };
        let family = Family::of(address);
        if !addresses.is_empty() && addresses.iter().all(|own| Family::of(*own) != family) {
            findings.add(at(".address"), Problem::BackendFamily { address, family });
        }
        let effective = port.or_else(|| ports.first().map(|port| port.target_port));
        if let Some(first) = seen.insert((address, effective), index) {
            findings.add(at(""), Problem::DuplicateBackend { first });
        }
        if let (Some(weight), Some(state)) = (weight, state) {
            backends.push(Backend {
                address,
                port,
                weight,
                state,
                locality,
            });
        }
    }
    backends
}

/// Path of a backend or of its field; formatted only if there is a problem.
#[derive(Clone, Copy)]
struct Place {
    index: usize,
    field: &'static str,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "spec.backends[{}]{}", self.index, self.field)
    }
}
