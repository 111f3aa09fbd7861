// SPDX-License-Identifier: Apache-2.0
//! Typed handles to the pinned maps. [`MapWriter`] belongs to the reconciler alone; [`MapReader`] is shared by metrics
//! and the admin API.
//!
//! Invariant: names and sizes were checked by the loader, so no lookup by name happens after start.

use std::{io, os::fd::AsFd as _};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use nodemesh_abi::{
    Backend, BackendState, CgroupEntry, ClientRules, Endpoint, EndpointKey, FlowService, Held, IdentityAddr,
    Ip16, NumberKey, Rules, Service, ServiceKey, ServiceState, Settings, Traffic, Vantage, names::map,
};

use tracing::debug;
use zerocopy::{Immutable, IntoBytes};

use super::{pins::PinRoot, sys};

mod flows;
mod reader;
pub(super) mod tables;

pub use self::reader::MapReader;

/// Rows that are zeroed by one call: bounds the memory for zeros.
const BATCH: usize = 1_024;

/// An operation on a map that failed.
#[derive(Debug, thiserror::Error)]
#[error("{op} {map}: {cause}")]
pub struct MapOpError {
    /// What was done.
    pub op: &'static str,
    /// To which map.
    pub map: &'static str,
    /// With which result.
    pub cause: MapError,
}

pub(super) fn failed(op: &'static str, map: &'static str) -> impl Fn(MapError) -> MapOpError {
    move |cause| MapOpError { op, map, cause }
}

pub(super) fn io_failed(op: &'static str, map: &'static str, error: io::Error) -> MapOpError {
    MapOpError {
        op,
        map,
        cause: MapError::IoError(error),
    }
}

pub(super) fn open<T: TryFrom<Map, Error = MapError>>(
    pins: &PinRoot,
    name: &'static str,
) -> Result<T, MapOpError> {
    MapData::from_pin(pins.map(name))
        .and_then(Map::from_map_data)
        .and_then(T::try_from)
        .map_err(failed("open", name))
}

fn pinned(pins: &PinRoot, name: &'static str) -> Result<MapData, MapOpError> {
    MapData::from_pin(pins.map(name)).map_err(failed("open", name))
}

