// SPDX-License-Identifier: Apache-2.0
//! What one virtual address of a service comes down to: a key, settings and backends. Made by `desired`, written to the
//! kernel's maps by the agent, which adds the ids.
//!
//! Invariant: `backends` is sorted by (address, port) and has no two with the same, so positions are the same on every node.

use std::{collections::BTreeMap, fmt, net::IpAddr, sync::Arc};

use nodemesh_abi::{Algorithm, ClientKeySource, Ip16, Port, Protocol, ServiceKey, Slot, client::mix};

use crate::{
    access::AccessRules,
    keyword::{BackendState, Family, Keyword, PacketMode},
    maglev::maglev_table,
    name::ResourceName,
    resource::{Locality, policy::ServiceRules},
    slots::alias_table,
};

/// Default sizes of Maglev tables, each with the largest number of backends for which it is taken. The bounds were measured:
/// up to them, and up to 524 backends in the largest table, the removal of one of n backends moves less than 2/n of the
/// keys. The fraction grows with n, since ever more of a table's last slots are contended for.
const TABLE_SIZES: [(usize, u32); 3] = [(64, 16_381), (200, 131_071), (usize::MAX, 1_048_573)];

/// Sizes of the Maglev tables of the packet path, each with the largest number of backends for which it is taken: about a hundred
/// slots per backend, by which shares are exact to a percent (Eisenbud et al. 2016, 3.4). Smaller than those above because every service
/// on the packet path has one.
const PACKET_TABLE_SIZES: [(usize, u32); 6] = [
    (2, 251),
    (10, 1_021),
    (40, 4_093),
    (160, 16_381),
    (1_300, 131_071),
    (usize::MAX, 1_048_573),
];

/// Identifies a frontend: one per service, port and address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendName {
    /// The service.
    pub service: ResourceName,
    /// Virtual port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Family of the virtual address.
    pub family: Family,
}

impl fmt::Display for FrontendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}/{} ({})",
            self.service,
            self.port,
            self.protocol.word(),
            self.family
        )
    }
}

/// One virtual address and port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// What clients dial.
    pub key: ServiceKey,
    /// The service.
    pub service: ResourceName,
    /// Model that the replicas serve.
    pub model: Option<Arc<str>>,
    /// Name of the port.
    pub port_name: Option<Arc<str>>,
    /// How a replica is chosen.
    pub algorithm: Algorithm,
    /// Slots of the Maglev table while a backend is available; `None` for the other algorithms.
    pub table_size: Option<u32>,
    /// What identifies a client.
    pub client_key: ClientKeySource,
    /// Seconds that a client stays with its backend; 0 without affinity.
    pub affinity_timeout_s: u32,
    /// Who may connect; `None` if no policy says anything about it.
    pub access: Option<Arc<AccessRules>>,
    /// Limits, health and locality, in one allocation for all frontends with the same policy.
    pub rules: Arc<ServiceRules>,
    /// The replicas, sorted and unique by (address, port).
    pub backends: Vec<FrontendBackend>,
    /// How the packet path serves it; `None` if it does not.
    pub packet: Option<FrontendPacket>,
}

/// What the packet path needs to know of a frontend beside its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendPacket {
    /// How packets are sent on.
    pub mode: PacketMode,
    /// Port at which every address of a node is the frontend's too.
    pub node_port: Option<Port>,
    /// More addresses that are the frontend's too, of its family, sorted.
    pub external: Vec<Ip16>,
    /// Slots of the Maglev table while a backend is available.
    pub table_size: u32,
}

/// A replica behind a frontend, identified there by (`addr`, `port`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontendBackend {
    /// Its address.
    pub addr: Ip16,
    /// Its port.
    pub port: Port,
    /// Its share of the load, 1 to 65535.
    pub weight: u32,
    /// Whether it takes new connections.
    pub state: BackendState,
    /// The workload that it was selected as, or that the service says it is; `None` if it is not known.
    pub workload: Option<ResourceName>,
    /// Where it is; `None` if that is not known.
    pub locality: Option<Arc<Locality>>,
    /// Whether it is known to run on this node.
    pub is_local: bool,
    /// Its tier for the clients of this node, from 0, the first that is asked; at most [`nodemesh_abi::service::TIERS`].
    pub tier: u8,
}

impl FrontendBackend {
    /// Whether it takes new connections.
    pub fn is_available(&self) -> bool {
        self.state == BackendState::Active
    }

    /// A hash of its identity that is the same on every node.
    pub fn stable_hash(&self) -> u64 {
        let bits = match IpAddr::from(self.addr) {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
            IpAddr::V6(v6) => v6.to_bits(),
        };
        mix(mix(mix((bits >> 64) as u64) ^ bits as u64) ^ u64::from(self.port.get()))
    }

    /// What `backends` of a frontend are sorted by.
    pub(crate) fn sort_key(&self) -> (IpAddr, u16) {
        (self.addr.into(), self.port.get())
    }
}

