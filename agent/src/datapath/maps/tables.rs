// SPDX-License-Identifier: Apache-2.0
//! The maps of tables: an array of arrays each, of which the reconciler swaps whole inner ones. Part of [`MapWriter`]; the loader has
//! the outer ones made here.
//!
//! Invariant: an inner table is whole before it is put into its place, and who swapped it returns when no program uses the former one.

use std::os::fd::{AsFd as _, AsRawFd as _};

use aya::{Pod, maps::MapData};
use aya_obj::generated::bpf_map_type;
use nodemesh_abi::{AccessWord, Slot, limits, names::map, service::TIERS, service::tier_table};
use zerocopy::{Immutable, IntoBytes};

use super::{MapOpError, MapWriter, failed, io_failed};
use crate::datapath::{pins::PinRoot, sys};

/// `BPF_F_INNER_MAP` of `linux/bpf.h`: this array may differ in length from the template of its outer map.
const INNER_MAP: u32 = 1 << 12;
/// Tables swapped by one call: bounds the descriptors that are open at a time.
const SWAP_BATCH: usize = 256;

/// Creates and pins the maps of tables that are not there, for so many services.
///
/// The loader would make them as well, with templates that have type information. The tables that are swapped in have none, and before
/// Linux 6.2 the kernel takes an array that has none for another kind than one that has.
pub fn create_missing(pins: &PinRoot, services: u32) -> Result<(), MapOpError> {
    let slot = size_of::<Slot>();
    for (name, value, entries) in [
        (map::SLOT_TABLES, slot, services),
        (map::TIER_TABLES, slot, services.saturating_mul(TIERS)),
        (map::FLOW_TABLES, slot, services),
        (map::POLICIES, size_of::<AccessWord>(), limits::POLICIES),
    ] {
        let pin = pins.map(name);
        if pin.exists() {
            continue;
        }
        let template = create_table(name, value, 1)?;
        sys::create_array_of_maps(name, template.fd().as_fd(), entries)
            .and_then(|outer| sys::object_pin(outer.as_fd(), &pin))
            .map_err(|error| io_failed("create", name, error))?;
    }
    Ok(())
}

impl MapWriter {
    /// Puts whole slot tables, of each service those of its tiers from the first on, in the place of the former ones. Each is visible to the programs at once; the call returns
    /// when no program uses a replaced table any more.
    pub fn swap_slot_tables(&mut self, tables: &[(u32, &[Vec<Slot>])]) -> Result<(), MapOpError> {
        let (mut first, mut further) = (Vec::new(), Vec::new());
        for (id, tiers) in tables {
            for (tier, slots) in (0..).zip(*tiers) {
                match tier {
                    0 => first.push((*id, &**slots)),
                    tier => further.push((tier_table(*id, tier), &**slots)),
                }
            }
        }
        swap_tables(&self.tier_tables, map::TIER_TABLES, &further)?;
        swap_tables(&self.slot_tables, map::SLOT_TABLES, &first)
    }

    /// As [`MapWriter::swap_slot_tables`], for the tables of policies.
    pub fn swap_policies(&mut self, tables: &[(u32, &[AccessWord])]) -> Result<(), MapOpError> {
        swap_tables(&self.policies, map::POLICIES, tables)
    }

    /// Removes the table of a policy that no row names.
    pub fn delete_policy(&mut self, id: u32) -> Result<(), MapOpError> {
        sys::map_delete(self.policies.fd().as_fd(), &id)
            .map_err(|error| io_failed("delete", map::POLICIES, error))
    }

    /// Returns when no program runs any more that may have read rows as they were before the call.
    pub fn wait_for_programs(&mut self) -> Result<(), MapOpError> {
        // The kernel waits for them wherever a map in a map is replaced. No service has the policy 0.
        self.swap_policies(&[(0, &[AccessWord::default()])])?;
        self.delete_policy(0)
    }
}

/// Puts inner tables of `outer` in the place of the former ones; the call returns when no program uses these any more.
pub(super) fn swap_tables<T: Pod + IntoBytes + Immutable>(
    outer: &MapData,
    name: &'static str,
    tables: &[(u32, &[T])],
) -> Result<(), MapOpError> {
    for batch in tables.chunks(SWAP_BATCH) {
        let inner = batch
            .iter()
            .map(|(_, rows)| build_table(name, rows))
            .collect::<Result<Vec<_>, _>>()?;
        let ids: Vec<u32> = batch.iter().map(|(id, _)| *id).collect();
        let fds: Vec<u32> = inner
            .iter()
            .map(|table| table.fd().as_fd().as_raw_fd().cast_unsigned())
            .collect();
        sys::map_update_batch(outer.fd().as_fd(), &ids, &fds)
            .map_err(|(_, error)| io_failed("swap", name, error))?;
    }
    Ok(())
}

fn build_table<T: Pod + IntoBytes + Immutable>(
    name: &'static str,
    rows: &[T],
) -> Result<MapData, MapOpError> {
    let data = create_table(name, size_of::<T>(), rows.len() as u32)?;
    let positions: Vec<u32> = (0..rows.len() as u32).collect();
    sys::map_update_batch(data.fd().as_fd(), &positions, rows)
        .map_err(|(_, error)| io_failed("fill a table of", name, error))?;
    Ok(data)
}

/// An empty table; the template of a map of tables is one.
fn create_table(name: &'static str, value: usize, rows: u32) -> Result<MapData, MapOpError> {
    let kind = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let definition =
        aya_obj::Map::new_from_params(kind, size_of::<u32>() as u32, value as u32, rows, INNER_MAP);
    MapData::create(definition, name, None).map_err(failed("create a table of", name))
}
