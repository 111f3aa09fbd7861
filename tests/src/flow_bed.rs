// SPDX-License-Identifier: Apache-2.0
//! The programs of the packet path, loaded by themselves and run on single frames by `BPF_PROG_TEST_RUN`, in a namespace whose routes and
//! neighbours are known.
//!
//! ```text
//!  client .2 ── up0 (10.20.0.1, fd20::1) ── remote backends .11, .12, an unknown neighbour .99
//!               pod0 (10.30.0.1, fd30::1) ── local backends .5
//! ```
//!
//! Invariant: no packet leaves: what a program would redirect, the kernel only reports.

use std::{
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, Pod,
    maps::{Array, ArrayOfMaps, HashMap, LpmTrie, Map, MapData, PerCpuArray, lpm_trie::Key},
    programs::{Program, TestRun as _, TestRunOptions, Xdp, XdpMode},
};
use nodemesh_abi::{
    Access, AccessWord, Algorithm, Backend, BackendFlags, BackendState, ClientKeySource, FlowCount,
    FlowEvent, FlowMode, FlowService, FlowSettings, IdentityAddr, Ip16, Port, Rules, Service, ServiceKey,
    Slot, Source, Track, TrackState,
    flow::IndexSet,
    limits,
    names::{map, program},
};

mod family;
mod scene;

pub use family::Family;
pub use scene::NARROW;
use scene::{forward, load, topology};

use crate::{
    frame::{Frame, Seen},
    netns::NetNs,
};

/// What a program of tcx says of a packet that goes on.
pub const NEXT: i32 = -1;
/// That ends.
pub const DROP: i32 = 2;
/// That leaves by another interface.
pub const REDIRECT: i32 = 7;
/// What a program of XDP says of a packet that goes on.
pub const XDP_PASS: i32 = 2;
/// That leaves where it came in.
pub const XDP_TX: i32 = 3;

/// Link-layer addresses of the neighbours.
pub const CLIENT_MAC: [u8; 6] = [6, 0, 0, 0, 0, 2];
/// Of the remote backend .11.
pub const REMOTE_MAC: [u8; 6] = [6, 0, 0, 0, 0, 0x11];
/// Of the local backend.
pub const POD_MAC: [u8; 6] = [6, 0, 0, 0, 0, 5];

/// The bed.
pub struct FlowBed {
    /// The object with its maps.
    pub ebpf: Ebpf,
    netns: NetNs,
    up0: u32,
}

/// `BPF_F_INNER_MAP` of `linux/bpf.h`: a table may have another length than its template.
const INNER_MAP: u32 = 1 << 12;
/// Offset of `ifindex` in `struct __sk_buff`.
const SKB_IFINDEX: usize = 40;

/// How many there were in this process.
static BEDS: AtomicU32 = AtomicU32::new(0);

impl FlowBed {
    /// Loads the object that `cargo xtask build` made, with room for `rows` flows.
    pub fn start(rows: u32) -> Result<Self> {
        // <target>/<profile>/deps/<test>
        let test = std::env::current_exe().context("the path of this test")?;
        let target = test.ancestors().nth(3).context("a target directory")?;
        Self::new(&target.join("ebpf/nodemesh-ebpf.o"), rows)
    }

    /// Loads the object at `object`, with room for `rows` flows.
    pub fn new(object: &Path, rows: u32) -> Result<Self> {
        let number = BEDS.fetch_add(1, Ordering::Relaxed);
        let netns = NetNs::create(&format!("nmflow-{}-{number}", std::process::id()))?;
        netns.configure(&topology())?;
        netns.run(forward)??;
        let up0 = netns.run(|| nix::net::if_::if_nametoindex("up0"))??;
        let ebpf = load(object, rows)?;
        let mut bed = Self { ebpf, netns, up0 };
        let mut settings = FlowSettings {
            seed: 0x5eed,
            nat4: Ip16::from(Family::V4.node(0).ip()),
            nat6: Ip16::from(Family::V6.node(0).ip()),
            ..FlowSettings::OFF
        };
        settings.rows = rows;
        settings.sets = limits::index_sets(rows);
        bed.set_settings(&settings)?;
        Ok(bed)
    }

    /// Writes the settings.
    pub fn set_settings(&mut self, settings: &FlowSettings) -> Result<()> {
        self.array::<FlowSettings>(map::FLOW_SETTINGS)?
            .set(0, settings, 0)?;
        Ok(())
    }

    /// The settings.
    pub fn settings(&mut self) -> Result<FlowSettings> {
        Ok(self.array(map::FLOW_SETTINGS)?.get(&0, 0)?)
    }

