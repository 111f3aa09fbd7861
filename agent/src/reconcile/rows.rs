// SPDX-License-Identifier: Apache-2.0
//! The rows that the reconciler writes, as a trait: the kernel's maps, or a model of them in tests.
//!
//! Invariant: each method is one visible change; the order between calls is the caller's.

use nodemesh_abi::{Backend, Service, ServiceKey, Slot};

use crate::datapath::{MapWriter, maps::MapOpError};

/// What `apply` needs of the kernel.
pub trait KernelRows {
    /// Zeroes the counters of a backend id that is about to be used anew.
    fn reset_backend(&mut self, id: u32) -> Result<(), MapOpError>;
    /// Writes the row of a backend id.
    fn put_backend(&mut self, id: u32, row: &Backend) -> Result<(), MapOpError>;
    /// Zeroes the counters of a service id that is about to be used anew.
    fn reset_service(&mut self, id: u32) -> Result<(), MapOpError>;
    /// Replaces whole slot tables; returns when no program uses the former ones any more. After an error, a leading part of
    /// them may be replaced.
    fn swap_tables(&mut self, tables: &[(u32, &[Slot])]) -> Result<(), MapOpError>;
    /// Writes a service row.
    fn put_service(&mut self, key: &ServiceKey, row: &Service) -> Result<(), MapOpError>;
    /// Removes a service row.
    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError>;
    /// Sockets counted on a backend id.
    fn active(&self, id: u32) -> Result<u64, MapOpError>;
}

impl KernelRows for MapWriter {
    fn reset_backend(&mut self, id: u32) -> Result<(), MapOpError> {
        self.reset_backend_state(id)
    }

    fn put_backend(&mut self, id: u32, row: &Backend) -> Result<(), MapOpError> {
        Self::put_backend(self, id, row)
    }

    fn reset_service(&mut self, id: u32) -> Result<(), MapOpError> {
        self.reset_service_state(id)
    }

    fn swap_tables(&mut self, tables: &[(u32, &[Slot])]) -> Result<(), MapOpError> {
        self.swap_slot_tables(tables)
    }

    fn put_service(&mut self, key: &ServiceKey, row: &Service) -> Result<(), MapOpError> {
        Self::put_service(self, key, row)
    }

    fn delete_service(&mut self, key: &ServiceKey) -> Result<(), MapOpError> {
        Self::delete_service(self, key)
    }

    fn active(&self, id: u32) -> Result<u64, MapOpError> {
        Self::active(self, id)
    }
}
