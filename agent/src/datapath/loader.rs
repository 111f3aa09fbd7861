// SPDX-License-Identifier: Apache-2.0
//! Opens the object, creates or adopts the pinned maps and loads the programs. Called once, by `app`.
//!
//! Invariant: a map whose pin has another shape than this object's is never adopted, and a failed load leaves what is
//! attached as it is.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, MapError},
    programs::{Program, ProgramError, RawTracePointRunOptions, TestRun as _},
};
use aya_obj::btf::BtfKind;
use nodemesh_abi::{
    AffinityKey, AffinityValue, Backend, BackendState, CgroupEntry, ClientRules, Connection, Endpoint,
    EndpointKey, FlowCount, FlowKey, FlowService, FlowSettings, FlowValue, Held, IdentityAddr, Ip16,
    MeterPath, NumberKey, Rules, Service, ServiceKey, ServiceState, Settings, SockOffsets, Source, Streams,
    TableState, Track, TrackState, Traffic,
    flow::IndexSet,
    limits,
    names::{self, map, program},
    service::TIERS,
};
use zerocopy::IntoBytes as _;

use super::{
    offsets::{OffsetError, sock_offsets},
    pins::PinRoot,
    programs::{Hook, PROGRAMS, byte_event_tracepoints},
};

/// Capacities that the operator may choose.
#[derive(Clone, Copy, Debug)]
pub struct Capacities {
    /// Service ports.
    pub services: u32,
    /// Backends.
    pub backends: u32,
    /// Backends with rows of their own in `traffic`.
    pub metered_backends: u32,
    /// Flows of the packet path.
    pub flows: u32,
}

impl Default for Capacities {
    fn default() -> Self {
        Self {
            services: limits::SERVICES,
            backends: limits::BACKENDS,
            metered_backends: limits::TRAFFIC_PAIRS - 1,
            flows: limits::TRACKS,
        }
    }
}

/// Why the programs could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The running kernel lacks something the programs read.
    #[error(transparent)]
    Offsets(#[from] OffsetError),
    /// The kernel's BTF cannot be used.
    #[error("read the kernel's BTF: {0}")]
    Btf(aya::BtfError),
    /// The object or a map was refused.
    #[error(
        "open the object and its maps: {0}; a map that cannot be created often means missing CAP_BPF or memory"
    )]
    Object(aya::EbpfError),
    /// A pin holds a map of another shape.
    #[error(
        "the pinned map {name} has keys of {key} and values of {value} bytes where this agent needs {need_key} and \
         {need_value}; it is from another build: run `nodemesh cleanup` while no agent runs"
    )]
    Shape {
        /// The map.
        name: &'static str,
        /// Key size of the pin.
        key: u32,
        /// Value size of the pin.
        value: u32,
        /// Key size of this build.
        need_key: u32,
        /// Value size of this build.
        need_value: u32,
    },
    /// A map could not be opened.
    #[error("open the map {name}: {cause}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why not.
        cause: MapError,
    },
    /// A tracepoint that was asked for does not exist.
    #[error(
        "this kernel has no tracepoint {0}, which Linux 6.3 introduced; run with --meter-path packet or auto"
    )]
    NoTracepoint(&'static str),
    /// The object has no such program.
    #[error("the object has no program {0}; it is not from this source tree: run `cargo xtask build`")]
    NoProgram(&'static str),
    /// The verifier or the kernel refused a program.
    #[error("load the program {name} on kernel {kernel}: {reason}")]
    Program {
        /// The program.
        name: &'static str,
        /// Release of the running kernel.
        kernel: String,
        /// The error with the verifier's last lines.
        reason: String,
    },
}

/// The compiled programs, embedded so that one binary is all that a node needs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/nodemesh-ebpf.o"));

/// The programs and maps in the kernel.
#[derive(Debug)]
pub struct Loaded {
    /// aya's handle on them.
    pub ebpf: Ebpf,
    /// What loading each program cost.
    pub costs: BTreeMap<&'static str, ProgramCost>,
    /// Where the meter's byte events come from.
    pub meter_path: MeterPath,
    /// Whether the programs of the packet path are loaded.
    pub has_packet_path: bool,
    /// Stands for these programs: programs of another build, or loaded for another kernel, have another number.
    pub build: u64,
}

/// What the kernel says of a loaded program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramCost {
    /// Instructions that the verifier walked through, all paths together.
    pub verified_instructions: u32,
    /// Instructions of the program.
    pub instructions: u32,
    /// Time that loading took, verification and JIT included.
    pub load_time: std::time::Duration,
}

/// Loads everything, with the maps pinned below `pins`; byte events come from `meter_path`, by default from the best that the
/// kernel has. The programs of the packet path, which need Linux 6.6, are left out without one.
pub fn load(
    pins: &PinRoot,
    capacities: Capacities,
    meter_path: Option<MeterPath>,
    has_packet_path: bool,
) -> Result<Loaded, LoadError> {
    let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
    let meter_path = choose_meter_path(&btf, meter_path)?;
    let offsets = sock_offsets()?;
    let mut ebpf = open_object(&btf, &offsets, pins, capacities)?;
    check_shapes(pins)?;
    warn_of_other_capacities(pins, capacities);
    let costs = load_programs(&mut ebpf, &btf, (meter_path, has_packet_path))?;
    Ok(Loaded {
        ebpf,
        costs,
        meter_path,
        has_packet_path,
        build: build_number(&offsets),
    })
}

