// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Counting. Never changes a verdict: a counter that is not there is not counted.

use nodemesh_abi::{
    BackendState, ConnectFailure, InternalError, Refusal, ServiceState, backend::connect_bucket,
};

use crate::{
    atomic::{add, add_at, fetch_add},
    maps,
};

/// The counters of a service.
#[inline(always)]
pub fn service(id: u32) -> Option<*mut ServiceState> {
    maps::service_states.get_ptr_mut(id)
}

/// The counters of a backend.
#[inline(always)]
pub fn backend(id: u32) -> Option<*mut BackendState> {
    maps::backend_states.get_ptr_mut(id)
}

/// Counts a refused connection.
#[inline(always)]
pub fn refused(service_id: u32, refusal: Refusal) {
    if let Some(state) = service(service_id) {
        // SAFETY: `state` is a map value.
        unsafe { add(&raw mut (*state).refused[refusal as usize], 1) };
    }
}

/// Takes back what a pick counted on a backend: the connection is not tracked.
#[inline(always)]
pub fn untracked(backend_id: u32) {
    if let Some(state) = backend(backend_id) {
        // SAFETY: `state` is a map value.
        unsafe {
            add(&raw mut (*state).opened, u64::MAX);
            add(&raw mut (*state).active, u64::MAX);
            add(&raw mut (*state).load, u64::MAX);
        }
    }
}

/// Takes a place in the table of connections; false if all `limit` (0 for no limit) are taken.
#[inline(always)]
pub fn take_place(limit: u32) -> bool {
    let Some(table) = maps::conn_table.get_ptr_mut(0) else {
        return true;
    };
    // SAFETY: `table` is a map value.
    let entries = unsafe { fetch_add(&raw mut (*table).entries, 1) };
    if limit != 0 && entries >= u64::from(limit) {
        give_place_back();
        return false;
    }
    true
}

/// Gives a place in the table of connections back.
#[inline(always)]
pub fn give_place_back() {
    if let Some(table) = maps::conn_table.get_ptr_mut(0) {
        // SAFETY: `table` is a map value.
        unsafe { add(&raw mut (*table).entries, u64::MAX) };
    }
}

/// Counts an established connection that took `ns` to connect.
#[inline(always)]
pub fn established(backend_id: u32, ns: u64) {
    if let Some(state) = backend(backend_id) {
        let bucket = connect_bucket(ns);
        // SAFETY: `state` is a map value and `connect_bucket` stays inside the array.
        unsafe {
            add(&raw mut (*state).connect_ns, ns);
            add((&raw mut (*state).connect_buckets).cast::<u64>().add(bucket), 1);
        }
    }
}

/// How a socket left its backend.
#[derive(Clone, Copy)]
pub enum Ending {
    /// It was established.
    Closed,
    /// It was not.
    Failed(ConnectFailure),
}

/// Counts the end of a socket.
#[inline(always)]
pub fn ended(backend_id: u32, ending: Ending) {
    if let Some(state) = backend(backend_id) {
        // SAFETY: `state` is a map value.
        unsafe {
            add(&raw mut (*state).active, u64::MAX);
            match ending {
                Ending::Closed => add(&raw mut (*state).closed, 1),
                Ending::Failed(failure) => {
                    add_at(&raw mut (*state).failed, failure as usize, 1);
                }
            }
        }
    }
}

/// Counts an internal error.
#[inline(always)]
pub fn internal_error(error: InternalError) {
    internal_errors(error, 1);
}

/// Counts `times` internal errors.
#[inline(always)]
pub fn internal_errors(error: InternalError, times: u64) {
    if let Some(count) = maps::errors.get_ptr_mut(error as u32) {
        // SAFETY: a per-CPU value, which no other CPU writes.
        unsafe { *count += times };
    }
}
