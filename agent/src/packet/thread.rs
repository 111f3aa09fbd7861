// SPDX-License-Identifier: Apache-2.0
//! The thread of the packet path: follows the interfaces, tells the programs their settings, ends expired flows.
//!
//! Invariant: an interface that cannot be served keeps no other one from being served, and is tried again.

use std::{
    collections::BTreeSet,
    ops::RangeInclusive,
    sync::{Arc, Mutex, mpsc},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TestRun as _, TestRunOptions},
};
use nodemesh_abi::{FlowSettings, limits::SWEEP_ROWS, names::program};
use tokio::sync::watch;
use tracing::{debug, error, warn};

use super::{
    PacketArgs, PacketState,
    args::XdpChoice,
    interface::{self, Interface},
    state::{Attached, XdpRun},
};
use crate::datapath::{
    PinRoot,
    flow_maps::{FlowReader, FlowWriter},
    interface_links::InterfaceLinks,
};

/// How often interfaces are looked at, and flows swept while the table is full.
const PERIOD: Duration = Duration::from_secs(1);
/// How often flows are swept otherwise, if the table is larger than [`FEW_FLOWS`].
const SWEEP_PERIOD: Duration = Duration::from_secs(5);
/// So many are swept each time: a millisecond.
const FEW_FLOWS: u64 = 131_072;
/// Sources that are shown.
const TOP_SOURCES: usize = 10;
/// Most runs of the sweep with one call: bounds the time for which the kernel holds a CPU.
const RUNS: u32 = 1_024;
/// The shortest packet that a program can be run with: an Ethernet header.
const NO_PACKET: [u8; 14] = [0; 14];

/// The thread's state.
pub struct PacketPath {
    args: PacketArgs,
    ebpf: Arc<Mutex<Ebpf>>,
    links: InterfaceLinks,
    writer: FlowWriter,
    reader: Arc<FlowReader>,
    /// What the programs were told, by this agent.
    settings: Option<FlowSettings>,
    /// Interfaces that have this agent's programs.
    served: BTreeSet<u32>,
    /// How XDP runs on each of them; none where it does not.
    xdp: Vec<(u32, XdpRun)>,
    swept: Instant,
    told: BTreeSet<String>,
    published: watch::Sender<Arc<PacketState>>,
}

impl PacketPath {
    /// Makes the first pass: after it, the path works as far as it can.
    pub fn start(
        args: PacketArgs,
        ebpf: Arc<Mutex<Ebpf>>,
        pins: &PinRoot,
        links: InterfaceLinks,
        reader: Arc<FlowReader>,
    ) -> Result<(Self, watch::Receiver<Arc<PacketState>>)> {
        args.check()?;
        let writer = FlowWriter::open(pins)?;
        let (published, receiver) = watch::channel(Arc::default());
        let mut path = Self {
            args,
            ebpf,
            links,
            writer,
            reader,
            settings: None,
            served: BTreeSet::new(),
            xdp: Vec::new(),
            swept: Instant::now(),
            told: BTreeSet::new(),
            published,
        };
        path.pass();
        Ok((path, receiver))
    }

    /// Runs until `stop` is dropped. What is attached stays.
    pub fn run(mut self, stop: &mpsc::Receiver<()>) {
        while stop.recv_timeout(PERIOD) == Err(mpsc::RecvTimeoutError::Timeout) {
            self.pass();
        }
    }

    fn pass(&mut self) {
        let mut state = PacketState {
            is_on: self.args.is_on(),
            ..PacketState::default()
        };
        if let Err(error) = self.follow(&mut state) {
            state.problems.push(format!("{error:#}"));
        }
        if let Err(error) = self.look(&mut state) {
            state.problems.push(format!("{error:#}"));
        }
        self.tell(&state.problems);
        state.attachment = self.links.attachment().clone();
        self.published.send_replace(Arc::new(state));
    }

    /// Serves the interfaces that are there, and leaves those that are not named any more.
    fn follow(&mut self, state: &mut PacketState) -> Result<()> {
        if !self.args.is_on() {
            self.links
                .detach(|_, _| false)
                .context("detach the packet path")?;
            return Ok(());
        }
        let all = interface::list().context("list the interfaces")?;
        let routes = interface::default_routes();
        let (chosen, problems) = interface::choose(all, &self.args.packet_interface, &routes);
        state.problems.extend(problems);
        let ports: &RangeInclusive<u16> = &self.args.packet_nat_ports.0;
        state.problems.extend(interface::obstacles(ports));
        // Before the programs run: without settings they pass everything.
        self.write_settings(&chosen)?;
        let indices: BTreeSet<u32> = chosen.iter().map(|interface| interface.index).collect();
        let keeps_xdp = self.args.packet_xdp != XdpChoice::Off;
        let is_wanted =
            |name: &str, index| indices.contains(&index) && (keeps_xdp || name != program::FLOW_XDP);
        self.links.detach(is_wanted).context("detach from interfaces")?;
        self.served.retain(|index| indices.contains(index));
        self.xdp.retain(|(index, _)| indices.contains(index));
        self.links.begin();
        for interface in &chosen {
            let served = self.serve(interface);
            let xdp = self.xdp.iter().find(|(index, _)| *index == interface.index);
            state.interfaces.push(Attached {
                name: interface.name.clone(),
                is_effective: served.is_ok(),
                xdp: xdp.map(|(_, run)| *run),
            });
            if let Err(error) = served {
                state.problems.push(format!("{error:#}"));
            }
        }
        state.settings = self.settings;
        Ok(())
    }

