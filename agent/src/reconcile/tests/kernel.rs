// SPDX-License-Identifier: Apache-2.0
//! A model of the kernel's maps and of the sockets that the programs place.
//!
//! After every write it checks what the programs rely on: each service row names a table, each slot of that table a backend of
//! that service, each endpoint a backend at its address, no two backends the same pair of rows in `traffic`, and a backend with
//! sockets stays who it is.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use aya::maps::MapError;
use nodemesh_abi::{
    Backend, BackendFlags, Endpoint, EndpointKey, FlowService, Ip16, Port, Service, ServiceKey, Slot,
    slot::scale, traffic::SHARED_PAIR,
};

use crate::{
    datapath::maps::MapOpError,
    reconcile::rows::{KernelRows, Tables},
};

/// One write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    ResetBackend(u32),
    PutBackend(u32),
    ResetService(u32),
    SwapTable(u32),
    PutService(ServiceKey),
    DeleteService(ServiceKey),
    PutFlow(ServiceKey),
    DeleteFlow(ServiceKey),
    ResetTraffic(u32),
    PutEndpoint(EndpointKey),
    DeleteEndpoint(EndpointKey),
}

/// Writes that fail.
#[derive(Clone, Copy)]
pub(super) enum Fault {
    /// The write of this number, from 0, once.
    Nth(usize),
    /// All writes from this number on: the agent is dead.
    From(usize),
    /// All writes that this chooses.
    Each(fn(Op) -> bool),
}

/// A socket that was placed on a backend, or accepted by one.
#[derive(Clone, Copy, Debug)]
struct Socket {
    id: u32,
    backend: Backend,
    /// The pair of rows in `traffic` that it is counted in.
    pair: u32,
    accepted: bool,
}

impl Socket {
    /// Whether the backend's id waits for it: the shared pair does not tell of which backend its connections are.
    fn is_told_apart(&self) -> bool {
        !self.accepted || self.pair != SHARED_PAIR
    }
}

/// The maps.
#[derive(Clone, Default)]
pub(super) struct FakeKernel {
    pub(super) services: HashMap<ServiceKey, Service>,
    pub(super) tables: BTreeMap<u32, Vec<Slot>>,
    pub(super) flows: HashMap<ServiceKey, FlowService>,
    pub(super) flow_tables: BTreeMap<u32, Vec<Slot>>,
    pub(super) backends: Vec<Backend>,
    pub(super) endpoints: HashMap<EndpointKey, Endpoint>,
    /// Connections counted in each pair of rows in `traffic` since it was reset.
    pub(super) metered: BTreeMap<u32, u64>,
    /// Connections placed on each backend id since its counters were reset.
    pub(super) opened: Vec<u64>,
    /// Connections placed under each service id since its counters were reset.
    pub(super) picks: BTreeMap<u32, u64>,
    pub(super) fault: Option<Fault>,
    /// Writes that took effect, since the last [`FakeKernel::take_log`].
    log: Vec<Op>,
    tried: usize,
    sockets: Vec<Socket>,
}

impl FakeKernel {
    pub(super) fn new(backends: u32) -> Self {
        let backends = backends as usize;
        Self {
            backends: vec![Backend::UNUSED; backends],
            opened: vec![0; backends],
            ..Self::default()
        }
    }

    /// Fails from now on; writes are numbered anew.
    pub(super) fn fail(&mut self, fault: Fault) {
        (self.fault, self.tried) = (Some(fault), 0);
    }

    /// Number of writes tried since [`FakeKernel::fail`].
    pub(super) fn tried(&self) -> usize {
        self.tried
    }

    /// The writes since the last call.
    pub(super) fn take_log(&mut self) -> Vec<Op> {
        std::mem::take(&mut self.log)
    }

    pub(super) fn flow_rows(&self) -> Vec<(ServiceKey, FlowService)> {
        self.flows.iter().map(|(key, row)| (*key, *row)).collect()
    }

    pub(super) fn service_rows(&self) -> Vec<(ServiceKey, Service)> {
        self.services.iter().map(|(key, row)| (*key, *row)).collect()
    }

    /// The rows in use.
    pub(super) fn backend_rows(&self) -> Vec<(u32, Backend)> {
        let rows = self
            .backends
            .iter()
            .enumerate()
            .filter(|(_, row)| row.generation != 0);
        rows.map(|(id, row)| (id as u32, *row)).collect()
    }