/// Writes many rows in one call.
fn update<K, V>(map: &MapData, name: &'static str, keys: &[K], rows: &[V]) -> Result<(), MapOpError>
where
    K: IntoBytes + Immutable,
    V: IntoBytes + Immutable,
{
    sys::map_update_batch(map.fd().as_fd(), keys, rows).map_err(|(_, error)| io_failed("write", name, error))
}

/// Writes the rows that the agent owns.
pub struct MapWriter {
    services: HashMap<MapData, ServiceKey, Service>,
    slot_tables: MapData,
    tier_tables: MapData,
    service_states: Array<MapData, ServiceState>,
    backends: Array<MapData, Backend>,
    backend_states: Array<MapData, BackendState>,
    cgroups: HashMap<MapData, u64, CgroupEntry>,
    settings: Array<MapData, Settings>,
    endpoints: HashMap<MapData, EndpointKey, Endpoint>,
    traffic: Array<MapData, Traffic>,
    rules: Array<MapData, Rules>,
    policies: MapData,
    identities: LpmTrie<MapData, IdentityAddr, u32>,
    numbers: HashMap<MapData, NumberKey, u32>,
    clients: HashMap<MapData, ClientRules, Held>,
    flow_services: HashMap<MapData, ServiceKey, FlowService>,
    flow_tables: MapData,
    /// `backends`, `backend_states` and `traffic` again, and `endpoints`, for many rows at once.
    numbered: [MapData; 3],
    endpoint_rows: MapData,
}

impl MapWriter {
    /// Opens the maps pinned below `pins`.
    pub fn open(pins: &PinRoot) -> Result<Self, MapOpError> {
        Ok(Self {
            services: open(pins, map::SERVICES)?,
            slot_tables: pinned(pins, map::SLOT_TABLES)?,
            tier_tables: pinned(pins, map::TIER_TABLES)?,
            service_states: open(pins, map::SERVICE_STATES)?,
            backends: open(pins, map::BACKENDS)?,
            backend_states: open(pins, map::BACKEND_STATES)?,
            cgroups: open(pins, map::CGROUPS)?,
            settings: open(pins, map::SETTINGS)?,
            endpoints: open(pins, map::ENDPOINTS)?,
            traffic: open(pins, map::TRAFFIC)?,
            rules: open(pins, map::RULES)?,
            policies: pinned(pins, map::POLICIES)?,
            identities: open(pins, map::IDENTITIES)?,
            numbers: open(pins, map::NUMBERS)?,
            clients: open(pins, map::CLIENTS)?,
            numbered: [
                pinned(pins, map::BACKENDS)?,
                pinned(pins, map::BACKEND_STATES)?,
                pinned(pins, map::TRAFFIC)?,
            ],
            endpoint_rows: pinned(pins, map::ENDPOINTS)?,
            flow_services: open(pins, map::FLOW_SERVICES)?,
            flow_tables: pinned(pins, map::FLOW_TABLES)?,
        })
    }

    /// Number of service ids.
    pub fn service_capacity(&self) -> u32 {
        self.service_states.len()
    }

    /// Number of backend ids.
    pub fn backend_capacity(&self) -> u32 {
        self.backends.len()
    }

    /// Number of pairs of rows in `traffic`, the shared one included.
    pub fn traffic_pairs(&self) -> u32 {
        self.traffic.len() / 2
    }

    /// Every row of `services`.
    pub fn services(&self) -> Result<Vec<(ServiceKey, Service)>, MapOpError> {
        self.services
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failed("list", map::SERVICES))
    }

    /// The row of a backend id.
    pub fn backend(&self, id: u32) -> Result<Backend, MapOpError> {
        self.backends.get(&id, 0).map_err(failed("read", map::BACKENDS))
    }

    /// Live state of a backend id.
    pub fn backend_state(&self, id: u32) -> Result<BackendState, MapOpError> {
        self.backend_states
            .get(&id, 0)
            .map_err(failed("read", map::BACKEND_STATES))
    }

    /// Both rows of a pair in `traffic`, by [`Vantage`].
    pub fn traffic(&self, pair: u32) -> Result<[Traffic; 2], MapOpError> {
        let read = |vantage: Vantage| self.traffic.get(&vantage.row(pair), 0);
        let [client, server] =
            Vantage::ALL.map(|vantage| read(vantage).map_err(failed("read", map::TRAFFIC)));
        Ok([client?, server?])
    }

    /// Zeroes a pair of rows in `traffic`; only for a pair in which no connection is counted.
    pub fn reset_traffic(&mut self, pair: u32) -> Result<(), MapOpError> {
        for vantage in Vantage::ALL {
            self.traffic
                .set(vantage.row(pair), Traffic::default(), 0)
                .map_err(failed("reset", map::TRAFFIC))?;
        }
        Ok(())
    }

    /// Every row of `endpoints`.
    pub fn endpoints(&self) -> Result<Vec<(EndpointKey, Endpoint)>, MapOpError> {
        self.endpoints
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failed("list", map::ENDPOINTS))
    }

    /// Makes the endpoint at `key` `row`.
    pub fn put_endpoint(&mut self, key: &EndpointKey, row: &Endpoint) -> Result<(), MapOpError> {
        self.endpoints
            .insert(key, row, 0)
            .map_err(failed("write", map::ENDPOINTS))
    }

    /// Removes the endpoint at `key`, if it is there.
    pub fn delete_endpoint(&mut self, key: &EndpointKey) -> Result<(), MapOpError> {
        ignore_missing(self.endpoints.remove(key)).map_err(failed("delete", map::ENDPOINTS))
    }

    /// Writes the row of a backend.
    pub fn put_backend(&mut self, id: u32, row: &Backend) -> Result<(), MapOpError> {
        self.backends
            .set(id, row, 0)
            .map_err(failed("write", map::BACKENDS))
    }

    /// Writes the rows of backends whose ids nothing names yet, and zeroes their counters and these pairs of rows in `traffic`.
    pub fn put_all_backends(
        &mut self,
        ids: &[u32],
        rows: &[Backend],
        pairs: &[u32],
    ) -> Result<(), MapOpError> {
        let [backends, states, traffic] = &self.numbered;
        let zeroed = vec![BackendState::default(); ids.len().min(BATCH)];
        for ids in ids.chunks(BATCH) {
            update(states, map::BACKEND_STATES, ids, &zeroed[..ids.len()])?;
        }
        let of_pairs: Vec<u32> = pairs
            .iter()
            .flat_map(|pair| Vantage::ALL.map(|vantage| vantage.row(*pair)))
            .collect();
        let zeroed = vec![Traffic::default(); of_pairs.len().min(BATCH)];
        for indexes in of_pairs.chunks(BATCH) {
            update(traffic, map::TRAFFIC, indexes, &zeroed[..indexes.len()])?;
        }
        update(backends, map::BACKENDS, ids, rows)
    }

    /// Writes the rows of endpoints.
    pub fn put_all_endpoints(&mut self, endpoints: &[(EndpointKey, Endpoint)]) -> Result<(), MapOpError> {
        let (keys, rows): (Vec<EndpointKey>, Vec<Endpoint>) = endpoints.iter().copied().unzip();
        update(&self.endpoint_rows, map::ENDPOINTS, &keys, &rows)
    }

    /// Every backend id that is in use, with its row.
    pub fn backends(&self) -> Result<Vec<(u32, Backend)>, MapOpError> {
        let [backends, ..] = &self.numbered;
        let rows: Vec<Backend> = sys::map_rows(backends.fd().as_fd(), self.backend_capacity())
            .map_err(|error| io_failed("list", map::BACKENDS, error))?;
        let used = (0..).zip(rows).filter(|(_, row)| row.generation != 0);
        Ok(used.collect())
    }

    /// Zeroes the counters of a backend id; only for an id on which no socket is counted.
    pub fn reset_backend_state(&mut self, id: u32) -> Result<(), MapOpError> {
        self.backend_states
            .set(id, BackendState::default(), 0)
            .map_err(failed("reset", map::BACKEND_STATES))
    }

    /// Zeroes the counters of a service id; only for an id that no row of `services` names.
    pub fn reset_service_state(&mut self, id: u32) -> Result<(), MapOpError> {
        self.service_states
            .set(id, ServiceState::default(), 0)
            .map_err(failed("reset", map::SERVICE_STATES))
    }

    /// Writes the rules of a service.
    pub fn put_rules(&mut self, number: u32, rules: &Rules) -> Result<(), MapOpError> {
        self.rules
            .set(number, rules, 0)
            .map_err(failed("write", map::RULES))
    }

    /// The rules of a service as they are in the kernel.
    pub fn rules(&self, number: u32) -> Result<Rules, MapOpError> {
        self.rules.get(&number, 0).map_err(failed("read", map::RULES))
    }

    /// Every prefix with its identity.
    pub fn identities(&self) -> Result<Vec<(Prefix, u32)>, MapOpError> {
        let prefix = |key: Key<IdentityAddr>| (key.data().addr, key.prefix_len());
        self.identities
            .iter()
            .map(|row| row.map(|(key, identity)| (prefix(key), identity)))
            .collect::<Result<_, _>>()
            .map_err(failed("list", map::IDENTITIES))
    }

    /// Makes `identity` that of the addresses of `prefix`.
    pub fn put_identity(&mut self, prefix: Prefix, identity: u32) -> Result<(), MapOpError> {
        self.identities
            .insert(&prefix_key(prefix), identity, 0)
            .map_err(failed("write", map::IDENTITIES))
    }

    /// Removes a prefix, if it is there.
    pub fn delete_identity(&mut self, prefix: Prefix) -> Result<(), MapOpError> {
        ignore_missing(self.identities.remove(&prefix_key(prefix))).map_err(failed("delete", map::IDENTITIES))
    }

    /// Every name's hash with its number.
    pub fn numbers(&self) -> Result<Vec<(NumberKey, u32)>, MapOpError> {
        self.numbers
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failed("list", map::NUMBERS))
    }

    /// Gives a name a number.
    pub fn put_number(&mut self, key: NumberKey, number: u32) -> Result<(), MapOpError> {
        self.numbers
            .insert(key, number, 0)
            .map_err(failed("write", map::NUMBERS))
    }

    /// Takes a name's number away.
    pub fn delete_number(&mut self, key: &NumberKey) -> Result<(), MapOpError> {
        ignore_missing(self.numbers.remove(key)).map_err(failed("delete", map::NUMBERS))
    }

    /// Removes what clients hold of a service or under an identity that is gone, where nothing is held any more.
    pub fn forget_clients(&mut self, is_gone: impl Fn(&ClientRules) -> bool) -> Result<(), MapOpError> {
        let idle: Vec<ClientRules> = self
            .clients
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, held)| is_gone(key) && held.connections == 0 && held.requests == 0)
            .map(|(key, _)| key)
            .collect();
        for key in idle {
            ignore_missing(self.clients.remove(&key)).map_err(failed("delete", map::CLIENTS))?;
        }
        Ok(())
    }

    /// Makes the service row of `key` `row`.
    pub fn put_service(&mut self, key: &ServiceKey, row: &Service) -> Result<(), MapOpError> {
        self.services
            .insert(key, row, 0)
            .map_err(failed("write", map::SERVICES))
    }

    /// Removes the service row of `key`, if it is there.
    pub fn delete_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError> {
        ignore_missing(self.services.remove(key)).map_err(failed("delete", map::SERVICES))
    }

    /// Every cgroup that has an entry.
    pub fn cgroups(&self) -> Result<Vec<(u64, CgroupEntry)>, MapOpError> {
        self.cgroups
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failed("list", map::CGROUPS))
    }

    /// Makes the entry of a cgroup `entry`.
    pub fn put_cgroup(&mut self, id: u64, entry: &CgroupEntry) -> Result<(), MapOpError> {
        self.cgroups
            .insert(id, entry, 0)
            .map_err(failed("write", map::CGROUPS))
    }

    /// Removes the entry of a cgroup, if it is there.
    pub fn delete_cgroup(&mut self, id: u64) -> Result<(), MapOpError> {
        ignore_missing(self.cgroups.remove(&id)).map_err(failed("delete", map::CGROUPS))
    }

    /// The settings that are there.
    pub fn settings(&self) -> Result<Settings, MapOpError> {
        self.settings.get(&0, 0).map_err(failed("read", map::SETTINGS))
    }

    /// Waits until no program runs that has read a row of before. Where the kernel refuses, what such a program is about to count may be
    /// counted by another one too.
    pub fn await_programs(&self) {
        if let Err(error) = sys::await_programs() {
            debug!(%error, "could not wait for the programs that run");
        }
    }

    /// Writes the settings.
    pub fn put_settings(&mut self, settings: &Settings) -> Result<(), MapOpError> {
        self.settings
            .set(0, settings, 0)
            .map_err(failed("write", map::SETTINGS))
    }
}

/// An address and the number of its leading bits that count: a row of `identities`.
pub type Prefix = (Ip16, u32);

fn prefix_key((addr, length): Prefix) -> Key<IdentityAddr> {
    Key::new(length, IdentityAddr { addr })
}

fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error)) if error.io_error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
