// SPDX-License-Identifier: Apache-2.0
//! Other users of maps of sockets on this host: Cilium, OpenTelemetry's eBPF agents and others put sockets into maps of their own, and
//! a socket in two maps runs the program of one of them.
//!
//! Invariant: a map or program of a nodemesh agent is nobody else's, be it of another instance.

use aya::{
    maps::{MapType, loaded_maps},
    programs::loaded_programs,
};
use aya_obj::generated::bpf_prog_type;
use nodemesh_abi::names::{map, program};

/// Maps of sockets and programs for them that are not ours, each in a few words. What cannot be inspected is passed over: it may have
/// ended meanwhile.
pub fn others() -> Vec<String> {
    let maps = loaded_maps().flatten().filter_map(|info| {
        let kind = match info.map_type().ok()? {
            MapType::SockMap => "sockmap",
            MapType::SockHash => "sockhash",
            _ => return None,
        };
        let name = info.name_as_str().unwrap_or_default();
        (name != map::SHORT_SOCKS).then(|| format!("{kind} {name:?} (map {})", info.id()))
    });
    let programs = loaded_programs().flatten().filter_map(|info| {
        let kind = match info.program_type() {
            bpf_prog_type::BPF_PROG_TYPE_SK_MSG => "sk_msg",
            bpf_prog_type::BPF_PROG_TYPE_SK_SKB => "sk_skb",
            _ => return None,
        };
        let name = info.name_as_str().unwrap_or_default();
        (name != program::HAND_OVER).then(|| format!("{kind} {name:?} (program {})", info.id()))
    });
    maps.chain(programs).collect()
}
