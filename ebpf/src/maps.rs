// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Every map: what it holds, who writes it, who reads it. All but `effects` and `flow_scratch` are pinned, so that they outlive the agent.
//!
//! The static names are in lower case because they are the names of the maps in the kernel, in bpffs and in metrics.
//! Invariant: a map is written by the agent or by the programs, never by both (`flows` and `affinity`, which the
//! agent empties on request, excepted).
#![expect(non_upper_case_globals, reason = "the symbol is the kernel's name of the map")]

use aya_ebpf::{
    Global,
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps::{
        Array, ArrayOfMaps, HashMap, LpmTrie, LruHashMap, PerCpuArray, Queue, RingBuf, SkStorage, SockHash,
    },
    macros::btf_map,
};
use nodemesh_abi::{
    AccessRecord, AccessWord, AffinityKey, AffinityValue, Backend, BackendState, CgroupEntry, ClientRules,
    Connection, Effects, Endpoint, EndpointKey, Event, EventKey, EventTally, FlowCount, FlowEvent, FlowKey,
    FlowService, FlowSettings, FlowValue, Held, IdentityAddr, InternalError, Ip16, NumberKey, Rules, Service,
    ServiceKey, ServiceState, Settings, Slot, SockOffsets, Source, Streams, TableState, Track, TrackState,
    Traffic,
    flow::IndexSet,
    limits,
    service::TIERS,
    shortcut::{End, Offer, OfferKey, Route, RouteCount},
    turn::{Counting, Turn},
};

use crate::flow::{Hook, ScratchWords};

/// Virtual address to service. Agent writes; `connect`, `sendmsg` read. Sized by the number of service ports.
#[btf_map]
pub static services: HashMap<ServiceKey, Service, { limits::SERVICES as usize }> = HashMap::new();

/// Template of a slot table: inner maps differ in length, which `BPF_F_INNER_MAP` permits (Linux 5.10).
pub type SlotTable = Array<Slot, 1, { BPF_F_INNER_MAP as usize }>;

/// Service id to slot table. Agent swaps whole tables; picks read.
#[btf_map]
pub static slot_tables: ArrayOfMaps<SlotTable, { limits::SERVICES as usize }> = ArrayOfMaps::new();

/// The same for further tiers, see [`nodemesh_abi::service::tier_table`].
#[btf_map]
pub static tier_tables: ArrayOfMaps<SlotTable, { limits::SERVICES as usize * TIERS as usize }> =
    ArrayOfMaps::new();

/// Service id to counters. Picks write; agent reads.
#[btf_map]
pub static service_states: Array<ServiceState, { limits::SERVICES as usize }> = Array::new();

/// Backend id to address and weight. Agent writes; picks read.
#[btf_map]
pub static backends: Array<Backend, { limits::BACKENDS as usize }> = Array::new();

/// Backend id to live state. Programs write; picks and the agent read.
#[btf_map]
pub static backend_states: Array<BackendState, { limits::BACKENDS as usize }> = Array::new();

/// Socket to its record. Programs write; the iterators read. Bounded by the number of sockets and `connection_limit`.
#[btf_map]
pub static connections: SkStorage<Connection> = SkStorage::new();

/// How many records there are. Programs write; agent reads.
#[btf_map]
pub static conn_table: Array<TableState, 1> = Array::new();

/// Address of a backend to what it is: tells the sockets that local model servers accept. Agent writes; `set_state` reads.
#[btf_map]
pub static endpoints: HashMap<EndpointKey, Endpoint, { limits::ENDPOINTS as usize }> = HashMap::new();

/// Backend and vantage to what the meter counted. Programs write; agent reads.
#[btf_map]
pub static traffic: Array<Traffic, { limits::TRAFFIC_PAIRS as usize * 2 }> = Array::new();

/// Socket to the HTTP/2 streams in plaintext that are open on it. Programs write and read.
#[btf_map]
pub static streams: SkStorage<Streams> = SkStorage::new();

/// Finished requests and connections, while the access log is on. Programs write; agent reads.
#[btf_map]
pub static access: RingBuf<AccessRecord, { limits::ACCESS_BYTES as usize }> = RingBuf::new();

