// SPDX-License-Identifier: Apache-2.0
//! Makes configurations: frontends that are edited one by one, unchanged ones shared, as compiling resources does it.

use std::{collections::BTreeMap, fmt, sync::Arc};

use nodemesh_abi::{Algorithm, ClientKeySource, Ip16, Port, Protocol, ServiceKey};
use nodemesh_model::{
    BackendState, Desired, Frontend, FrontendBackend, FrontendName, FrontendPacket, PacketMode, ResourceName,
    ServiceRules,
};

/// A configuration, with services by name.
#[derive(Clone, Default)]
pub(super) struct Mesh {
    services: BTreeMap<String, Arc<Frontend>>,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut map = f.debug_map();
        for (name, frontend) in &self.services {
            let replica = |b: &FrontendBackend| format!("{:?} {} {}", b.addr, b.weight, b.state);
            let replicas: Vec<String> = frontend.backends.iter().map(replica).collect();
            map.entry(
                &format_args!("{name} at {:?}", frontend.key.addr),
                &replicas.join(", "),
            );
        }
        map.finish()
    }
}

/// Address of the service with this number.
pub(super) fn key(address: u8) -> ServiceKey {
    ServiceKey::new(ip([10, 96, 0, address]), Port::new(80), Protocol::Tcp as u8)
}

fn ip(octets: [u8; 4]) -> Ip16 {
    Ip16::from_v4_word(u32::from_ne_bytes(octets))
}

pub(super) fn backend(number: u8) -> FrontendBackend {
    FrontendBackend {
        addr: ip([10, 0, 0, number]),
        port: Port::new(8000),
        weight: 1,
        state: BackendState::Active,
        workload: None,
        locality: None,
        is_local: false,
        tier: 0,
    }
}

/// The packet path of a service with `kind` 1, 2 or 3 whose external address and node port are those of `number`.
pub(super) fn packet_path(kind: u8, number: u8) -> FrontendPacket {
    FrontendPacket {
        mode: if kind == 3 {
            PacketMode::Preserve
        } else {
            PacketMode::Snat
        },
        node_port: (kind != 1).then(|| Port::new(30_000 + u16::from(number))),
        external: vec![key(100 + number).addr],
        table_size: 13,
    }
}

/// Name of the frontend of a service.
pub(super) fn name(service: &str) -> FrontendName {
    Mesh::default().with(service, 1, &[]).services[service].name()
}

impl Mesh {
    /// Adds or replaces a service at an address with these backends.
    pub(super) fn with(mut self, service: &str, address: u8, backends: &[u8]) -> Self {
        let frontend = Frontend {
            key: key(address),
            service: ResourceName::new("test", service).unwrap(),
            model: None,
            port_name: None,
            algorithm: Algorithm::LeastRequest,
            table_size: None,
            client_key: ClientKeySource::Workload,
            affinity_timeout_s: 0,
            access: None,
            rules: ServiceRules::shared_default(),
            packet: None,
            backends: backends.iter().copied().map(backend).collect(),
        };
        self.services.insert(service.into(), Arc::new(frontend));
        self
    }

    /// Changes a service.
    pub(super) fn edit(mut self, service: &str, edit: impl FnOnce(&mut Frontend)) -> Self {
        let entry = self
            .services
            .get_mut(service)
            .expect("only known services are edited");
        let mut frontend = Frontend::clone(entry);
        edit(&mut frontend);
        *entry = Arc::new(frontend);
        self
    }

    /// Gives a service these backends.
    pub(super) fn backends(self, service: &str, backends: &[u8]) -> Self {
        self.edit(service, |frontend| {
            frontend.backends = backends.iter().copied().map(backend).collect();
        })
    }

    /// Moves a service to another address.
    pub(super) fn moved(self, service: &str, address: u8) -> Self {
        self.edit(service, |frontend| frontend.key = key(address))
    }

    /// Takes a service away.
    pub(super) fn without(mut self, service: &str) -> Self {
        self.services
            .remove(service)
            .expect("only known services are removed");
        self
    }

    /// What the reconciler is given.
    pub(super) fn desired(&self) -> Desired {
        let mut desired = Desired::default();
        desired.frontends = self
            .services
            .values()
            .map(|frontend| (frontend.name(), frontend.clone()))
            .collect();
        desired
    }
}

/// Three services: `a` and `b` with backends, `c` without.
pub(super) fn three() -> Mesh {
    Mesh::default()
        .with("a", 1, &[1, 2, 3])
        .with("b", 2, &[4, 5])
        .with("c", 3, &[])
}
