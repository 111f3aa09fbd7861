// SPDX-License-Identifier: Apache-2.0
//! Reads what the programs count. Shared by metrics, the admin API and the sweep.
//!
//! Invariant: nothing here writes.

use aya::maps::{Array, HashMap, MapData, PerCpuArray};
use nodemesh_abi::{
    AffinityKey, AffinityValue, BackendState, CgroupEntry, FlowKey, FlowValue, InternalError, ServiceState,
    TableState, Traffic, limits,
    names::map,
    shortcut::{Route, RouteCount},
};

use super::{MapOpError, failed, open};
use crate::datapath::pins::PinRoot;

/// Reads what the programs count.
pub struct MapReader {
    service_states: Array<MapData, ServiceState>,
    backend_states: Array<MapData, BackendState>,
    errors: PerCpuArray<MapData, u64>,
    flows: HashMap<MapData, FlowKey, FlowValue>,
    affinity: HashMap<MapData, AffinityKey, AffinityValue>,
    cgroups: HashMap<MapData, u64, CgroupEntry>,
    traffic: Array<MapData, Traffic>,
    table: Array<MapData, TableState>,
    short_counts: PerCpuArray<MapData, RouteCount>,
}

impl MapReader {
    /// Opens the maps pinned below `pins`.
    pub fn open(pins: &PinRoot) -> Result<Self, MapOpError> {
        Ok(Self {
            service_states: open(pins, map::SERVICE_STATES)?,
            backend_states: open(pins, map::BACKEND_STATES)?,
            errors: open(pins, map::ERRORS)?,
            flows: open(pins, map::FLOWS)?,
            affinity: open(pins, map::AFFINITY)?,
            cgroups: open(pins, map::CGROUPS)?,
            traffic: open(pins, map::TRAFFIC)?,
            table: open(pins, map::CONN_TABLE)?,
            short_counts: open(pins, map::SHORT_COUNTS)?,
        })
    }

    /// What the meter counted in a row of `traffic`.
    pub fn traffic(&self, row: u32) -> Result<Traffic, MapOpError> {
        self.traffic.get(&row, 0).map_err(failed("read", map::TRAFFIC))
    }

    /// How full the table of connections is.
    pub fn table(&self) -> Result<TableState, MapOpError> {
        self.table.get(&0, 0).map_err(failed("read", map::CONN_TABLE))
    }

    /// Live state of a backend id.
    pub fn backend_state(&self, id: u32) -> Result<BackendState, MapOpError> {
        self.backend_states
            .get(&id, 0)
            .map_err(failed("read", map::BACKEND_STATES))
    }

    /// Counters of a service id.
    pub fn service_state(&self, id: u32) -> Result<ServiceState, MapOpError> {
        self.service_states
            .get(&id, 0)
            .map_err(failed("read", map::SERVICE_STATES))
    }

    /// What became of messages of sockets that take the shortcut, since the maps were created, by [`Route`], over all CPUs.
    pub fn short_counts(&self) -> Result<[RouteCount; Route::COUNT], MapOpError> {
        let mut sums = [RouteCount::default(); Route::COUNT];
        for (index, sum) in sums.iter_mut().enumerate() {
            let per_cpu = self
                .short_counts
                .get(&(index as u32), 0)
                .map_err(failed("read", map::SHORT_COUNTS))?;
            for count in per_cpu.iter() {
                sum.messages += count.messages;
                sum.bytes += count.bytes;
            }
        }
        Ok(sums)
    }

    /// Internal errors since the maps were created, by [`InternalError`], over all CPUs.
    pub fn internal_errors(&self) -> Result<[u64; InternalError::COUNT], MapOpError> {
        let mut sums = [0; InternalError::COUNT];
        for (index, sum) in sums.iter_mut().enumerate() {
            let per_cpu = self
                .errors
                .get(&(index as u32), 0)
                .map_err(failed("read", map::ERRORS))?;
            *sum = per_cpu.iter().sum();
        }
        Ok(sums)
    }

    /// Entries and capacity of the maps that programs or cgroups fill. Counts by walking them.
    pub fn dynamic_usage(&self) -> [(&'static str, (u64, u64)); 3] {
        [
            (
                map::FLOWS,
                (self.flows.keys().count() as u64, u64::from(limits::FLOWS)),
            ),
            (
                map::AFFINITY,
                (self.affinity.keys().count() as u64, u64::from(limits::AFFINITY)),
            ),
            (
                map::CGROUPS,
                (self.cgroups.keys().count() as u64, u64::from(limits::CGROUPS)),
            ),
        ]
    }
}