/// What one step of a meter changes, while its lock is held. It lies in a map because the verifier, which follows each
/// combination of constants on the stack on its own, does not follow what is in maps. Programs write and read.
#[btf_map]
pub static effects: PerCpuArray<[u64; size_of::<Effects>().div_ceil(8)], 1> = PerCpuArray::new();

/// Unconnected UDP flows, both directions. `sendmsg` writes; `recvmsg` reads.
#[btf_map]
pub static flows: LruHashMap<FlowKey, FlowValue, { limits::FLOWS as usize }> = LruHashMap::new();

/// Client and service to the backend of the client's last connection. Picks write and read.
#[btf_map]
pub static affinity: LruHashMap<AffinityKey, AffinityValue, { limits::AFFINITY as usize }> =
    LruHashMap::new();

/// Address of a client, by its longest prefix, to its identity. Agent writes; `ingress` reads.
#[btf_map]
pub static identities: LpmTrie<IdentityAddr, u32, { limits::IDENTITIES as usize }> = LpmTrie::new();

/// Template of a policy's table, see [`SlotTable`].
pub type PolicyTable = Array<AccessWord, 1, { BPF_F_INNER_MAP as usize }>;

/// Policy to what it says about each identity. Agent swaps whole tables; `connect`, `sendmsg`, `ingress` read.
#[btf_map]
pub static policies: ArrayOfMaps<PolicyTable, { limits::POLICIES as usize }> = ArrayOfMaps::new();

/// Number of a service to its limits and when its backends are unfit. Agent writes; programs read.
#[btf_map]
pub static rules: Array<Rules, { limits::SERVICES as usize }> = Array::new();

/// Number of a service to what its clients hold together. Programs write; agent reads.
#[btf_map]
pub static rule_states: Array<Held, { limits::SERVICES as usize }> = Array::new();

/// Service and client identity to what the client holds. Programs write; agent removes what belongs to neither any more.
#[btf_map]
pub static clients: HashMap<ClientRules, Held, { limits::CLIENTS as usize }> = HashMap::new();

/// Names to numbers. The agent's memory of what the numbers above mean; no program reads it.
#[btf_map]
pub static numbers: HashMap<NumberKey, u32, { limits::NUMBERS as usize }> = HashMap::new();

/// What is refused over and over, to how often that was not told yet. Programs write; agent takes out what has come to an end.
#[btf_map]
pub static event_tallies: HashMap<EventKey, EventTally, { limits::EVENT_TALLIES as usize }> = HashMap::new();

/// Decisions. Programs write; agent reads.
#[btf_map]
pub static events: RingBuf<Event, { limits::EVENT_BYTES as usize }> = RingBuf::new();

/// Address on the packet path to service. Agent writes; `flow_ingress` reads.
#[btf_map]
pub static flow_services: HashMap<ServiceKey, FlowService, { limits::SERVICES as usize }> = HashMap::new();

/// Service id to the packet path's Maglev table. Agent swaps whole tables; `flow_ingress` reads.
#[btf_map]
pub static flow_tables: ArrayOfMaps<SlotTable, { limits::SERVICES as usize }> = ArrayOfMaps::new();

/// How the packet path is set up. Agent writes; its programs read.
#[btf_map]
pub static flow_settings: Array<FlowSettings, 1> = Array::new();

/// What became of packets and flows. Programs write; agent reads.
#[btf_map]
pub static flow_counts: PerCpuArray<FlowCount, { FlowEvent::COUNT }> = PerCpuArray::new();

/// What is known of the packet in hand, for each hook: beside the stack for the reason that `effects` is. Programs write and read.
#[btf_map]
pub static flow_scratch: PerCpuArray<ScratchWords, { Hook::COUNT }> = PerCpuArray::new();

/// Row to flow of the packet path. Programs write; agent reads what it maps into its memory.
#[btf_map]
pub static tracks: Array<Track, { limits::TRACKS as usize + 1 }, { BPF_F_MMAPABLE as usize }> = Array::new();

/// Both tuples of each flow to its row. Programs write and read.
#[btf_map]
pub static track_index: Array<
    IndexSet,
    { limits::index_sets(limits::TRACKS) as usize },
    { BPF_F_MMAPABLE as usize },
