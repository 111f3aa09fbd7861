// SPDX-License-Identifier: Apache-2.0
//! Configurations for the agent, built by tests. Written as JSON, which is YAML.
//!
//! Invariant: every resource of which a test does not say otherwise is in the namespace [`NAMESPACE`], and only what a test sets is written.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use serde_json::{Value, json};

/// Namespace of every resource.
pub const NAMESPACE: &str = "models";

/// Resources of a configuration file.
#[derive(Clone, Debug, Default)]
pub struct Manifest(Vec<Value>);

impl Manifest {
    /// A configuration of these resources.
    pub fn of(resources: impl IntoIterator<Item = impl Into<Value>>) -> Self {
        Self(resources.into_iter().map(Into::into).collect())
    }

    /// With one more resource.
    #[must_use]
    pub fn and(mut self, resource: impl Into<Value>) -> Self {
        self.0.push(resource.into());
        self
    }
}

impl fmt::Display for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A file without a word is taken for a mistake.
        writeln!(f, "# The resources of a test.")?;
        self.0
            .iter()
            .try_for_each(|resource| writeln!(f, "---\n{resource}"))
    }
}

fn resource(kind: &str, name: &str, spec: &Value) -> Value {
    resource_in(NAMESPACE, kind, name, spec)
}

fn resource_in(namespace: &str, kind: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    })
}

/// A service with one port.
#[derive(Clone, Debug)]
pub struct Service {
    name: String,
    addresses: Vec<IpAddr>,
    port: u16,
    protocol: &'static str,
    backends: Vec<Value>,
}

impl Service {
    /// A TCP service at `address`, without backends.
    pub fn new(name: &str, address: SocketAddr) -> Self {
        Self {
            name: name.into(),
            addresses: vec![address.ip()],
            port: address.port(),
            protocol: "TCP",
            backends: Vec::new(),
        }
    }

    /// At one more address, of the other family.
    #[must_use]
    pub fn also_at(mut self, address: IpAddr) -> Self {
        self.addresses.push(address);
        self
    }

    /// UDP instead of TCP.
    #[must_use]
    pub fn udp(mut self) -> Self {
        self.protocol = "UDP";
        self
    }

    /// With these backends, of weight 1.
    #[must_use]
    pub fn to(self, backends: impl IntoIterator<Item = SocketAddr>) -> Self {
        backends
            .into_iter()
            .fold(self, |service, backend| service.weighted(backend, 1))
    }

    /// With a backend of this weight.
    #[must_use]
    pub fn weighted(mut self, backend: SocketAddr, weight: u32) -> Self {
        self.backends
            .push(json!({"address": backend.ip(), "port": backend.port(), "weight": weight}));
        self
    }

    /// With a backend at this place: `REGION/ZONE/NODE`.
    #[must_use]
    pub fn located(mut self, backend: SocketAddr, place: &str) -> Self {
        let mut parts = place.split('/');
        let [region, zone, node] = [(); 3].map(|()| parts.next().expect("three parts"));
        let locality = json!({"region": region, "zone": zone, "node": node});
        self.backends
            .push(json!({"address": backend.ip(), "port": backend.port(), "locality": locality}));
        self
    }

    /// With a backend in this state.
    #[must_use]
    pub fn in_state(mut self, backend: SocketAddr, state: &str) -> Self {
        self.backends
            .push(json!({"address": backend.ip(), "port": backend.port(), "state": state}));
        self
    }
}

impl From<Service> for Value {
    fn from(service: Service) -> Self {
        let spec = json!({
            "addresses": service.addresses,
            "ports": [{"port": service.port, "protocol": service.protocol}],
            "backends": service.backends,
        });
        resource("Service", &service.name, &spec)
    }
}

/// The traffic policy of a service.
#[derive(Clone, Debug)]
pub struct Policy {
    service: String,
    spec: Value,
}

impl Policy {
    /// The policy of `service`.
    pub fn of(service: &str) -> Self {
        Self {
            service: service.into(),
            spec: json!({"targetRef": {"kind": "Service", "name": service}}),
        }
    }

    /// Places connections by `algorithm`.
    #[must_use]
    pub fn algorithm(self, algorithm: &str) -> Self {
        self.set("loadBalancer", json!({"algorithm": algorithm}))
    }

    /// Tells clients apart by `source`.
    #[must_use]
    pub fn client_key(self, source: &str) -> Self {
        self.set("clientKey", json!(source))
    }

    /// Keeps a client at its backend for `timeout`.
    #[must_use]
    pub fn affinity(self, timeout: &str) -> Self {
        self.set("sessionAffinity", json!({"timeout": timeout}))
    }

    /// With any field of the specification.
    #[must_use]
    pub fn set(mut self, field: &str, value: Value) -> Self {
        self.spec[field] = value;
        self
    }
}

impl From<Policy> for Value {
    fn from(policy: Policy) -> Self {
        resource("TrafficPolicy", &policy.service, &policy.spec)
    }
}

/// The workload `name`, perhaps with an address, of the processes in `cgroup`: a path below the cgroup that the agent serves.
pub fn client_workload(name: &str, cgroup: &str, address: Option<IpAddr>) -> Value {
    let addresses: Vec<IpAddr> = address.into_iter().collect();
    resource(
        "Workload",
        name,
        &json!({"cgroup": cgroup, "addresses": addresses}),
    )
}

/// The workload `name` of any namespace, with any specification.
pub fn workload(namespace: &str, name: &str, spec: &Value) -> Value {
    resource_in(namespace, "Workload", name, spec)
}

/// An access policy.
#[derive(Clone, Debug)]
pub struct AccessPolicy {
    namespace: &'static str,
    name: String,
    spec: Value,
}

impl AccessPolicy {
    /// The policy of `service`.
    pub fn of(service: &str) -> Self {
        let target = json!({"kind": "Service", "name": service});
        Self::new(NAMESPACE, service, &target)
    }

    /// The policy of all services of [`NAMESPACE`].
    pub fn of_all() -> Self {
        Self::new(NAMESPACE, "all", &json!({"kind": "Service"}))
    }

    /// The policy of the mesh.
    pub fn of_mesh() -> Self {
        Self::new("nodemesh-system", "mesh", &json!({"kind": "Mesh"}))
    }

    fn new(namespace: &'static str, name: &str, target: &Value) -> Self {
        Self {
            namespace,
            name: name.into(),
            spec: json!({"targetRef": target, "rules": []}),
        }
    }

    /// What holds where no rule matches.
    #[must_use]
    pub fn default(mut self, action: &str) -> Self {
        self.spec["default"] = json!(action);
        self
    }

    /// With a rule about these sources; about everybody if there are none.
    #[must_use]
    pub fn rule(self, action: &str, from: impl IntoIterator<Item = Value>) -> Self {
        self.rule_for(action, from, &[])
    }

    /// With a rule about these sources and ports; about everybody, and all ports, if there are none.
    #[must_use]
    pub fn rule_for(mut self, action: &str, from: impl IntoIterator<Item = Value>, ports: &[u16]) -> Self {
        let mut rule = json!({"action": action});
        let from: Vec<Value> = from.into_iter().collect();
        if !from.is_empty() {
            rule["from"] = from.into();
        }
        if !ports.is_empty() {
            rule["ports"] = json!(ports);
        }
        self.spec["rules"].as_array_mut().expect("a list").push(rule);
        self
    }
}

impl From<AccessPolicy> for Value {
    fn from(policy: AccessPolicy) -> Self {
        resource_in(policy.namespace, "AccessPolicy", &policy.name, &policy.spec)
    }
}