/// The path asked for, if this kernel has it.
fn choose_meter_path(btf: &Btf, asked: Option<MeterPath>) -> Result<MeterPath, LoadError> {
    // For each tracepoint there is a type of this name: what the programs attach to.
    let exists = |name: &&str| {
        btf.id_by_type_name_kind(&format!("btf_trace_{name}"), BtfKind::Typedef)
            .is_ok()
    };
    let missing = byte_event_tracepoints().find(|name| !exists(name));
    match (asked, missing) {
        (Some(MeterPath::Tracepoint), Some(name)) => Err(LoadError::NoTracepoint(name)),
        (Some(path), _) => Ok(path),
        (None, Some(_)) => Ok(MeterPath::Packet),
        (None, None) => Ok(MeterPath::Tracepoint),
    }
}

fn build_number(offsets: &SockOffsets) -> u64 {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    offsets.as_bytes().hash(&mut hasher);
    hasher.finish()
}

/// Rows of `traffic`: a pair for each metered backend and the shared one.
fn traffic_rows(metered_backends: u32) -> u32 {
    metered_backends.saturating_add(1).saturating_mul(2)
}

/// Sizes of the maps that hold flows; row 0 of the first stands for none.
fn flow_rows(flows: u32) -> [(&'static str, u32); 3] {
    [
        (map::TRACKS, flows.saturating_add(1)),
        (map::TRACK_INDEX, limits::index_sets(flows)),
        (map::TRACK_FREE, flows),
    ]
}

fn open_object(
    btf: &Btf,
    offsets: &SockOffsets,
    pins: &PinRoot,
    capacities: Capacities,
) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .override_global(names::SOCK_OFFSETS, offsets, true);
    for name in [
        map::SERVICES,
        map::SLOT_TABLES,
        map::SERVICE_STATES,
        map::RULES,
        map::RULE_STATES,
        map::FLOW_SERVICES,
        map::FLOW_TABLES,
    ] {
        loader.map_max_entries(name, capacities.services);
    }
    for name in [map::BACKENDS, map::BACKEND_STATES, map::ENDPOINTS] {
        loader.map_max_entries(name, capacities.backends);
    }
    loader.map_max_entries(map::TIER_TABLES, capacities.services.saturating_mul(TIERS));
    loader.map_max_entries(map::TRAFFIC, traffic_rows(capacities.metered_backends));
    for (name, entries) in flow_rows(capacities.flows) {
        loader.map_max_entries(name, entries);
    }
    for shape in SHAPES {
        loader.map_pin_path(shape.name, pins.map(shape.name));
    }
    for name in [map::LOGS, map::ACCESS, map::EVENTS] {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.load(OBJECT).map_err(LoadError::Object)
}

/// A key of `identities`.
type IdentityPrefix = aya::maps::lpm_trie::Key<IdentityAddr>;

struct Shape {
    name: &'static str,
    key: usize,
    value: usize,
}

const fn shape<K, V>(name: &'static str) -> Shape {
    Shape {
        name,
        key: size_of::<K>(),
        value: size_of::<V>(),
    }
}

/// Key and value sizes of the pinned maps.
const SHAPES: &[Shape] = &[
    shape::<ServiceKey, Service>(map::SERVICES),
    shape::<u32, u32>(map::SLOT_TABLES),
    shape::<u32, u32>(map::TIER_TABLES),
    shape::<u32, ServiceState>(map::SERVICE_STATES),
    shape::<u32, Backend>(map::BACKENDS),
    shape::<u32, BackendState>(map::BACKEND_STATES),
    shape::<u32, Connection>(map::CONNECTIONS),
    shape::<FlowKey, FlowValue>(map::FLOWS),
    shape::<AffinityKey, AffinityValue>(map::AFFINITY),
    shape::<u64, CgroupEntry>(map::CGROUPS),
    shape::<u32, Settings>(map::SETTINGS),
    shape::<u32, u64>(map::ERRORS),
    shape::<EndpointKey, Endpoint>(map::ENDPOINTS),
    shape::<u32, Traffic>(map::TRAFFIC),
    shape::<u32, Streams>(map::STREAMS),
    shape::<u32, TableState>(map::CONN_TABLE),
    shape::<IdentityPrefix, u32>(map::IDENTITIES),
    shape::<u32, u32>(map::POLICIES),
    shape::<u32, Rules>(map::RULES),
    shape::<u32, Held>(map::RULE_STATES),
    shape::<ClientRules, Held>(map::CLIENTS),
    shape::<NumberKey, u32>(map::NUMBERS),
    shape::<ServiceKey, FlowService>(map::FLOW_SERVICES),
    shape::<u32, u32>(map::FLOW_TABLES),
    shape::<u32, FlowSettings>(map::FLOW_SETTINGS),
    shape::<u32, FlowCount>(map::FLOW_COUNTS),
    shape::<u32, Track>(map::TRACKS),
    shape::<u32, IndexSet>(map::TRACK_INDEX),
    shape::<(), u32>(map::TRACK_FREE),
    shape::<u32, TrackState>(map::TRACK_STATE),
    shape::<Ip16, Source>(map::TRACK_SOURCES),
];

/// Names of the pinned maps whose fill is worth knowing.
pub fn map_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

fn check_shapes(pins: &PinRoot) -> Result<(), LoadError> {
    for &Shape { name, key, value } in SHAPES {
        let info = MapData::from_pin(pins.map(name))
            .and_then(|data| data.info())
            .map_err(|cause| LoadError::Map { name, cause })?;
        if (info.key_size() as usize, info.value_size() as usize) != (key, value) {
            return Err(LoadError::Shape {
                name,
                key: info.key_size(),
                value: info.value_size(),
                need_key: key as u32,
                need_value: value as u32,
            });
        }
    }
    Ok(())
}

/// A pinned map keeps the capacity that it was created with.
fn warn_of_other_capacities(pins: &PinRoot, capacities: Capacities) {
    let asked = [
        (map::SERVICES, capacities.services),
        (map::BACKENDS, capacities.backends),
        (map::TRAFFIC, traffic_rows(capacities.metered_backends)),
        (map::TRACKS, capacities.flows.saturating_add(1)),
    ];
    for (name, asked) in asked {
        let pinned = MapData::from_pin(pins.map(name))
            .and_then(|data| data.info())
            .map(|info| info.max_entries());
        if let Ok(capacity) = pinned
            && capacity != asked
        {
            let remedy = "it stays so until `nodemesh cleanup` and a new start";
            tracing::warn!(
                map = name,
                capacity,
                asked,
                "a pinned map has another capacity; {remedy}"
            );
        }
    }
}

fn load_programs(
    ebpf: &mut Ebpf,
    btf: &Btf,
    (meter_path, has_packet_path): (MeterPath, bool),
) -> Result<BTreeMap<&'static str, ProgramCost>, LoadError> {
    let mut costs = BTreeMap::new();
    for spec in PROGRAMS
        .iter()
        .filter(|spec| spec.is_used(meter_path, has_packet_path))
    {
        let program = ebpf
            .program_mut(spec.name)
            .ok_or(LoadError::NoProgram(spec.name))?;
        let started = std::time::Instant::now();
        load_program(program, spec.hook, btf).map_err(|error| refused(spec.name, error))?;
        let load_time = started.elapsed();
        let info = program.info().map_err(|error| refused(spec.name, error))?;
        let cost = ProgramCost {
            verified_instructions: info.verified_instruction_count().unwrap_or_default(),
            instructions: info.size_translated().unwrap_or_default() / 8,
            load_time,
        };
        costs.insert(spec.name, cost);
    }
    Ok(costs)
}

