// SPDX-License-Identifier: Apache-2.0
//! What the bed is made of: the object loaded with small maps, and the devices, routes and neighbours of its namespace.

use std::{io::ErrorKind, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, SchedClassifier, Xdp},
};
use nodemesh_abi::{
    limits,
    names::{map, program},
};

use super::family::Family;

/// Loads the programs of the packet path, with room for `rows` flows.
pub(super) fn load(object: &Path, rows: u32) -> Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for name in [
        map::SERVICES,
        map::SLOT_TABLES,
        map::SERVICE_STATES,
        map::RULES,
        map::RULE_STATES,
    ] {
        loader.map_max_entries(name, 16);
    }
    for name in [map::FLOW_SERVICES, map::FLOW_TABLES, map::TIER_TABLES] {
        loader.map_max_entries(name, 64);
    }
    for name in [
        map::BACKENDS,
        map::BACKEND_STATES,
        map::ENDPOINTS,
        map::TRAFFIC,
        map::NUMBERS,
    ] {
        loader.map_max_entries(name, 64);
    }
    loader.map_max_entries(map::TRACKS, rows + 1);
    loader.map_max_entries(map::TRACK_INDEX, limits::index_sets(rows));
    loader.map_max_entries(map::TRACK_FREE, rows);
    let mut ebpf = loader
        .load_file(object)
        .with_context(|| object.display().to_string())?;
    for name in [program::FLOW_INGRESS, program::FLOW_EGRESS, program::FLOW_SWEEP] {
        let program: &mut SchedClassifier = ebpf.program_mut(name).context(name)?.try_into()?;
        retry(|| program.load()).with_context(|| format!("load {name}"))?;
    }
    let program: &mut Xdp = ebpf
        .program_mut(program::FLOW_XDP)
        .context("flow_xdp")?
        .try_into()?;
    retry(|| program.load()).context("load flow_xdp")?;
    Ok(ebpf)
}

/// The verifier gives up with EAGAIN when a signal waits for the thread, as bpf(2) says of `BPF_PROG_LOAD`.
fn retry(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const TRIES: usize = 5;
    let is_interrupted = |result: &Result<(), ProgramError>| matches!(result, Err(ProgramError::LoadError { io_error, .. }) if io_error.kind() == ErrorKind::WouldBlock);
    let mut result = load();
    for _ in 1..TRIES {
        if !is_interrupted(&result) {
            break;
        }
        result = load();
    }
    result
}

/// Lines of `ip -batch` that configure the namespace.
pub(super) fn topology() -> Vec<String> {
    let mut lines: Vec<String> = [
        "link add up0 address 02:00:00:00:00:01 type veth peer name up1",
        "link add pod0 type veth peer name pod1",
        "link set up0 up",
        "link set up1 up",
        "link set pod0 up",
        "link set pod1 up",
        "addr add 10.20.0.1/24 dev up0",
        "addr add fd20::1/64 dev up0 nodad",
        "addr add 10.30.0.1/24 dev pod0",
        "addr add fd30::1/64 dev pod0 nodad",
    ]
    .map(str::to_owned)
    .to_vec();
    for (network, host, mac) in [
        (20, 2, "06:00:00:00:00:02"),
        (20, 11, "06:00:00:00:00:11"),
        (20, 12, "06:00:00:00:00:12"),
        (20, 77, "06:00:00:00:00:77"),
    ] {
        for family in Family::BOTH {
            lines.push(format!(
                "neigh add {} lladdr {mac} dev up0 nud permanent",
                family.at(network, host)
            ));
        }
    }
    for family in Family::BOTH {
        lines.push(format!(
            "route add {} dev up0 mtu lock {NARROW}",
            family.at(20, 13)
        ));
        lines.push(format!("route add unreachable {}", family.at(20, 14)));
        lines.push(format!(
            "neigh add {} lladdr 06:00:00:00:00:05 dev pod0 nud permanent",
            family.at(30, 5)
        ));
    }
    lines
}

/// MTU of the way to the remote backend .13.
pub const NARROW: usize = 1_280;

/// Lets the namespace forward packets.
pub(super) fn forward() -> Result<()> {
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").context("turn on forwarding")?;
    std::fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1").context("turn on forwarding")
}
