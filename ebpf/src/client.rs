// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Who calls: whether the caller is exempt, and its key. Asked only after a service was found.
//!
//! Invariant: with nothing configured (`cgroup_depths` 0) no cgroup is looked up.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{
        bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie,
    },
};
use nodemesh_abi::{
    CgroupEntry, ClientKey, ClientKeySource, Ip16, Settings, limits::MAX_CGROUP_DEPTH, policy::UNKNOWN,
};

use crate::{maps, sock_addr::SockAddr};

/// The caller of a hook.
pub struct Client {
    /// Its cgroup.
    pub cgroup: u64,
    /// Its process, in the initial pid namespace.
    pub tgid: u32,
    /// Hash of its workload's name; 0 if unknown.
    pub workload: u64,
    /// Its identity.
    pub identity: u32,
    /// Its workload's address; unspecified if unknown.
    pub addr: Ip16,
}

impl Client {
    /// The caller, or `None` if its sockets are left alone (the agent itself, an excluded cgroup).
    #[inline(always)]
    pub fn identify(socket: &SockAddr<'_>, settings: &Settings) -> Option<Self> {
        let tgid = socket.ctx.tgid();
        if tgid == settings.agent_tgid {
            return None;
        }
        // SAFETY: the helper takes no pointer.
        let cgroup = unsafe { bpf_get_current_cgroup_id() };
        let mut client = Self {
            cgroup,
            tgid,
            workload: 0,
            identity: UNKNOWN,
            addr: Ip16::UNSPECIFIED,
        };
        if settings.cgroup_depths == 0 || client.adopt_entries(settings.cgroup_depths) {
            return Some(client);
        }
        None
    }

    /// Applies the entries of the caller's cgroup and its ancestors, deepest last; false if one excludes it.
    #[inline(always)]
    fn adopt_entries(&mut self, depths: u32) -> bool {
        for depth in 0..=MAX_CGROUP_DEPTH {
            if depths & (1 << depth) == 0 {
                continue;
            }
            if let Some(entry) = ancestor_entry(depth) {
                if entry.excluded & CgroupEntry::ALONE != 0 {
                    return false;
                }
                self.workload = entry.workload;
                self.identity = entry.identity;
                self.addr = entry.addr;
            }
        }
        true
    }

    /// The key that stands for this client.
    #[inline(always)]
    pub fn key(&self, socket: &SockAddr<'_>, source: u8) -> ClientKey {
        if source == ClientKeySource::Address as u8 {
            let bound = socket.bound_addr();
            if !bound.is_unspecified() {
                return ClientKey::address(bound);
            }
            if !self.addr.is_unspecified() {
                return ClientKey::address(self.addr);
            }
            // SAFETY: the helper takes the hook's own context.
            return ClientKey::netns(unsafe { bpf_get_netns_cookie(socket.ctx.as_ptr()) });
        }
        if self.workload != 0 {
            ClientKey::workload(self.workload)
        } else {
            ClientKey::cgroup(self.cgroup)
        }
    }
}

/// What is configured for the caller's ancestor at `depth`.
#[inline(always)]
fn ancestor_entry(depth: u32) -> Option<CgroupEntry> {
    // SAFETY: the helper takes no pointer; it gives 0, which is no cgroup's id, where the caller is less deep.
    let id = unsafe { bpf_get_current_ancestor_cgroup_id(depth.cast_signed()) };
    // SAFETY: copied at once; a concurrent update by the agent replaces the element, it does not write into it.
    unsafe { maps::cgroups.get(id) }.copied()
}