fn load_program(program: &mut Program, hook: Hook, btf: &Btf) -> Result<(), ProgramError> {
    match (program, hook) {
        (Program::CgroupSockAddr(program), Hook::Cgroup(_)) => program.load(),
        (Program::CgroupSock(program), Hook::Cgroup(_)) => program.load(),
        (Program::CgroupSkb(program), Hook::Cgroup(_)) => program.load(),
        (Program::SockOps(program), Hook::Cgroup(_)) => program.load(),
        (Program::BtfTracePoint(program), Hook::Tracepoint(name)) => program.load(name, btf),
        (Program::Iter(program), Hook::Iterator(kind)) => program.load(kind, btf),
        (Program::RawTracePoint(program), Hook::TestRun) => program.load(),
        (Program::SchedClassifier(program), Hook::Tcx(_) | Hook::PacketTestRun) => program.load(),
        (Program::Xdp(program), Hook::Xdp) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn refused(name: &'static str, error: ProgramError) -> LoadError {
    const LAST_LINES: usize = 12;
    let kernel = nix::sys::utsname::uname().map_or_else(
        |_| "unknown".into(),
        |uts| uts.release().to_string_lossy().into_owned(),
    );
    let reason = match error {
        ProgramError::LoadError {
            io_error,
            verifier_log,
        } => {
            let log = verifier_log.to_string();
            let lines: Vec<&str> = log.lines().collect();
            format!(
                "{io_error}; the verifier's last lines:\n{}",
                lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
            )
        }
        other => other.to_string(),
    };
    LoadError::Program { name, kernel, reason }
}

/// Process id of the caller in the initial pid namespace, which is the one that the programs see.
///
/// In a container, `getpid()` gives another number; only the kernel knows this one.
pub fn own_tgid(ebpf: &Ebpf) -> Result<u32, ProgramError> {
    let program: &aya::programs::RawTracePoint = ebpf
        .program(program::WHOAMI)
        .ok_or(ProgramError::UnexpectedProgramType)?
        .try_into()?;
    Ok(program.test_run(RawTracePointRunOptions::new())?.return_value)
}
