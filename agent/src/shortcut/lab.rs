// SPDX-License-Identifier: Apache-2.0
//! The self-test's own process: a network namespace and a cgroup of its own, the real programs with maps of their own, a service whose
//! policy opts in, and pairs of sockets of which every property is asked.
//!
//! Invariant: nothing outside of the process's namespace and cgroup takes part; programs at tracepoints see other sockets and find no
//! record of them in these maps.

mod pair;
mod patience;
mod properties;
mod readers;
mod routes;

use std::{
    fs::{self, File},
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::Arc,
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CloneFlags, unshare},
    sys::memfd::{MFdFlags, memfd_create},
};
use nodemesh_abi::{LogLevel, MeterPath, Settings, names::program, shortcut::Route};
use nodemesh_model::Locality;

use super::report::{Finding, Report};
use crate::{
    datapath::{
        MapReader, MapWriter, PinRoot,
        attach::{self, Place},
        ends::Ends,
        listing::ConnectionLister,
        loader::{self, Capacities, Loaded, Wanted},
        netns,
    },
    reconcile::{clients::Excluded, thread::Reconciler},
    source::local::FileSource,
};

/// Address of the service, which the listener does not have.
const SERVICE: &str = "127.96.0.1";
/// Its port.
const PORT: u16 = 7;

/// Where the test is done.
#[derive(clap::Args, Clone, Debug)]
pub struct LabArgs {
    /// An empty cgroup.
    #[arg(long)]
    cgroup: PathBuf,
    /// A folder for pins that does not exist.
    #[arg(long)]
    pin_dir: PathBuf,
}

/// What the properties are asked of.
struct Lab {
    listener: TcpListener,
    service: SocketAddr,
    counts: MapReader,
    ends: Ends,
    writer: MapWriter,
    settings: Settings,
    _loaded: Loaded,
}

/// Does the test and prints the report, as JSON.
pub fn run(args: &LabArgs) -> Result<()> {
    let mut lab = Lab::open(args)?;
    let report = Report {
        findings: properties::ALL
            .iter()
            .map(|property| Finding {
                property: property.name.into(),
                effect: property.effect,
                failure: (property.ask)(&mut lab).err(),
            })
            .collect(),
        ..Report::default()
    };
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

impl Lab {
    fn open(args: &LabArgs) -> Result<Self> {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        netns::loopback_up().context("bring the loopback up")?;
        fs::write(args.cgroup.join("cgroup.procs"), std::process::id().to_string())
            .with_context(|| format!("enter the cgroup {}", args.cgroup.display()))?;
        let pins = PinRoot::new(&args.pin_dir);
        pins.create().context("create folders for pins")?;
        let few = Wanted {
            capacities: Capacities {
                services: 8,
                backends: 8,
                metered_backends: 2,
                flows: 1_024,
            },
            meter_path: Some(MeterPath::Tracepoint),
            ..Wanted::default()
        };
        let loaded = loader::load(&pins, few)?;
        let listener = TcpListener::bind("127.0.0.1:0").context("listen")?;
        let settings = Settings {
            meter_path: MeterPath::Tracepoint as u32,
            shortcut: Settings::shortcut(true),
            epoch: loaded.epochs[1],
            ..Settings::default()
        };
        let lister = {
            let enlist = loaded.ebpf.program(program::ENLIST);
            let enlist = enlist.context("the object lacks the iterator that counts connections")?;
            ConnectionLister::new(enlist.fd()?.try_clone()?, &pins)?
        };
        configure(args, (&pins, lister), settings, listener.local_addr()?)?;
        let place = Place {
            cgroup: &args.cgroup,
            pins: &pins,
            former: None,
        };
        // Nobody else is attached with these maps: the programs are in force from the first moment on.
        attach::attach(&loaded, place, |_| Ok(()), |_| {})?;
        Ok(Self {
            listener,
            service: SocketAddr::new(SERVICE.parse()?, PORT),
            counts: MapReader::open(&pins)?,
            ends: Ends::open(&pins)?,
            writer: MapWriter::open(&pins)?,
            settings,
            _loaded: loaded,
        })
    }

    /// A connection to the service, both ends.
    fn connect(&self) -> io::Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(self.service)?;
        let (server, _) = self.listener.accept()?;
        Ok((client, server))
    }

    /// A connection that no program has placed, so that it is plain TCP.
    fn connect_plainly(&self) -> io::Result<(TcpStream, TcpStream)> {
        let client = TcpStream::connect(self.listener.local_addr()?)?;
        let (server, _) = self.listener.accept()?;
        Ok((client, server))
    }

    /// Messages that took the shortcut so far.
    fn handed_over(&self) -> u64 {
        let counts = self.counts.short_counts();
        counts.map_or(0, |counts| counts[Route::Short as usize].messages)
    }

    /// Switches the shortcut on or off for all that is sent from now on.
    fn switch(&mut self, on: bool) -> Result<(), String> {
        self.settings.shortcut = Settings::shortcut(on);
        self.writer
            .put_settings(&self.settings)
            .map_err(|error| error.to_string())
    }
}

/// A file that is nowhere but in memory.
fn memory_file(name: &str) -> io::Result<File> {
    Ok(memfd_create(name, MFdFlags::MFD_CLOEXEC)?.into())
}

/// One service with the shortcut switched on.
fn configure(
    args: &LabArgs,
    (pins, enlist): (&PinRoot, ConnectionLister),
    settings: Settings,
    backend: SocketAddr,
) -> Result<()> {
    let mut file = memory_file("mesh.yaml").context("make a file for the configuration")?;
    let (address, port) = (backend.ip(), backend.port());
    file.write_all(
        format!(
            "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: shortcut-test}}\n\
             spec:\n  addresses: [\"{SERVICE}\"]\n  ports: [{{port: {PORT}}}]\n  \
             backends: [{{address: \"{address}\", port: {port}}}]\n---\n\
             apiVersion: nodemesh.io/v1alpha1\nkind: TrafficPolicy\nmetadata: {{name: shortcut-test}}\n\
             spec:\n  targetRef: {{kind: Service, name: shortcut-test}}\n  shortcut: {{enabled: true}}\n"
        )
        .as_bytes(),
    )?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let source =
        FileSource::load(&path, Locality::default()).map_err(|errors| anyhow::anyhow!(errors.join("; ")))?;
    let (desired, generation) = source.desired();
    let maps = MapWriter::open(pins)?;
    let (mut reconciler, _view) =
        Reconciler::new(maps, enlist, settings, args.cgroup.clone(), Excluded::default())?;
    reconciler.start(Arc::clone(&desired), generation, LogLevel::Off);
    Ok(())
}
