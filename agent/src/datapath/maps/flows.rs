// SPDX-License-Identifier: Apache-2.0
//! What the reconciler writes for the packet path: services and their tables. Part of [`MapWriter`].
//!
//! Invariant: a row names a service whose table was written before it.

use std::{
    os::fd::AsFd as _,
    time::{Duration, Instant},
};

use nodemesh_abi::{FlowService, ServiceKey, Slot, names::map};

use super::{MapOpError, MapWriter, failed, ignore_missing, io_failed, tables::swap_tables};
use crate::datapath::sys;

/// How long the services that have a table are looked for; without that wait, ten milliseconds do.
const LOOKING: Duration = Duration::from_millis(300);

impl MapWriter {
    /// As [`MapWriter::swap_slot_tables`], for the tables of the packet path, of which each service has one at most.
    pub fn swap_flow_tables(&mut self, tables: &[(u32, &[Slot])]) -> Result<(), MapOpError> {
        swap_tables(&self.flow_tables, map::FLOW_TABLES, tables)
    }

    /// Every row of `flow_services`.
    pub fn flow_services(&self) -> Result<Vec<(ServiceKey, FlowService)>, MapOpError> {
        self.flow_services
            .iter()
            .collect::<Result<_, _>>()
            .map_err(failed("list", map::FLOW_SERVICES))
    }

    /// Ids of the services with a table in `flow_tables`; `None` if that cannot be found out in `LOOKING`.
    ///
    /// Before Linux 6.8, the kernel waits until all programs that run have ended at each look into a map of maps: some ten milliseconds.
    pub fn flow_tables(&self) -> Result<Option<Vec<u32>>, MapOpError> {
        let started = Instant::now();
        let mut found = Vec::new();
        for id in 0..self.service_capacity() {
            if started.elapsed() > LOOKING {
                return Ok(None);
            }
            let exists = sys::map_has(self.flow_tables.fd().as_fd(), &id);
            if exists.map_err(|error| io_failed("list", map::FLOW_TABLES, error))? {
                found.push(id);
            }
        }
        Ok(Some(found))
    }

    /// Makes the packet path's row of `key` `row`.
    pub fn put_flow_service(&mut self, key: &ServiceKey, row: &FlowService) -> Result<(), MapOpError> {
        self.flow_services
            .insert(key, row, 0)
            .map_err(failed("write", map::FLOW_SERVICES))
    }

    /// Removes the packet path's row of `key`, if it is there.
    pub fn delete_flow_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError> {
        ignore_missing(self.flow_services.remove(key)).map_err(failed("delete", map::FLOW_SERVICES))
    }
}
