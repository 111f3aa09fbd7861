// SPDX-License-Identifier: Apache-2.0
//! Wires the parts together and owns the order of start and stop.
//!
//! Start: lock, configuration, bpf file system, maps and programs, rows, attachment, listeners. What can fail for the
//! operator's sake comes before the kernel is touched, and the rows before the programs that read them. Stop: listeners,
//! then the reconciler; maps and links stay, so that no connection notices.

use std::{
    fs,
    os::fd::OwnedFd,
    path::Path,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, anyhow};
use aya::{
    Ebpf,
    sys::{Stats, enable_stats},
};
use nodemesh_abi::names::program;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};
use tracing::{info, warn};

use crate::{
    admin::{Listeners, Node},
    config::{AgentConfig, VERSION},
    datapath::{
        MapReader, MapWriter, PinRoot, attach, host, listing::ConnectionLister, loader,
        program_log::ProgramLog,
    },
    lock::AgentLock,
    logging::LogFilter,
    metrics::Metrics,
    reconcile::thread::{Command, Reconciler},
    source::{Source, watch::SourceWatch},
    startup::{Progress, Step},
};

/// Runs the agent until it is told to end.
pub fn run(config: &AgentConfig, log: LogFilter) -> Result<()> {
    let started = Instant::now();
    let progress = Progress::new(config.crash_after);
    let _lock = AgentLock::acquire(&config.run_dir)?;
    progress.reached(Step::Locked);
    info!(version = VERSION, pid = std::process::id(), "nodemesh agent");

    // Watching begins before the first read, so that no change falls between the two.
    let watch = SourceWatch::new(&config.config);
    let (source, source_status) = Source::load(&config.config)
        .map_err(|errors| anyhow!("the configuration is invalid:\n  {}", errors.join("\n  ")))?;
    let watch = watch.with_context(|| format!("watch {}", config.config.display()))?;
    progress.reached(Step::Configured);

    let cgroup = host::cgroup_root(config.cgroup.as_deref())?;
    let pins = prepare_pins(&config.pin_dir)?;
    progress.reached(Step::PinsReady);

    let mut ebpf = load(config, &pins)?;
    progress.reached(Step::Loaded);

    // Kept open: the kernel measures while this descriptor is.
    let _stats = config.program_stats.then(program_stats).flatten();

    let maps = MapWriter::open(&pins)?;
    let tgid = loader::own_tgid(&ebpf).context("ask the kernel for the agent's process id")?;
    let (mut reconciler, view) = Reconciler::new(maps, tgid, cgroup.clone(), config.exclude_cgroup.clone())?;
    let (desired, generation) = source.desired();
    reconciler.start(desired, generation, config.program_log.into());
    progress.reached(Step::Reconciled);

    attach_programs(&mut ebpf, &cgroup, &pins, progress)?;
    progress.reached(Step::Attached);

    let (commands, inbox) = mpsc::channel();
    let logs = ProgramLog::open(&mut ebpf).context("open the programs' log")?;
    let lister = lister(&ebpf, &pins)?;
    let node = Arc::new(Node {
        config: config.clone(),
        cgroup,
        started,
        maps: MapReader::open(&pins)?,
        lister,
        ebpf: Mutex::new(ebpf),
        source: source_status,
        view,
        log,
        program_log: Mutex::new(config.program_log),
        commands: commands.clone(),
        metrics: Metrics,
    });
    let reconciler = thread::Builder::new()
        .name("reconcile".into())
        .spawn(move || reconciler.run(&inbox))?;
    let runtime = runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(serve(node, source, watch, commands, logs, progress))?;
    // Drops the tasks and with them every sender of commands, which ends the reconciler.
    drop(runtime);
    reconciler
        .join()
        .map_err(|_| anyhow!("the reconciler panicked"))?;
    info!("the agent ends; the data path stays");
    Ok(())
}

fn prepare_pins(pin_dir: &Path) -> Result<PinRoot> {
    host::ensure_bpffs(pin_dir)?;
    let pins = PinRoot::new(pin_dir);
    pins.create()
        .with_context(|| format!("create folders below {}", pin_dir.display()))?;
    Ok(pins)
}

fn load(config: &AgentConfig, pins: &PinRoot) -> Result<Ebpf> {
    let capacities = loader::Capacities {
        services: config.max_services,
        backends: config.max_backends,
    };
    let loaded = loader::load(pins, capacities)?;
    for (name, cost) in &loaded.costs {
        tracing::debug!(
            program = name,
            instructions = cost.instructions,
            verified = cost.verified_instructions,
            load_us = cost.load_time.as_micros() as u64,
            "loaded"
        );
    }
    Ok(loaded.ebpf)
}

/// Turns the programs' statistics on; an agent that may not do that has no such metrics and is well otherwise.
fn program_stats() -> Option<OwnedFd> {
    enable_stats(Stats::RunTime)
        .inspect_err(|error| warn!(%error, "no statistics of the programs; they need CAP_SYS_ADMIN"))
        .ok()
}

fn attach_programs(ebpf: &mut Ebpf, cgroup: &Path, pins: &PinRoot, progress: Progress) -> Result<()> {
    let mut first = true;
    attach::attach(ebpf, cgroup, pins, |_| {
        if std::mem::take(&mut first) {
            progress.reached(Step::FirstAttached);
        }
    })?;
    Ok(())
}

fn lister(ebpf: &Ebpf, pins: &PinRoot) -> Result<ConnectionLister> {
    let program = ebpf
        .program(program::LIST_CONNECTIONS)
        .context("the object lacks the connection iterator")?;
    Ok(ConnectionLister::new(program.fd()?.try_clone()?, pins)?)
}

async fn serve(
    node: Arc<Node>,
    mut source: Source,
    mut watch: SourceWatch,
    commands: mpsc::Sender<Command>,
    logs: ProgramLog,
    progress: Progress,
) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let listeners = Listeners::open(&node.config).await?;
    info!(http = %listeners.http_addr()?, admin = %node.config.run_dir.display(), "ready");
    let socket = listeners.serve(node);
    tokio::spawn(logs.forward());
    progress.reached(Step::Serving);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            () = watch.changed() => {
                if source.reload(&watch.unfinished()) {
                    let (desired, generation) = source.desired();
                    commands.send(Command::Apply { desired, generation }).context("the reconciler has ended")?;
                }
            }
        }
    }
    if let Err(error) = fs::remove_file(&socket) {
        warn!(%error, socket = %socket.display(), "could not remove the admin socket");
    }
    Ok(())
}
