// SPDX-License-Identifier: Apache-2.0
//! Wires the parts together and owns the order of start and stop.
//!
//! Start: lock, configuration, bpf file system, maps and programs, what another ABI left, rows, attachment, adoption, listeners. What can fail for the
//! operator's sake comes before the kernel is touched, and the rows before the programs that read them. Stop: listeners,
//! then the reconciler; maps and links stay, so that no connection notices.

mod feed;
mod takeover;

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    sys::{Stats, enable_stats},
};
use nodemesh_abi::{MeterPath, Settings, names::program};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch},
};
use tracing::{info, warn};

use feed::{Changes, Feed};

use crate::{
    access_log::{self, AccessLog, AccessReader},
    admin::{Listeners, Node},
    admission::Watch,
    config::{AgentConfig, VERSION},
    datapath::{
        MapReader, MapWriter, PinRoot, adoption,
        ends::Ends,
        flow_maps::FlowReader,
        guard::Guard,
        host,
        interface_links::InterfaceLinks,
        listing::ConnectionLister,
        loader::{self, Loaded},
        program_log::ProgramLog,
    },
    drain::{Drains, Targets},
    events::{EventReader, Events},
    health::{Checks, Judge, SilenceWatch},
    lock::AgentLock,
    logging::LogFilter,
    metrics::Metrics,
    packet::thread::PacketPath,
    reconcile::{
        clients::Excluded,
        thread::{Command, Reconciler},
        view::View,
    },
    shortcut::{self, Keeper, gate::Gate},
    sockets::Sockets,
    source::Version,
    startup::{Progress, Step},
    sweep::{correct::corrector, thread::Sweeper},
};

