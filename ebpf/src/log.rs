// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What the programs say through `aya-log`, gated by the level in `settings`, which can change at run time.
//!
//! Invariant: below the level, a message costs one comparison.

use aya_log_ebpf::{debug, warn};
use nodemesh_abi::{Ip16, LogLevel, Refusal, Settings};

use crate::sock_addr::{Endpoint, SockAddr};

#[inline(always)]
fn enabled(settings: &Settings, level: LogLevel) -> bool {
    settings.log_level >= level as u32
}

#[inline(always)]
fn octets(addr: Ip16) -> [u8; 16] {
    let [a, b, c, d] = addr.words();
    // SAFETY: four words are sixteen bytes, already in the order of the wire.
    unsafe { core::mem::transmute::<[u32; 4], [u8; 16]>([a, b, c, d]) }
}

/// A connection or flow was placed.
#[inline(always)]
pub fn placed(socket: &SockAddr<'_>, settings: &Settings, dialled: Endpoint, wire: Endpoint) {
    if enabled(settings, LogLevel::Debug) {
        debug!(
            socket.ctx,
            "placed service={:i} port={} backend={:i} backend_port={}",
            octets(dialled.addr),
            dialled.port.get(),
            octets(wire.addr),
            wire.port.get()
        );
    }
}

/// A connection or flow was refused.
#[inline(always)]
pub fn refused(socket: &SockAddr<'_>, settings: &Settings, dialled: Endpoint, refusal: Refusal) {
    if enabled(settings, LogLevel::Warn) {
        warn!(
            socket.ctx,
            "refused service={:i} port={} reason={}",
            octets(dialled.addr),
            dialled.port.get(),
            refusal.label()
        );
    }
}