> = Array::new();

/// Rows that are free again, the longest free first, so that a row rests before it is another flow's. Programs write and read.
#[btf_map]
pub static track_free: Queue<u32, { limits::TRACKS as usize }> = Queue::new();

/// How full `tracks` is. Programs write; agent reads.
#[btf_map]
pub static track_state: Array<TrackState, 1> = Array::new();

/// Client to the flows that it opened. Programs write; agent reads.
#[btf_map]
pub static track_sources: LruHashMap<Ip16, Source, { limits::TRACK_SOURCES as usize }> = LruHashMap::new();

/// Cgroup id to workload or exclusion. Agent writes; picks read.
#[btf_map]
pub static cgroups: HashMap<u64, CgroupEntry, { limits::CGROUPS as usize }> = HashMap::new();

/// The agent's run-time settings. Agent writes; every program reads.
#[btf_map]
pub static settings: Array<Settings, 1> = Array::new();

/// Internal errors. Programs write; agent reads.
#[btf_map]
pub static errors: PerCpuArray<u64, { InternalError::COUNT }> = PerCpuArray::new();

/// Cookie to socket, of those between which messages take the shortcut. `sock_ops` and the agent take out; `sock_ops` and `rejoin` put in.
#[btf_map]
pub static short_socks: SockHash<u64, { limits::SHORT_ENDS as usize }> = SockHash::new();

/// Cookie of such a socket to what its peer is to know. Programs write; the agent marks those that shall leave.
#[btf_map]
pub static short_ends: HashMap<u64, End, { limits::SHORT_ENDS as usize }, { BPF_F_NO_PREALLOC as usize }> =
    HashMap::new();

/// Connections of clients that would take the shortcut, being established or not paired yet. `sock_ops` and `rejoin` write and read.
#[btf_map]
pub static short_offers: LruHashMap<OfferKey, Offer, { limits::SHORT_OFFERS as usize }> = LruHashMap::new();

/// What became of messages of such sockets. Programs write; agent reads.
#[btf_map]
pub static short_counts: PerCpuArray<RouteCount, { Route::COUNT }> = PerCpuArray::new();

/// Who counted the latest event of a tracepoint, while a switch of programs is announced. Programs write and read.
#[btf_map]
pub static turns: PerCpuArray<Turn, { Counting::COUNT }> = PerCpuArray::new();

/// Epoch in which the programs at tracepoints are in force. Set by the loader.
#[unsafe(no_mangle)]
pub static EPOCH: Global<u32> = Global::new(0);

/// Bytes of a record of another version that mean the same in this one. Set by the loader.
#[unsafe(no_mangle)]
pub static CARRIED_BYTES: Global<u32> = Global::new(size_of::<Connection>() as u32);
/// Whether the kernel has `bpf_set_retval` (Linux 5.18): 1 or 0, set by the loader. The verifier knows the number, so it never sees a call of
/// a helper that the kernel has not.
#[unsafe(no_mangle)]
pub static HAS_SET_RETVAL: Global<u32> = Global::new(1);

/// Where the fields of `struct sock` are on the running kernel. Set by the loader.
#[unsafe(no_mangle)]
pub static SOCK_OFFSETS: Global<SockOffsets> = Global::new(SockOffsets {
    err: 0,
    family: 0,
    num: 0,
    rcv_saddr: 0,
    v6_rcv_saddr: 0,
    dport: 0,
    daddr: 0,
    v6_daddr: 0,
    state: 0,
    flags: 0,
    lingertime: 0,
    write_seq: 0,
    rcv_nxt: 0,
    copied_seq: 0,
    srtt_us: 0,
    total_retrans: 0,
    protocol: 0,
    socket_sk: 0,
    rcvbuf: 0,
    rcvlowat: 0,
    cgroup: 0,
    cgroup_level: 0,
    cgroup_ancestors: 0,
    cgroup_node: 0,
    node_id: 0,
    ulp: 0,
    sk_socket: 0,
    snd_una: 0,
    bytes_acked: 0,
    bytes_received: 0,
    user_data: 0,
});
