// SPDX-License-Identifier: Apache-2.0
//! The commands of `bpf(2)` about programs at network interfaces. Called by `link`.
//!
//! Invariant: every pointer handed to the kernel is to memory that outlives the call.

use std::{
    io,
    os::fd::{BorrowedFd, OwnedFd},
};

use aya_obj::generated::{bpf_attach_type, bpf_cmd};

use super::{MAX_EFFECTIVE, bpf, bpf_fd, raw, zeroed};

/// Attaches a program to a hook of the interface with this number, at a tcx hook behind those of others (`BPF_LINK_CREATE`). `flags` are
/// those of the hook.
pub fn link_program(
    program: BorrowedFd<'_>,
    index: u32,
    attach_type: bpf_attach_type,
    flags: u32,
) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.link_create.__bindgen_anon_1.prog_fd = raw(program);
    attr.link_create.__bindgen_anon_2.target_ifindex = index;
    attr.link_create.attach_type = attach_type as u32;
    attr.link_create.flags = flags;
    bpf_fd(bpf_cmd::BPF_LINK_CREATE, &mut attr)
}

/// Ids of the programs that run at `attach_type` (a tcx hook) of the interface with this number.
pub fn programs(index: u32, attach_type: bpf_attach_type) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MAX_EFFECTIVE];
    let mut attr = zeroed();
    attr.query.__bindgen_anon_1.target_ifindex = index;
    attr.query.attach_type = attach_type as u32;
    attr.query.prog_ids = ids.as_mut_ptr() as u64;
    attr.query.__bindgen_anon_2.count = MAX_EFFECTIVE as u32;
    bpf(bpf_cmd::BPF_PROG_QUERY, &mut attr)?;
    // SAFETY: after a successful query this member of the union holds the count.
    ids.truncate(unsafe { attr.query.__bindgen_anon_2.count } as usize);
    Ok(ids)
}