    fn serve(&mut self, interface: &Interface) -> Result<()> {
        let target = (interface.index, &*interface.name);
        self.links.serve(target)?;
        if self.served.insert(interface.index) {
            self.begin_xdp(target);
        } else if let Some((_, run)) = self.xdp.iter().find(|(index, _)| *index == interface.index) {
            self.links.serve_xdp(target, *run == XdpRun::Native)?;
        }
        Ok(())
    }

    /// Tries XDP in the driver, and by the generic hook if that is wanted. Without it the programs behind it do the same.
    fn begin_xdp(&mut self, target: (u32, &str)) {
        let is_device = interface::is_device(target.1);
        let modes: &[XdpRun] = match self.args.packet_xdp {
            XdpChoice::Off => return,
            XdpChoice::Auto if is_device => &[XdpRun::Native],
            XdpChoice::Auto => &[],
            XdpChoice::Generic if is_device => &[XdpRun::Native, XdpRun::Generic],
            XdpChoice::Generic => &[XdpRun::Generic],
        };
        // A link does not tell how it runs, so a former agent's is made anew.
        let others = |name: &str, index: u32| name != program::FLOW_XDP || index != target.0;
        if let Err(error) = self.links.detach(others) {
            warn!(interface = target.1, %error, "could not take a former agent's XDP program away");
        }
        for run in modes {
            match self.links.serve_xdp(target, *run == XdpRun::Native) {
                Ok(()) => return self.xdp.push((target.0, *run)),
                Err(error) => debug!(interface = target.1, %error, "no XDP of this kind"),
            }
        }
    }

    fn write_settings(&mut self, chosen: &[Interface]) -> Result<()> {
        let found: Vec<_> = chosen
            .iter()
            .flat_map(|interface| interface.addresses.clone())
            .collect();
        let seed = match self.settings {
            Some(settings) => settings.seed,
            // A table keeps its seed, by which its flows are found.
            None => Some(self.writer.settings()?.seed)
                .filter(|seed| *seed != 0)
                .unwrap_or_else(|| fastrand::u64(1..)),
        };
        let settings = self.args.settings(seed, self.writer.size(), &found);
        if self.settings != Some(settings) {
            self.writer.put_settings(&settings)?;
            self.settings = Some(settings);
        }
        Ok(())
    }

    /// Ends what is expired, and looks at what is left.
    fn look(&mut self, state: &mut PacketState) -> Result<()> {
        state.limit = self.reader.limit().into();
        state.flows = self.reader.state()?.entries;
        if !state.is_on {
            return Ok(());
        }
        let are_few = state.limit <= FEW_FLOWS;
        if are_few || state.is_under_pressure() || self.swept.elapsed() >= SWEEP_PERIOD {
            self.swept = Instant::now();
            self.sweep()?;
            state.flows = self.reader.state()?.entries;
        }
        self.reader.scan(|track| {
            if let Some(count) = state.by_state.get_mut(usize::from(track.life().raw_state())) {
                *count += 1;
            }
        })?;
        state.sources = self.reader.top_sources(TOP_SOURCES);
        Ok(())
    }

    fn sweep(&self) -> Result<()> {
        // Each run goes on where the last one ended, through all rows.
        let mut runs = self.reader.limit().div_ceil(SWEEP_ROWS);
        while runs > 0 {
            let repeat = runs.min(RUNS);
            let ebpf = self.ebpf.lock().expect("no holder panics");
            let program = ebpf
                .program(program::FLOW_SWEEP)
                .context("the object lacks the sweep of flows")?;
            let program: &SchedClassifier = program.try_into()?;
            let options = TestRunOptions {
                data_in: Some(&NO_PACKET),
                repeat,
                ..TestRunOptions::new()
            };
            program.test_run(options).context("sweep the flows")?;
            runs -= repeat;
        }
        Ok(())
    }

    /// Logs what is newly wrong.
    fn tell(&mut self, problems: &[String]) {
        let now: BTreeSet<String> = problems.iter().cloned().collect();
        for problem in now.difference(&self.told) {
            error!(problem, "packet path");
        }
        self.told = now;
    }
}