    /// A map that is an array.
    pub fn array<T: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(Array::try_from(
            self.ebpf.map_mut(name).context(name.to_owned())?,
        )?)
    }

    /// A map that is a hash table.
    pub fn hash<K: Pod, V: Pod>(&mut self, name: &str) -> Result<HashMap<&mut MapData, K, V>> {
        Ok(HashMap::try_from(
            self.ebpf.map_mut(name).context(name.to_owned())?,
        )?)
    }

    /// Writes a backend with id `id` of service 1.
    pub fn backend(&mut self, id: u32, at: SocketAddr, flags: u16) -> Result<()> {
        let row = Backend {
            addr: Ip16::from(at.ip()),
            port: Port::new(at.port()),
            flags: BackendFlags::AVAILABLE | flags,
            weight: 1,
            generation: 1,
            service: 1,
            rules: 1,
            ..Backend::UNUSED
        };
        self.array(map::BACKENDS)?.set(id, row, 0)?;
        Ok(())
    }

    /// Makes (`addr`, `protocol`) a service in `mode` with the backends of these ids, and `policy`.
    pub fn service(&mut self, addr: SocketAddr, protocol: u8, mode: FlowMode, ids: &[u32]) -> Result<()> {
        self.service_with(addr, protocol, mode, ids, |_| {})
    }

    /// The same, with what `change` makes of the row.
    pub fn service_with(
        &mut self,
        addr: SocketAddr,
        protocol: u8,
        mode: FlowMode,
        ids: &[u32],
        change: impl FnOnce(&mut Service),
    ) -> Result<()> {
        let mut row = FlowService {
            service: Service {
                id: 1,
                affinity_timeout_s: 0,
                algorithm: Algorithm::Maglev as u8,
                client_key: ClientKeySource::Address as u8,
                tiers: 0,
                pad: 0,
                rules: 1,
                policy: 0,
            },
            mode: mode as u8,
            pad: [0; 3],
        };
        change(&mut row.service);
        self.slots(map::SLOT_TABLES, row.service.id, ids)?;
        let key = ServiceKey::new(Ip16::from(addr.ip()), Port::new(addr.port()), protocol);
        self.hash(map::FLOW_SERVICES)?.insert(key, row, 0)?;
        Ok(())
    }

    /// Writes a table of certain slots.
    pub fn slots(&mut self, outer: &str, id: u32, ids: &[u32]) -> Result<()> {
        let len = ids.len().max(1) as u32;
        let mut table: Array<MapData, Slot> = Array::create(len, INNER_MAP)?;
        if ids.is_empty() {
            table.set(0, Slot::EMPTY, 0)?;
        }
        for (position, backend) in (0..).zip(ids) {
            table.set(position, Slot::certain(*backend, len), 0)?;
        }
        let outer = self.ebpf.map_mut(outer).context("an outer map")?;
        let mut outer: ArrayOfMaps<&mut MapData, Array<MapData, Slot>> = ArrayOfMaps::try_from(outer)?;
        outer.set(id, &table, 0)?;
        Ok(())
    }

    /// Makes policy `id` one that lets the identities in `allowed` in, of 64.
    pub fn policy(&mut self, id: u32, allowed: &[u32]) -> Result<()> {
        let words: Vec<AccessWord> = AccessWord::table(64, |identity| {
            if allowed.contains(&identity) {
                Access::Allow
            } else {
                Access::Deny
            }
        })
        .collect();
        let mut table: Array<MapData, AccessWord> = Array::create(words.len() as u32, INNER_MAP)?;
        for (index, word) in (0..).zip(&words) {
            table.set(index, word, 0)?;
        }
        let outer = self.ebpf.map_mut(map::POLICIES).context("an outer map")?;
        let mut outer: ArrayOfMaps<&mut MapData, Array<MapData, AccessWord>> = ArrayOfMaps::try_from(outer)?;
        outer.set(id, &table, 0)?;
        Ok(())
    }

    /// Makes `identity` that of one address.
    pub fn identity(&mut self, addr: IpAddr, identity: u32) -> Result<()> {
        let map = self.ebpf.map_mut(map::IDENTITIES).context("identities")?;
        let mut trie: LpmTrie<&mut MapData, IdentityAddr, u32> = LpmTrie::try_from(map)?;
        let key = Key::new(
            128,
            IdentityAddr {
                addr: Ip16::from(addr),
            },
        );
        trie.insert(&key, identity, 0)?;
        Ok(())
    }

    /// Writes the limits of the service.
    pub fn rules(&mut self, rules: &Rules) -> Result<()> {
        self.array::<Rules>(map::RULES)?.set(1, rules, 0)?;
        Ok(())
    }

    /// Runs the program `name` on `frame`, `repeat` times over.
    pub fn run_bytes(&self, name: &str, frame: &[u8], repeat: u32) -> Result<Ran> {
        let mut out = vec![0; frame.len() + 64];
        let context = self.context(name);
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            repeat,
            ..TestRunOptions::new()
        };
        let program = self.ebpf.program(name).context(name.to_owned())?;
        let result = self.netns.run(|| match program {
            Program::SchedClassifier(program) => program.test_run(options),
            Program::Xdp(program) => program.test_run(options),
            _ => panic!("{name} is of another type"),
        })??;
        out.truncate(result.data_size_out as usize);
        Ok(Ran {
            verdict: result.return_value.cast_signed(),
            bytes: out,
            duration: result.duration,
        })
    }

    /// Runs `flow_ingress` on a frame.
    pub fn ingress(&self, frame: &Frame) -> Ran {
        self.run_bytes(program::FLOW_INGRESS, &frame.bytes(), 1)
            .expect("run flow_ingress")
    }

    /// Runs `flow_egress` on a frame.
    pub fn egress(&self, frame: &Frame) -> Ran {
        self.run_bytes(program::FLOW_EGRESS, &frame.bytes(), 1)
            .expect("run flow_egress")
    }

    /// Runs `flow_xdp` on a frame.
    pub fn xdp(&self, frame: &Frame) -> Ran {
        self.run_bytes(program::FLOW_XDP, &frame.bytes(), 1)
            .expect("run flow_xdp")
    }

    /// Runs `flow_sweep` over all rows.
    pub fn sweep(&mut self) -> Result<()> {
        let runs = self.settings()?.rows.div_ceil(limits::SWEEP_ROWS);
        self.run_bytes(program::FLOW_SWEEP, &[0; 14], runs)?;
        Ok(())
    }

    /// The context of a packet that came in by `up0`: `struct __sk_buff`, or `struct xdp_md`.
    fn context(&self, name: &str) -> Vec<u8> {
        if name == program::FLOW_XDP {
            let mut context = vec![0; 24];
            context[12..16].copy_from_slice(&self.up0.to_ne_bytes());
            return context;
        }
        let mut context = vec![0; 192];
        context[SKB_IFINDEX..SKB_IFINDEX + 4].copy_from_slice(&self.up0.to_ne_bytes());
        context
    }

    /// Gives `up0` the receive queue that frames of XDP are said to come from: a veth has one while a program of XDP is attached.
    pub fn register_receive_queue(&mut self) -> Result<()> {
        let Self { ebpf, netns, up0 } = self;
        let program: &mut Xdp = ebpf
            .program_mut(program::FLOW_XDP)
            .context("flow_xdp")?
            .try_into()?;
        netns.run(|| program.attach_to_if_index(*up0, XdpMode::Driver).map(drop))??;
        Ok(())
    }

    /// Flows in the table.
    pub fn tracks(&mut self) -> Result<Vec<Track>> {
        let rows = self.settings()?.rows;
        let table = self.array::<Track>(map::TRACKS)?;
        let rows = (1..=rows)
            .map(|row| table.get(&row, 0))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(rows.into_iter().filter(Track::is_live).collect())
    }

    /// The index over the table.
    pub fn index(&mut self) -> Result<Vec<IndexSet>> {
        let sets = self.settings()?.sets;
        let index = self.array::<IndexSet>(map::TRACK_INDEX)?;
        Ok((0..sets)
            .map(|set| index.get(&set, 0))
            .collect::<Result<_, _>>()?)
    }

    /// Bytes of a map, as the kernel accounts for them.
    pub fn memory(&self, name: &str) -> Result<u64> {
        let (Map::Array(data) | Map::Queue(data) | Map::LruHashMap(data)) =
            self.ebpf.map(name).context("a map")?
        else {
            anyhow::bail!("{name} is of another kind");
        };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", data.fd().as_fd().as_raw_fd()))?;
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix("memlock:"))
            .context("memlock")?;
        Ok(line.trim().parse()?)
    }

    /// What the table says of itself.
    pub fn state(&mut self) -> Result<TrackState> {
        Ok(self.array(map::TRACK_STATE)?.get(&0, 0)?)
    }

    /// Packets under `event`, of all CPUs.
    pub fn count(&mut self, event: FlowEvent) -> Result<u64> {
        let map = self.ebpf.map_mut(map::FLOW_COUNTS).context("flow_counts")?;
        let counts: PerCpuArray<&mut MapData, FlowCount> = PerCpuArray::try_from(map)?;
        Ok(counts
            .get(&(event as u32), 0)?
            .iter()
            .map(|count| count.packets)
            .sum())
    }

    /// State of a backend.
    pub fn backend_state(&mut self, id: u32) -> Result<BackendState> {
        Ok(self.array(map::BACKEND_STATES)?.get(&id, 0)?)
    }

    /// Who opened flows.
    pub fn source(&mut self, addr: IpAddr) -> Result<Source> {
        Ok(self.hash(map::TRACK_SOURCES)?.get(&Ip16::from(addr), 0)?)
    }
}

/// What came of a frame.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The program's return value.
    pub verdict: i32,
    /// The frame afterwards.
    pub bytes: Vec<u8>,
    /// How long one run took.
    pub duration: Duration,
}

impl Ran {
    /// What the frame says now.
    pub fn seen(&self) -> Seen {
        Seen::of(&self.bytes)
    }
}
