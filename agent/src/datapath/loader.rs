// SPDX-License-Identifier: Apache-2.0
//! Opens the object, creates or adopts the pinned maps and loads the programs. Called once, by `app`.
//!
//! Invariant: a map whose pin has another shape than this object's is never adopted, and a failed load leaves what is
//! attached as it is.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
};

use aya::{
    Btf, Ebpf, EbpfLoader,
    maps::{MapData, MapError},
    programs::{ProgramError, RawTracePointRunOptions, TestRun as _},
};
use aya_obj::btf::BtfKind;
use nodemesh_abi::{
    MeterPath, SockOffsets, limits,
    names::{self, map, program},
    service::TIERS,
};
use zerocopy::IntoBytes as _;

use super::{
    features::Fallbacks,
    kept,
    link::Running,
    maps::{MapOpError, tables},
    offsets::{OffsetError, sock_offsets},
    pins::PinRoot,
    programs::{Use, byte_event_tracepoints},
    shapes::{self, SHAPES},
    verify::{ProgramCost, load_programs},
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
    /// A map of tables could not be created.
    #[error("{0}; a map that cannot be created often means missing CAP_BPF or memory")]
    Tables(#[from] MapOpError),
    /// A map could not be opened.
    #[error("open the map {name}: {cause}")]
    Map {
        /// The map.
        name: &'static str,
        /// Why not.
        cause: MapError,
    },
    /// What a former agent left could not be looked at.
    #[error("look at what runs below {path}: {cause}")]
    Former {
        /// The folder for pins.
        path: std::path::PathBuf,
        /// Why not.
        cause: io::Error,
    },
    /// A tracepoint that was asked for does not exist.
    #[error(
        "this kernel has no tracepoint {0}, which Linux 6.3 introduced; run with --meter-path packet or auto"
    )]
    NoTracepoint(&'static str),
    /// The meter was asked for where it cannot be.
    #[error(
        "this kernel has no helper bpf_loop, which Linux 5.17 introduced, so that requests cannot be read in packets; run with --meter-path auto or off"
    )]
    NoLoop,
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
    /// The programs by name, those that a former agent of this build attached included.
    pub running: BTreeMap<&'static str, Running>,
    /// Whether the programs that are attached are of this very build, and stay.
    pub is_kept: bool,
    /// What loading each program cost.
    pub costs: BTreeMap<&'static str, ProgramCost>,
    /// Where the meter's byte events come from.
    pub meter_path: MeterPath,
    /// Stands for these programs: programs of another build, or loaded for another kernel, have another number.
    pub build: u64,
    /// [`nodemesh_abi::Settings::epoch`]: that of the programs which are in force, and that of these.
    pub epochs: [u32; 2],
}

/// What is to be loaded, beside what the table of programs says.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Sizes of maps that are to be created.
    pub capacities: Capacities,
    /// Where byte events come from; the best that the kernel has by default.
    pub meter_path: Option<MeterPath>,
    /// What this kernel does without.
    pub fallbacks: Fallbacks,
    /// The program that copies records, so many bytes of each.
    pub carried_bytes: Option<u32>,
    /// The programs of the packet path, which need Linux 6.6.
    pub has_packet_path: bool,
}

/// Loads everything, with the maps pinned below `pins`. Programs that a former agent of this very build attached are not loaded again.
pub fn load(pins: &PinRoot, wanted: Wanted) -> Result<Loaded, LoadError> {
    let btf = Btf::from_sys_fs().map_err(LoadError::Btf)?;
    let meter_path = choose_meter_path(&btf, wanted.meter_path, wanted.fallbacks)?;
    let offsets = sock_offsets()?;
    let build = build_number(&offsets, wanted.fallbacks);
    let look = |cause| LoadError::Former {
        path: pins.path().into(),
        cause,
    };
    kept::restore_maps(pins).map_err(look)?;
    let mut running = if pins.is_of(build) {
        kept::programs(pins).map_err(look)?
    } else {
        BTreeMap::new()
    };
    let is_kept = !running.is_empty();
    let in_force = kept::epoch(pins).map_err(look)?;
    let epoch = if is_kept {
        in_force
    } else {
        in_force.wrapping_add(1)
    };
    let globals = Globals {
        offsets,
        epoch,
        carried_bytes: wanted.carried_bytes,
        fallbacks: wanted.fallbacks,
    };
    let mut ebpf = open_object(&btf, &globals, pins, wanted.capacities)?;
    shapes::check(pins)?;
    warn_of_other_capacities(pins, wanted.capacities);
    let using = Use {
        meter_path,
        carries: wanted.carried_bytes.is_some(),
        has_packet_path: wanted.has_packet_path,
    };
    let costs = load_programs(&mut ebpf, &btf, using, &mut running)?;
    Ok(Loaded {
        ebpf,
        running,
        is_kept,
        costs,
        meter_path,
        build,
        epochs: [in_force, epoch],
    })
}

/// What is placed in the programs' read-only data.
struct Globals {
    offsets: SockOffsets,
    epoch: u32,
    carried_bytes: Option<u32>,
    fallbacks: Fallbacks,
}

/// The path asked for, if this kernel has it.
fn choose_meter_path(
    btf: &Btf,
    asked: Option<MeterPath>,
    fallbacks: Fallbacks,
) -> Result<MeterPath, LoadError> {
    if !fallbacks.can_loop {
        return match asked {
            None | Some(MeterPath::Off) => Ok(MeterPath::Off),
            Some(_) => Err(LoadError::NoLoop),
        };
    }
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

fn build_number(offsets: &SockOffsets, fallbacks: Fallbacks) -> u64 {
    let mut hasher = DefaultHasher::new();
    OBJECT.hash(&mut hasher);
    offsets.as_bytes().hash(&mut hasher);
    fallbacks.hash(&mut hasher);
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
    globals: &Globals,
    pins: &PinRoot,
    capacities: Capacities,
) -> Result<Ebpf, LoadError> {
    let has_set_retval = u32::from(globals.fallbacks.can_set_retval);
    let mut loader = EbpfLoader::new();
    loader
        .btf(Some(btf))
        .override_global(names::SOCK_OFFSETS, &globals.offsets, true)
        .override_global(names::EPOCH, &globals.epoch, true)
        .override_global(names::HAS_SET_RETVAL, &has_set_retval, true);
    if let Some(bytes) = &globals.carried_bytes {
        loader.override_global(names::CARRIED_BYTES, bytes, true);
    }
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
    tables::create_missing(pins, capacities.services)?;
    for shape in SHAPES {
        loader.map_pin_path(shape.name, pins.map(shape.name));
    }
    loader.load(OBJECT).map_err(LoadError::Object)
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
