// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Capacities: one constant per map, and the bounds that validation enforces. Used by `ebpf`, `model` and the agent.
//!
//! Invariant: a map's size in the object file is the default here; the agent may set another one at load.

/// Default capacity of `services` and of the arrays indexed by service id.
pub const SERVICES: u32 = 16_384;
/// Default capacity of `backends` and `backend_states`: 256 bytes each, 32 MiB together.
pub const BACKENDS: u32 = 131_072;
/// Capacity of `cgroups`.
pub const CGROUPS: u32 = 8_192;
/// Capacity of `affinity`.
pub const AFFINITY: u32 = 65_536;
/// Capacity of `flows`; a flow takes two rows.
pub const FLOWS: u32 = 65_536;

/// Default number of pairs of rows in `traffic`: a pair takes 2.5 KiB, all 5 MiB.
pub const TRAFFIC_PAIRS: u32 = 2_048;
/// Capacity of `endpoints`.
pub const ENDPOINTS: u32 = BACKENDS;
/// Capacity of `identities`.
pub const IDENTITIES: u32 = 65_536;
/// Most identities, the unknown one included.
pub const MAX_IDENTITIES: u32 = 65_536;
/// Capacity of `numbers`.
pub const NUMBERS: u32 = MAX_IDENTITIES + MAX_SERVICES as u32;
/// Capacity of `policies`.
pub const POLICIES: u32 = 4_096;
/// Capacity of `clients`.
pub const CLIENTS: u32 = 65_536;
/// Default number of flows of the packet path; row 0 of `tracks` is not used.
pub const TRACKS: u32 = 65_536;
/// Sets of `track_index` for `rows` flows: their two tuples each fill a set of seven to less than a third, so that few sets are ever full.
pub const fn index_sets(rows: u32) -> u32 {
    if rows < 8 { 8 } else { rows }
}
/// Capacity of `track_sources`.
pub const TRACK_SOURCES: u32 = 4_096;
/// Rows that one run of `flow_sweep` looks at.
pub const SWEEP_ROWS: u32 = 64;
/// Capacity of `event_tallies`: clients and services that are refused within a few seconds.
pub const EVENT_TALLIES: u32 = 16_384;
/// Bytes of the ring buffer `events`: room for 2,700 records.
pub const EVENT_BYTES: u32 = 1 << 18;
/// Bytes of the ring buffer `access`: room for 5,000 records.
pub const ACCESS_BYTES: u32 = 1 << 20;

/// Capacity of `short_socks` and of `short_ends`.
pub const SHORT_ENDS: u32 = 65_536;
/// Capacity of `short_offers`: connections that are being established.
pub const SHORT_OFFERS: u32 = 8_192;

/// Most backends that one configuration may hold.
pub const MAX_BACKENDS: usize = 1_000_000;
/// Most service ports that one configuration may hold.
pub const MAX_SERVICES: usize = 65_536;
/// Largest weight of a backend.
pub const MAX_WEIGHT: u32 = 65_535;
/// Deepest cgroup, counted from the root, that can be excluded or mapped to a workload.
pub const MAX_CGROUP_DEPTH: u32 = 31;
