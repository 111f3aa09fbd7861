// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Counting what becomes of packets and flows. Never changes a verdict.

use aya_ebpf::bindings::BPF_NOEXIST;
use nodemesh_abi::{FlowEvent, Ip16, Source};

use crate::{atomic::add, maps};

/// Counts a packet of `bytes` under a [`FlowEvent`].
#[inline(always)]
pub fn packet(event: u32, bytes: u32) {
    if let Some(count) = maps::flow_counts.get_ptr_mut(event) {
        // SAFETY: a per-CPU value; a hook that interrupts another may cost a count of it, never more.
        unsafe {
            (*count).packets += 1;
            (*count).bytes += u64::from(bytes);
        }
    }
}

/// Counts something that happened to a flow.
#[inline(always)]
pub fn flow(event: FlowEvent) {
    packet(event as u32, 0);
}

/// Counts a flow that `client` opened, or would have opened had there been a place.
#[inline(always)]
pub fn source(client: Ip16, opened: bool) {
    let mut found = maps::track_sources.get_ptr_mut(client);
    if found.is_none() {
        // Another CPU may be first, which is as well.
        let _ = maps::track_sources.insert(client, Source::default(), u64::from(BPF_NOEXIST));
        found = maps::track_sources.get_ptr_mut(client);
    }
    let Some(source) = found else {
        return;
    };
    // SAFETY: a map value.
    unsafe {
        if opened {
            add(&raw mut (*source).opened, 1);
        } else {
            add(&raw mut (*source).refused, 1);
        }
    }
}