/// How long the agent waits at its end for the access log to be written.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Runs the agent until it is told to end.
#[expect(
    clippy::too_many_lines,
    reason = "the order of the start is what this function is about"
)]
pub fn run(config: &AgentConfig, log: LogFilter) -> Result<()> {
    let started = Instant::now();
    let progress = Progress::new(config.crash_after);
    let _lock = AgentLock::acquire(&config.run_dir)?;
    progress.reached(Step::Locked);
    info!(version = VERSION, pid = std::process::id(), "nodemesh agent");
    access_log::check(config)?;
    config.packet.check()?;
    let (commands, inbox) = mpsc::channel();
    let feed = Feed::start(config, commands.clone())?;
    progress.reached(Step::Configured);

    let cgroup = host::cgroup_root(config.cgroup.as_deref())?;
    let pins = prepare_pins(&config.pin_dir)?;
    progress.reached(Step::PinsReady);

    let former = takeover::find(&pins)?;
    let mut loaded = takeover::load(config, &pins, former.as_ref())?;
    progress.reached(Step::Loaded);
    takeover::carry(former.as_ref(), &pins)?;
    progress.reached(Step::Carried);

    // Kept open: the kernel measures while this descriptor is.
    let _stats = config.program_stats.then(program_stats).flatten();

    let gate = Gate {
        cgroup: cgroup.clone(),
        pin_dir: config.pin_dir.clone(),
        run_dir: config.run_dir.clone(),
        build: loaded.build,
    };
    let settings = settings(config, &loaded, &gate)?;
    let drains = Drains::open(&config.run_dir);
    let (mut reconciler, view) = reconciler(
        config,
        &cgroup,
        (&loaded.ebpf, &pins),
        settings,
        (feed.desired.clone(), drains.targets()),
    )?;
    progress.reached(Step::Reconciled);

    let mut interfaces = InterfaceLinks::new(pins.clone(), &mut loaded.running);
    let place = (&*cgroup, &pins);
    let links = takeover::attach(&loaded, place, former, &mut interfaces, &mut reconciler, progress)?;
    progress.reached(Step::Attached);

    let (guard, attachment) =
        Guard::new(cgroup.clone(), pins.clone(), loaded.running, links).context("open what is attached")?;
    let (meter_path, mut ebpf) = (loaded.meter_path, loaded.ebpf);
    let readers = Readers::open(&mut ebpf, &pins)?;
    let [lister, listing, open_requests] = listers(&ebpf, &pins)?;
    let adopted = adopt(&ebpf, &cgroup, &lister)?;
    let rejoin = (meter_path == MeterPath::Tracepoint).then(|| self::lister(&ebpf, &pins, program::REJOIN));
    let ebpf = Arc::new(Mutex::new(ebpf));
    let flows = Arc::new(FlowReader::open(&pins)?);
    let (packet_path, packet) = PacketPath::start(
        config.packet.clone(),
        Arc::clone(&ebpf),
        &pins,
        interfaces,
        Arc::clone(&flows),
    )?;
    let correct = corrector(Arc::clone(&ebpf));
    let judge = Arc::new(Judge::new(Arc::clone(&ebpf), &pins)?);
    let silence = SilenceWatch::new(Arc::clone(&judge));
    let (sweeper, sweep) = Sweeper::new(
        open_requests,
        MapReader::open(&pins)?,
        view.clone(),
        correct,
        silence,
    );
    let checks = Checks::new(judge, config.place()?);
    feed.spawn(checks.run(view.clone()));
    let events = Arc::new(Events::new(view.clone())?);
    let sockets = Sockets::start().context("start the thread that ends sockets")?;
    let watch = Watch::new(
        listing,
        MapReader::open(&pins)?,
        view.clone(),
        Arc::clone(&events),
        sockets,
    );
    let (keeper, shortcut) = Keeper::new(
        config.shortcut,
        meter_path,
        gate,
        (Ends::open(&pins)?, rejoin.transpose()?),
        view.clone(),
        commands.clone(),
    );
    let access_log = Arc::new(AccessLog::new(config.access_log_file.clone(), view.clone())?);
    let node = Arc::new(Node {
        config: config.clone(),
        cgroup,
        started,
        maps: MapReader::open(&pins)?,
        lister,
        ebpf,
        attachment,
        source: feed.source.clone(),
        events: Arc::clone(&events),
        drains,
        view,
        sweep,
        packet,
        flows,
        access_log: Arc::clone(&access_log),
        meter_path,
        connection_limit: settings.connection_limit,
        adopted,
        shortcut,
        ends: Ends::open(&pins)?,
        log,
        program_log: Mutex::new(config.program_log),
        commands,
        metrics: Metrics,
    });
    node.switch_access_log(access_log::asked(config))?;
    let reconciler = spawn("reconcile", move || reconciler.run(&inbox))?;
    let (stop, stopped) = mpsc::channel();
    let sweeper = spawn("sweep", move || sweeper.run(&stopped))?;
    let (end_packets, ended) = mpsc::channel();
    let packet_path = spawn("packet", move || packet_path.run(&ended))?;
    let (end_guard, guard_ended) = mpsc::channel();
    let guard = spawn("guard", move || guard.run(&guard_ended))?;
    let (end_watch, ended) = mpsc::channel();
    let watch = spawn("admission", move || watch.run(&ended))?;
    let (end_keeper, ended) = mpsc::channel();
    let keeper = spawn("shortcut", move || keeper.run(&ended))?;
    // Its end drops the tasks and with them every sender of commands, which ends the reconciler.
    let records = feed.run(node, |node, changes| serve(node, changes, readers, progress))?;
    drop((stop, end_watch, end_guard, end_packets, end_keeper));
    join(keeper)?;
    join(sweeper)?;
    join(guard)?;
    join(packet_path)?;
    join(watch)?;
    join(reconciler)?;
    finish(&access_log, records);
    info!("the agent ends; the data path stays");
    Ok(())
}

/// Writes what the programs wrote until the reconciler's last act, which was to tell them to write no more.
fn finish(access_log: &AccessLog, records: Option<AccessReader>) {
    if let Some(mut records) = records {
        records.drain(access_log);
    }
    access_log.flush(LAST_LINES);
}

/// The reconciler, after its first round.
fn reconciler(
    config: &AgentConfig,
    cgroup: &Path,
    (ebpf, pins): (&Ebpf, &PinRoot),
    settings: Settings,
    (desired, drained): (Option<Version>, Targets),
) -> Result<(Reconciler, watch::Receiver<Arc<View>>)> {
    let maps = MapWriter::open(pins)?;
    let excluded = Excluded {
        alone: config.exclude_cgroup.clone(),
        no_shortcut: config.shortcut_exclude_cgroup.clone(),
    };
    let enlist = lister(ebpf, pins, program::ENLIST)?;
    let (mut reconciler, view) = Reconciler::new(maps, enlist, settings, cgroup.into(), excluded)?;
    reconciler.drain(drained);
    let log_level = config.program_log.into();
    match desired {
        Some((desired, generation)) => reconciler.start(desired, generation, log_level),
        None => reconciler.wait(log_level),
    }
    Ok((reconciler, view))
}

/// What reads what the programs write.
struct Readers {
    logs: ProgramLog,
    access: AccessReader,
    events: EventReader,
}