    /// A client dials: the backend that it is placed on, as `from_table` of the programs does it.
    pub(super) fn connect(&mut self, key: ServiceKey, draw: u32) -> Option<u32> {
        let row = *self.services.get(&key)?;
        self.place(row, &self.tables[&row.id].clone(), draw)
    }

    /// A packet of a new flow: as [`FakeKernel::connect`].
    pub(super) fn flow(&mut self, key: ServiceKey, draw: u32) -> Option<u32> {
        let row = self.flows.get(&key)?.service;
        self.place(row, &self.flow_tables[&row.id].clone(), draw)
    }

    fn place(&mut self, row: Service, table: &[Slot], draw: u32) -> Option<u32> {
        let slot = table
            .get(scale(draw, table[0].len) as usize)
            .filter(|slot| slot.len > 0)?;
        let id = slot.choose(draw.wrapping_mul(0x9e37_79b9));
        self.opened[id as usize] += 1;
        *self.picks.entry(row.id).or_default() += 1;
        self.meter(id, self.backends[id as usize].traffic, false);
        Some(id)
    }

    /// A server on this node accepts a connection: the endpoint that it is metered under.
    pub(super) fn accept(&mut self, addr: Ip16, port: Port) -> Option<Endpoint> {
        let endpoint = *self.endpoints.get(&EndpointKey::new(addr, port))?;
        self.meter(endpoint.backend, endpoint.traffic, true);
        Some(endpoint)
    }

    fn meter(&mut self, id: u32, pair: u32, accepted: bool) {
        *self.metered.entry(pair).or_default() += 1;
        self.sockets.push(Socket {
            id,
            backend: self.backends[id as usize],
            pair,
            accepted,
        });
    }

    /// The oldest socket but `index`, in turn, is closed.
    pub(super) fn close(&mut self, index: usize) {
        if !self.sockets.is_empty() {
            self.sockets.swap_remove(index % self.sockets.len());
        }
    }

    pub(super) fn close_all(&mut self) {
        self.sockets.clear();
    }

    fn sockets_on(&self, id: u32) -> u64 {
        let counted = |socket: &&Socket| socket.id == id && !socket.accepted;
        self.sockets.iter().filter(counted).count() as u64
    }

    fn sockets_in(&self, pair: u32) -> usize {
        self.sockets.iter().filter(|socket| socket.pair == pair).count()
    }

    pub(super) fn endpoint_rows(&self) -> Vec<(EndpointKey, Endpoint)> {
        self.endpoints.iter().map(|(key, row)| (*key, *row)).collect()
    }

    fn write(&mut self, op: Op, effect: impl FnOnce(&mut Self)) -> Result<(), MapOpError> {
        let number = self.tried;
        self.tried += 1;
        let fails = self.fault.is_some_and(|fault| match fault {
            Fault::Nth(nth) => number == nth,
            Fault::From(first) => number >= first,
            Fault::Each(chosen) => chosen(op),
        });
        if fails {
            let cause = MapError::IoError(io::Error::from(io::ErrorKind::OutOfMemory));
            return Err(MapOpError {
                op: "write",
                map: "fake",
                cause,
            });
        }
        effect(self);
        self.log.push(op);
        self.check(op);
        Ok(())
    }

    fn check(&self, op: Op) {
        let placed = self.services.iter().map(|(key, row)| (key, row, &self.tables));
        let flows = self.flows.iter();
        let flows = flows.map(|(key, row)| (key, &row.service, &self.flow_tables));
        for (key, row, tables) in placed.chain(flows) {
            let table = tables
                .get(&row.id)
                .unwrap_or_else(|| panic!("{op:?}: {key:?} names no table"));
            if *table == [Slot::EMPTY] {
                continue;
            }
            for slot in table {
                assert_eq!(
                    slot.len as usize,
                    table.len(),
                    "{op:?}: length of the table of {key:?}"
                );
                for id in [slot.backend, slot.alias] {
                    let backend = &self.backends[id as usize];
                    assert_ne!(
                        backend.generation, 0,
                        "{op:?}: {key:?} leads to the unused backend {id}"
                    );
                    assert_eq!(
                        backend.service, row.id,
                        "{op:?}: {key:?} leads to backend {id} of another service"
                    );
                }
            }
        }
        self.check_meter(op);
        for Socket { id, backend, .. } in self.sockets.iter().filter(|socket| socket.is_told_apart()) {
            let now = &self.backends[*id as usize];
            let who = |row: &Backend| (row.addr, row.port, row.generation, row.service);
            assert_eq!(
                who(now),
                who(backend),
                "{op:?}: backend {id} has sockets and became another"
            );
        }
    }
}

