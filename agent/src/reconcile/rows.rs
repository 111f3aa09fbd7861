// SPDX-License-Identifier: Apache-2.0
//! The rows that the reconciler writes, as a trait: the kernel's maps, or a model of them in tests.
//!
//! Invariant: each method is one visible change; the order between calls is the caller's.

use nodemesh_abi::{
    Backend, Endpoint, EndpointKey, FlowService, Service, ServiceKey, Slot, Traffic, traffic::SHARED_PAIR,
};

use super::plan::PutBackend;
use crate::datapath::{MapWriter, maps::MapOpError};

/// The tables of a service.
#[derive(Clone, Copy, Debug)]
pub struct Tables<'a> {
    /// Its id.
    pub service_id: u32,
    /// Those of its tiers, from the first on.
    pub tiers: &'a [Vec<Slot>],
    /// That of the packet path; `None` to leave it as it is.
    pub flow: Option<&'a [Slot]>,
}

/// What `apply` needs of the kernel.
pub trait KernelRows {
    /// Zeroes the counters of a backend id that is about to be used anew.
    fn reset_backend(&mut self, id: u32) -> Result<(), MapOpError>;
    /// Writes the row of a backend id.
    fn put_backend(&mut self, id: u32, row: &Backend) -> Result<(), MapOpError>;
    /// Writes the rows of many backends whose ids nothing names yet, counters and pairs included, in a few calls; false if it cannot.
    /// After an error, some of them may be written.
    fn put_new_backends(&mut self, _puts: &[&PutBackend]) -> Result<bool, MapOpError> {
        Ok(false)
    }
    /// Writes the rows of many endpoints in a few calls; false if it cannot. After an error, some of them may be written.
    fn put_endpoints(&mut self, _endpoints: &[(EndpointKey, Endpoint)]) -> Result<bool, MapOpError> {
        Ok(false)
    }
    /// Zeroes the counters of a service id that is about to be used anew.
    fn reset_service(&mut self, id: u32) -> Result<(), MapOpError>;
    /// Replaces whole slot tables; returns when no program uses the former ones any more. After an error, some of them may be
    /// replaced.
    fn swap_tables(&mut self, tables: &[Tables<'_>]) -> Result<(), MapOpError>;
    /// Writes a service row.
    fn put_service(&mut self, key: &ServiceKey, row: &Service) -> Result<(), MapOpError>;
    /// Removes a service row.
    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError>;
    /// Writes a row of the packet path.
    fn put_flow_service(&mut self, key: &ServiceKey, row: &FlowService) -> Result<(), MapOpError>;
    /// Removes a row of the packet path.
    fn delete_flow_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError>;
    /// Zeroes a pair of rows in `traffic` that is about to be used anew.
    fn reset_traffic(&mut self, pair: u32) -> Result<(), MapOpError>;
    /// Writes the row of an endpoint.
    fn put_endpoint(&mut self, key: &EndpointKey, row: &Endpoint) -> Result<(), MapOpError>;
    /// Removes the row of an endpoint.
    fn delete_endpoint(&mut self, key: &EndpointKey) -> Result<(), MapOpError>;
    /// Whether sockets are counted on a backend id, or on its pair of rows in `traffic` if that is its own, or hold anything of
    /// what these count.
    fn is_used(&self, id: u32, pair: u32) -> Result<bool, MapOpError>;
}

impl KernelRows for MapWriter {
    fn reset_backend(&mut self, id: u32) -> Result<(), MapOpError> {
        self.reset_backend_state(id)
    }

    fn put_backend(&mut self, id: u32, row: &Backend) -> Result<(), MapOpError> {
        Self::put_backend(self, id, row)
    }

    fn put_new_backends(&mut self, puts: &[&PutBackend]) -> Result<bool, MapOpError> {
        let ids: Vec<u32> = puts.iter().map(|put| put.id).collect();
        let rows: Vec<Backend> = puts.iter().map(|put| put.row).collect();
        let new_pairs = puts.iter().filter(|put| put.fresh_traffic);
        let pairs: Vec<u32> = new_pairs.map(|put| put.row.traffic).collect();
        self.put_all_backends(&ids, &rows, &pairs)?;
        Ok(true)
    }

    fn put_endpoints(&mut self, endpoints: &[(EndpointKey, Endpoint)]) -> Result<bool, MapOpError> {
        self.put_all_endpoints(endpoints)?;
        Ok(true)
    }

    fn reset_service(&mut self, id: u32) -> Result<(), MapOpError> {
        self.reset_service_state(id)
    }

    fn swap_tables(&mut self, tables: &[Tables<'_>]) -> Result<(), MapOpError> {
        let flows = tables
            .iter()
            .filter_map(|swap| Some((swap.service_id, swap.flow?)));
        self.swap_flow_tables(&flows.collect::<Vec<_>>())?;
        let tiers = tables.iter().map(|swap| (swap.service_id, swap.tiers));
        self.swap_slot_tables(&tiers.collect::<Vec<_>>())
    }

    fn put_flow_service(&mut self, key: &ServiceKey, row: &FlowService) -> Result<(), MapOpError> {
        Self::put_flow_service(self, key, row)
    }

    fn delete_flow_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError> {
        Self::delete_flow_service(self, key)
    }

    fn put_service(&mut self, key: &ServiceKey, row: &Service) -> Result<(), MapOpError> {
        Self::put_service(self, key, row)
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError> {
        Self::delete_service(self, key)
    }

    fn reset_traffic(&mut self, pair: u32) -> Result<(), MapOpError> {
        Self::reset_traffic(self, pair)
    }

    fn put_endpoint(&mut self, key: &EndpointKey, row: &Endpoint) -> Result<(), MapOpError> {
        Self::put_endpoint(self, key, row)
    }

    fn delete_endpoint(&mut self, key: &EndpointKey) -> Result<(), MapOpError> {
        Self::delete_endpoint(self, key)
    }

    fn is_used(&self, id: u32, pair: u32) -> Result<bool, MapOpError> {
        let state = self.backend_state(id)?;
        // A socket whose TCP is over but which the application has not closed holds its load and its request.
        if state.active != 0 || state.load != 0 {
            return Ok(true);
        }
        if pair == SHARED_PAIR {
            return Ok(false);
        }
        let is_used = |row: &Traffic| row.connections != 0 || row.in_flight != 0;
        Ok(self.traffic(pair)?.iter().any(is_used))
    }
}
