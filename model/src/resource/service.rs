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

use super::{Locality, Metadata, PacketPath, address, check_labels, packet, weight};
use crate::{
    invalid::{Findings, Problem},
    keyword::{self, BackendState, Family, Keyword},
    name::{DEFAULT_NAMESPACE, Labels, ResourceName, dns_label},
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
    /// How the packet path serves it; `None` if it does not.
    pub packet: Option<PacketPath>,
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
    /// Port at which every node answers for it on the packet path; `None` for none.
    pub node_port: Option<u16>,
}

/// A replica that a service lists.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// The one port of the service that it is a replica for; `None` for all of them.
    pub port_name: Option<Arc<str>>,
    /// Its port; `None` for the target port of each service port.
    pub port: Option<u16>,
    /// Its share of the load, 1 to 65535.
    pub weight: u32,
    /// Whether it takes new connections.
    pub state: BackendState,
    /// Where it is; `None` if that is not known.
    pub locality: Option<Arc<Locality>>,
    /// The Workload that it is, in the namespace of the service; it need not exist. Names the replica in reports and metrics.
    pub workload: Option<ResourceName>,
}

impl Backend {
    /// Whether it is a replica for `port`.
    pub fn serves(&self, port: &ServicePort) -> bool {
        self.port_name.is_none() || self.port_name == port.name
    }
}

impl Service {
    /// Number of its listed backends, counted once per port that they serve.
    pub fn backend_count(&self) -> usize {
        let one_port = self
            .backends
            .iter()
            .filter(|backend| backend.port_name.is_some())
            .count();
        one_port + (self.backends.len() - one_port) * self.ports.len()
    }

    /// What nobody else can answer at: its virtual and external addresses, each with its ports, and its node ports, whose address is
    /// unspecified.
    pub fn claims(&self) -> impl Iterator<Item = (IpAddr, u16, Protocol)> {
        let external = self.packet.iter().flat_map(|packet| &packet.external);
        let dialled = self.addresses.iter().chain(external).flat_map(|address| {
            let ports = self.ports.iter();
            ports.map(|port| (*address, port.port, port.protocol))
        });
        let every = IpAddr::from([0; 4]);
        let node_ports = self.ports.iter();
        dialled.chain(node_ports.filter_map(move |port| Some((every, port.node_port?, port.protocol))))
    }

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
            .and_then(|name| findings.check("spec.model", model_name(&name)));
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
        let namespace = metadata.as_ref().map(|metadata| metadata.name.namespace());
        let scope = Scope {
            namespace: namespace.unwrap_or(DEFAULT_NAMESPACE),
            addresses: families,
            ports: &ports,
        };
        let backends = backends(spec.backends.unwrap_or_default(), scope, &mut findings);
        if let Some(selector) = &spec.selector {
            if selector.is_empty() {
                findings.add("spec.selector", Problem::EmptySelector);
            }
            check_labels("spec.selector", selector, &mut findings);
        }
        let external = spec.external_addresses.unwrap_or_default();
        let mode = spec.packet_path.as_deref();
        let packet = PacketPath::read(mode, &external, (families, &ports, &backends), &mut findings);
        match metadata {
            Some(metadata) if findings.is_empty() => Ok(Self {
                metadata,
                model,
                addresses,
                ports,
                backends,
                selector: spec.selector,
                packet,
            }),
            _ => Err(findings),
        }
    }
}

/// Reads the name of a model: 1 to 253 bytes, no control characters.
pub fn model_name(name: &str) -> Result<Arc<str>, Problem> {
    let valid =
        !name.trim().is_empty() && name.len() <= MAX_MODEL_NAME && !name.chars().any(char::is_control);
    if valid {
        Ok(name.into())
    } else {
        Err(Problem::ModelName {
            found: name.to_owned(),
        })
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
        let node_port = node_port(wire.node_port, &place, findings);
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
            node_port,
        });
    }
    packet::check_node_ports(&ports, findings);
    ports
}

/// Reads the node port of the port at `place`, if there is one.
fn node_port(wire: Option<i64>, place: &str, findings: &mut Findings) -> Option<u16> {
    let read = packet::node_port(wire?).map_err(Into::into);
    findings.check(format_args!("{place}.nodePort"), read)
}

/// What backends are checked against.
#[derive(Clone, Copy)]
struct Scope<'a> {
    namespace: &'a str,
    addresses: &'a [IpAddr],
    ports: &'a [ServicePort],
}

impl Scope<'_> {
    /// The port's own copy of `name`.
    fn port_name(&self, name: String) -> Result<Arc<str>, Problem> {
        let mut names = self.ports.iter().filter_map(|port| port.name.as_ref());
        match names.find(|known| ***known == *name) {
            Some(known) => Ok(Arc::clone(known)),
            None => Err(Problem::UnknownPortName { found: name }),
        }
    }
}

fn backends(wire: Vec<wire::Backend>, scope: Scope<'_>, findings: &mut Findings) -> Vec<Backend> {
    let Scope { addresses, ports, .. } = scope;
    if wire.len() > MAX_BACKENDS {
        findings.add("spec.backends", Problem::TooManyBackends { found: wire.len() });
        return Vec::new();
    }
    let mut seen = HashMap::with_capacity(wire.len());
    let mut backends = Vec::with_capacity(wire.len());
    for (index, wire) in wire.into_iter().enumerate() {
        let at = |field: &'static str| Place { index, field };
        if let (Some(_), None, [_, _, ..]) = (wire.port, &wire.port_name, ports) {
            findings.add(at(".port"), Problem::BackendPort { ports: ports.len() });
        }
        let port_name = wire
            .port_name
            .and_then(|name| findings.check(at(".portName"), scope.port_name(name)));
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
        let workload = wire
            .workload
            .map(|name| ResourceName::new(scope.namespace, &name))
            .and_then(|name| findings.check(at(".workload"), name));
        let Some(address) = findings.check(at(".address"), address::parse(&wire.address)) else {
            continue;
        };
        let family = Family::of(address);
        if !addresses.is_empty() && addresses.iter().all(|own| Family::of(*own) != family) {
            findings.add(at(".address"), Problem::BackendFamily { address, family });
        }
        let served = ports
            .iter()
            .find(|port| port_name.is_none() || port.name == port_name);
        let effective = port.or_else(|| served.map(|port| port.target_port));
        if let Some(first) = seen.insert((address, effective, port_name.clone()), index) {
            findings.add(at(""), Problem::DuplicateBackend { first });
        }
        if let (Some(weight), Some(state)) = (weight, state) {
            backends.push(Backend {
                address,
                port_name,
                port,
                weight,
                state,
                locality,
                workload,
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
