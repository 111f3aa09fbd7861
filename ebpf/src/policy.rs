// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The access policy: at `connect()` on the client's node, and again when a SYN reaches a backend of this node.
//!
//! Invariant: where a policy is named, a client is let through only if its table says so; an error denies.

use aya_ebpf::btf_maps::lpm_trie::Key;
use nodemesh_abi::{
    Access, AccessWord, EndpointKey, EventKind, IdentityAddr, InternalError, Ip16, Port, policy::UNKNOWN,
};

use crate::{event, maps, place::Call, stats};

/// What `policy` says about `identity`.
#[inline(always)]
fn access(policy: u32, identity: u32) -> Access {
    let Some(table) = maps::policies.get(policy) else {
        stats::internal_error(InternalError::Policy);
        return Access::Deny;
    };
    // An identity beyond the end is newer than the table, and unknown to it.
    let word = table.get(AccessWord::index(identity));
    word.map_or(Access::Deny, |word| word.get(identity))
}

/// Whether the client may connect to the service, which has a policy; it is told of if it may for a trial only.
#[inline(always)]
pub fn admits(call: &Call<'_>) -> bool {
    match access(call.service.policy, call.client.identity) {
        Access::Deny => false,
        Access::Allow | Access::ByAddress => true,
        Access::Audit => {
            event::audited(call);
            true
        }
    }
}

/// Identity of the client at `addr`.
#[inline(always)]
pub fn identity_at(addr: Ip16) -> u32 {
    let key = Key::new(128, IdentityAddr { addr });
    maps::identities.get(&key).copied().unwrap_or(UNKNOWN)
}

/// Whether a SYN from `client` to a listener of this node may go on.
#[inline(always)]
pub fn admits_syn(client: Ip16, addr: Ip16, port: Port) -> bool {
    // SAFETY: copied at once.
    let Some(endpoint) = (unsafe { maps::endpoints.get(EndpointKey::new(addr, port)) }).copied() else {
        return true;
    };
    if endpoint.policy == 0 {
        return true;
    }
    let identity = identity_at(client);
    match access(endpoint.policy, identity) {
        Access::Allow => true,
        Access::Audit => {
            event::syn(EventKind::Audited, client, identity, &endpoint);
            true
        }
        // No address range of the policy has this address.
        Access::Deny | Access::ByAddress => {
            event::syn(EventKind::Dropped, client, identity, &endpoint);
            false
        }
    }
}

/// What `policy` says about the client of a flow, `identity` by its address.
#[inline(always)]
pub fn of_flow(policy: u32, identity: u32) -> Access {
    match access(policy, identity) {
        // No address range of the policy has this address.
        Access::ByAddress => Access::Deny,
        access => access,
    }
}
