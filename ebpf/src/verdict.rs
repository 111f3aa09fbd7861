// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! What a stage decided and how the kernel is told.
//!
//! Invariant: only [`Verdict::Refuse`] stops a call, and only a decision about a mesh service makes one.

use aya_ebpf::helpers::generated::bpf_set_retval;
use nodemesh_abi::Refusal;

use crate::{
    maps,
    sock_addr::{Endpoint, SockAddr},
};

/// Return value of a cgroup program that lets the call go on.
pub const ALLOW: i32 = 1;
/// Return value of a cgroup program that fails the call.
pub const DENY: i32 = 0;

/// The outcome of a `sock_addr` hook.
#[derive(Clone, Copy)]
#[must_use]
pub enum Verdict {
    /// Not for a mesh service, or exempt: as the application asked.
    Pass,
    /// With this address in place of the application's.
    Rewrite(Endpoint),
    /// With the errno of the refusal, where the kernel lets a program choose it, else EPERM; the number is that of a limit, 0 for the
    /// usual one.
    Refuse(Refusal, u32),
}

/// Carries out a verdict and gives the program's return value.
#[inline(always)]
pub fn conclude(socket: &SockAddr<'_>, verdict: Verdict) -> i32 {
    match verdict {
        Verdict::Pass => ALLOW,
        Verdict::Rewrite(endpoint) => {
            socket.rewrite(endpoint);
            ALLOW
        }
        Verdict::Refuse(refusal, excess) => {
            if maps::HAS_SET_RETVAL.load() != 0 {
                // SAFETY: the helper only stores the number for the caller of the hook.
                unsafe { bpf_set_retval(-refusal.errno(excess)) };
            }
            DENY
        }
    }
}
