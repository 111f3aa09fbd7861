// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What is known of the packet in hand, one row per hook and CPU: the stages of a packet share it, and so does nobody else.
//!
//! Hooks have rows of their own because one may interrupt another; none interrupts itself, since packets are processed with softirqs off.

use nodemesh_abi::{FlowService, Ip16, Port, Track, flow::Headers};

use super::route::Fib;
use crate::maps;

/// Which program runs: the row of its scratch.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Hook {
    /// `flow_ingress`.
    Ingress = 0,
    /// `flow_egress`.
    Egress = 1,
    /// `flow_xdp`.
    Xdp = 2,
}

impl Hook {
    /// Number of hooks.
    pub const COUNT: usize = 3;
}

/// The row.
#[repr(C)]
pub struct Scratch {
    /// What was read of the packet.
    pub headers: Headers,
    /// Its flow, as it was when it was found or opened.
    pub track: Track,
    /// The answer to where it goes.
    pub fib: Fib,
    /// The service that it dials, if it begins a flow.
    pub service: FlowService,
    /// The backend chosen for it.
    pub backend: Ip16,
    /// Index into `backends`.
    pub backend_id: u32,
    /// Flags of the backend.
    pub backend_flags: u32,
    /// Port of the backend.
    pub backend_port: Port,
    /// Zero.
    pub pad: u16,
    /// The client's identity.
    pub identity: u32,
    /// What was taken of the service's limits.
    pub counted: u32,
    /// 1 if the backend is reached without translation.
    pub direct: u32,
    /// Kind and reason of the event to tell, in its halves; 0 for none.
    pub news: u32,
}

/// As the map has it: words, since the types above are nothing for its BTF.
pub type Words = [u64; size_of::<Scratch>().div_ceil(8)];

impl Scratch {
    /// The row of a hook.
    #[inline(always)]
    pub fn of(hook: u32) -> Option<*mut Self> {
        Some(maps::flow_scratch.get_ptr_mut(hook)?.cast())
    }
}