impl FakeKernel {
    fn check_meter(&self, op: Op) {
        for (key, endpoint) in &self.endpoints {
            let backend = &self.backends[endpoint.backend as usize];
            assert_eq!(
                (backend.addr, backend.port, backend.service),
                (key.addr, key.port, endpoint.service),
                "{op:?}: the endpoint {key:?} leads elsewhere"
            );
            assert_ne!(
                backend.generation, 0,
                "{op:?}: {key:?} leads to an unused backend"
            );
        }
        let mut owners = HashMap::new();
        for (id, row) in self.backend_rows() {
            if row.traffic != SHARED_PAIR
                && let Some(other) = owners.insert(row.traffic, id)
            {
                panic!("{op:?}: backends {id} and {other} have the pair {}", row.traffic);
            }
        }
        for socket in self.sockets.iter().filter(|socket| socket.pair != SHARED_PAIR) {
            let now = self.backends[socket.id as usize].traffic;
            assert_eq!(now, socket.pair, "{op:?}: backend {} lost its pair", socket.id);
        }
    }
}

impl KernelRows for FakeKernel {
    fn reset_backend(&mut self, id: u32) -> Result<(), MapOpError> {
        assert_eq!(
            self.sockets_on(id),
            0,
            "counters of backend {id} reset under its sockets"
        );
        self.write(Op::ResetBackend(id), |kernel| kernel.opened[id as usize] = 0)
    }

    fn put_backend(&mut self, id: u32, row: &Backend) -> Result<(), MapOpError> {
        self.write(Op::PutBackend(id), |kernel| kernel.backends[id as usize] = *row)
    }

    fn reset_service(&mut self, id: u32) -> Result<(), MapOpError> {
        let flows = self.flows.values().map(|row| row.service.id);
        let named = self
            .services
            .values()
            .map(|row| row.id)
            .chain(flows)
            .any(|other| other == id);
        assert!(!named, "counters of service {id} reset while a row names it");
        self.write(Op::ResetService(id), |kernel| {
            kernel.picks.remove(&id);
        })
    }

    fn swap_tables(&mut self, tables: &[Tables<'_>]) -> Result<(), MapOpError> {
        for swap in tables {
            let id = swap.service_id;
            self.write(Op::SwapTable(id), |kernel| {
                kernel.tables.insert(id, swap.tiers[0].clone());
                if let Some(flow) = swap.flow {
                    kernel.flow_tables.insert(id, flow.to_vec());
                }
            })?;
        }
        Ok(())
    }

    fn put_flow_service(&mut self, key: &ServiceKey, row: &FlowService) -> Result<(), MapOpError> {
        self.write(Op::PutFlow(*key), |kernel| {
            kernel.flows.insert(*key, *row);
        })
    }

    fn delete_flow_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError> {
        self.write(Op::DeleteFlow(*key), |kernel| {
            kernel.flows.remove(key);
        })
    }

    fn put_service(&mut self, key: &ServiceKey, row: &Service) -> Result<(), MapOpError> {
        self.write(Op::PutService(*key), |kernel| {
            kernel.services.insert(*key, *row);
        })
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError> {
        self.write(Op::DeleteService(*key), |kernel| {
            kernel.services.remove(key);
        })
    }

    fn reset_traffic(&mut self, pair: u32) -> Result<(), MapOpError> {
        assert_eq!(self.sockets_in(pair), 0, "pair {pair} reset under its sockets");
        let leads_here = |row: &Backend| row.traffic == pair && row.flags & BackendFlags::AVAILABLE != 0;
        let named = self.backends.iter().any(leads_here)
            || self.endpoints.values().any(|endpoint| endpoint.traffic == pair);
        assert!(!named, "pair {pair} reset while connections may come to it");
        self.write(Op::ResetTraffic(pair), |kernel| {
            kernel.metered.remove(&pair);
        })
    }

    fn put_endpoint(&mut self, key: &EndpointKey, row: &Endpoint) -> Result<(), MapOpError> {
        self.write(Op::PutEndpoint(*key), |kernel| {
            kernel.endpoints.insert(*key, *row);
        })
    }

    fn delete_endpoint(&mut self, key: &EndpointKey) -> Result<(), MapOpError> {
        self.write(Op::DeleteEndpoint(*key), |kernel| {
            kernel.endpoints.remove(key);
        })
    }

    fn is_used(&self, id: u32, pair: u32) -> Result<bool, MapOpError> {
        Ok(self.sockets_on(id) > 0 || pair != SHARED_PAIR && self.sockets_in(pair) > 0)
    }
}