impl Frontend {
    /// Its name.
    pub fn name(&self) -> FrontendName {
        FrontendName {
            service: self.service.clone(),
            port: self.key.port.get(),
            protocol: self.protocol(),
            family: if self.key.addr.is_v4() {
                Family::V4
            } else {
                Family::V6
            },
        }
    }

    /// Its transport protocol.
    pub fn protocol(&self) -> Protocol {
        if self.key.protocol == Protocol::Udp as u8 {
            Protocol::Udp
        } else {
            Protocol::Tcp
        }
    }

    /// Positions in `backends` of those that take new connections.
    pub fn available(&self) -> impl Iterator<Item = usize> {
        self.backends
            .iter()
            .enumerate()
            .filter(|(_, backend)| backend.is_available())
            .map(|(index, _)| index)
    }

    /// The inner map of `slot_tables` for this frontend; `id_of` gives the backend id of a position in `backends`.
    ///
    /// Holds available backends of every tier; without one it is the single slot [`Slot::EMPTY`].
    pub fn slot_table(&self, id_of: impl Fn(usize) -> u32) -> Vec<Slot> {
        self.table(&self.available().collect::<Vec<_>>(), id_of)
    }

    /// The inner maps of `slot_tables` for this frontend, one for each tier that is asked and has an available backend, nearest first: at least
    /// one, at most one more than [`nodemesh_abi::service::TIERS`].
    pub fn slot_tables(&self, id_of: impl Fn(usize) -> u32) -> Vec<Vec<Slot>> {
        let mut tiers: BTreeMap<u8, Vec<usize>> = BTreeMap::new();
        for position in self.available() {
            if !self.rules.asks(self.backends[position].tier) {
                continue;
            }
            tiers
                .entry(self.backends[position].tier)
                .or_default()
                .push(position);
        }
        if tiers.is_empty() {
            return vec![vec![Slot::EMPTY]];
        }
        tiers
            .values()
            .map(|available| self.table(available, &id_of))
            .collect()
    }

    /// The table from which the packet path picks: a Maglev table over the available backends of all tiers, since every node must map a
    /// flow to the same one; without an available backend, or off the packet path, the single slot [`Slot::EMPTY`].
    pub fn packet_table(&self, id_of: impl Fn(usize) -> u32) -> Vec<Slot> {
        let available: Vec<usize> = self.available().collect();
        match &self.packet {
            Some(packet) if !available.is_empty() => {
                let ids: Vec<u32> = available.iter().map(|position| id_of(*position)).collect();
                let backends = available.iter().map(|position| &self.backends[*position]);
                maglev_slots(&backends.collect::<Vec<_>>(), &ids, packet.table_size)
            }
            _ => vec![Slot::EMPTY],
        }
    }

    /// The table of the backends at the positions `available`.
    fn table(&self, available: &[usize], id_of: impl Fn(usize) -> u32) -> Vec<Slot> {
        if available.is_empty() {
            return vec![Slot::EMPTY];
        }
        let ids: Vec<u32> = available.iter().map(|position| id_of(*position)).collect();
        let backends: Vec<&FrontendBackend> = available
            .iter()
            .map(|position| &self.backends[*position])
            .collect();
        match self.table_size {
            Some(size) => maglev_slots(&backends, &ids, size),
            None => alias_slots(&backends, &ids),
        }
    }
}

fn maglev_slots(backends: &[&FrontendBackend], ids: &[u32], size: u32) -> Vec<Slot> {
    let hashes: Vec<(u64, u32)> = backends
        .iter()
        .map(|backend| (backend.stable_hash(), backend.weight))
        .collect();
    maglev_table(&hashes, size)
        .into_iter()
        .map(|index| Slot::certain(ids[index as usize], size))
        .collect()
}

fn alias_slots(backends: &[&FrontendBackend], ids: &[u32]) -> Vec<Slot> {
    let weights: Vec<u32> = backends.iter().map(|backend| backend.weight).collect();
    alias_table(&weights)
        .into_iter()
        .map(|slot| Slot {
            backend: ids[slot.own as usize],
            alias: ids[slot.alias as usize],
            threshold: slot.threshold,
            len: weights.len() as u32,
        })
        .collect()
}

/// Size of the Maglev table for `backends` backends, unless a policy asks for another.
pub fn default_table_size(backends: usize) -> u32 {
    let size = TABLE_SIZES.into_iter().find(|(most, _)| backends <= *most);
    size.map(|(_, size)| size).unwrap_or_default()
}

/// Size of the packet path's table for `backends` backends, unless a policy asks for another.
pub fn packet_table_size(backends: usize) -> u32 {
    let size = PACKET_TABLE_SIZES.into_iter().find(|(most, _)| backends <= *most);
    size.map(|(_, size)| size).unwrap_or_default()
}

/// Size of the Maglev table for `backends` backends: the one asked for if it has a slot for each.
pub(crate) fn table_size(asked: Option<u32>, backends: usize) -> u32 {
    asked
        .filter(|size| backends <= *size as usize)
        .unwrap_or_else(|| default_table_size(backends))
}

#[cfg(test)]
mod tests;