impl Readers {
    fn open(ebpf: &mut Ebpf, pins: &PinRoot) -> Result<Self> {
        Ok(Self {
            logs: ProgramLog::open(ebpf).context("open the programs' log")?,
            access: AccessReader::open(ebpf).context("open the records of the access log")?,
            events: EventReader::open(ebpf, pins).context("open the events")?,
        })
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<thread::JoinHandle<()>> {
    let thread = thread::Builder::new().name(name.into());
    thread
        .spawn(work)
        .with_context(|| format!("start the thread {name}"))
}

fn join(thread: thread::JoinHandle<()>) -> Result<()> {
    let name = thread.thread().name().unwrap_or_default().to_owned();
    thread.join().map_err(|_| anyhow!("the thread {name} panicked"))
}

fn prepare_pins(pin_dir: &Path) -> Result<PinRoot> {
    host::ensure_bpffs(pin_dir)?;
    let pins = PinRoot::new(pin_dir);
    pins.create()
        .with_context(|| format!("create folders below {}", pin_dir.display()))?;
    Ok(pins)
}

/// What the programs are told for as long as this agent runs.
fn settings(config: &AgentConfig, loaded: &Loaded, gate: &Gate) -> Result<Settings> {
    Ok(Settings {
        agent_tgid: loader::own_tgid(&loaded.ebpf).context("ask the kernel for the agent's process id")?,
        meter_path: loaded.meter_path as u32,
        connection_limit: config.connection_limit(host::memory()),
        epoch: loaded.epochs[0],
        shortcut: Settings::shortcut(shortcut::assess(config.shortcut, gate, loaded.meter_path).enabled),
        ..Settings::default()
    })
}

/// Turns the programs' statistics on; an agent that may not do that has no such metrics and is well otherwise.
fn program_stats() -> Option<OwnedFd> {
    enable_stats(Stats::RunTime)
        .inspect_err(|error| warn!(%error, "no statistics of the programs; they need CAP_SYS_ADMIN"))
        .ok()
}

/// Gives connections that this node's backends had accepted before the programs were attached their records; returns how many.
fn adopt(ebpf: &Ebpf, cgroup: &Path, lister: &ConnectionLister) -> Result<u64> {
    let program = ebpf
        .program(program::ADOPT)
        .context("the object lacks the iterator over files")?;
    Ok(adoption::adopt(program.fd()?, cgroup, lister)
        .inspect(|connections| info!(connections, "adopted connections that were there before"))
        .inspect_err(
            |error| warn!(%error, "connections that were there before are not metered at the server's end"),
        )
        .unwrap_or_default())
}

/// What lists all connections, and what lists those with open requests.
fn listers(ebpf: &Ebpf, pins: &PinRoot) -> Result<[ConnectionLister; 3]> {
    let lister = |name| lister(ebpf, pins, name);
    let all = program::LIST_CONNECTIONS;
    Ok([lister(all)?, lister(all)?, lister(program::SWEEP)?])
}

fn lister(ebpf: &Ebpf, pins: &PinRoot, name: &str) -> Result<ConnectionLister> {
    let program = ebpf
        .program(name)
        .with_context(|| format!("the object lacks the iterator {name}"))?;
    Ok(ConnectionLister::new(program.fd()?.try_clone()?, pins)?)
}

/// Serves until the agent is told to end; returns what still holds records of the access log.
async fn serve(
    node: Arc<Node>,
    mut changes: Changes,
    readers: Readers,
    progress: Progress,
) -> Result<Option<AccessReader>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let listeners = Listeners::open(&node.config).await?;
    let (http, admin) = (listeners.http_addr()?, node.config.run_dir.display());
    if node.view().generation == 0 {
        info!(%http, %admin, "waiting for the control plane");
    } else {
        info!(%http, %admin, "ready");
    }
    let (access_log, events) = (Arc::clone(&node.access_log), Arc::clone(&node.events));
    let commands = node.commands.clone();
    let socket = listeners.serve(node);
    tokio::spawn(readers.logs.forward());
    let (watching, until) = oneshot::channel();
    tokio::spawn(readers.events.forward(events, until));
    let (reading, until) = oneshot::channel();
    let records = tokio::spawn(readers.access.forward(Arc::clone(&access_log), until));
    progress.reached(Step::Serving);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => {
                if let Err(error) = access_log.reopen() {
                    warn!(error = format!("{error:#}"), "the access log stays in the file that it is in");
                }
            }
            (desired, generation) = changes.next() => {
                commands.send(Command::Apply { desired, generation }).context("the reconciler has ended")?;
            }
        }
    }
    changes.finish().await?;
    drop((reading, watching));
    let records = records.await.context("read the records of the access log")?;
    if let Err(error) = fs::remove_file(&socket) {
        warn!(%error, socket = %socket.display(), "could not remove the admin socket");
    }
    Ok(records)
}
