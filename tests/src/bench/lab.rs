// SPDX-License-Identifier: Apache-2.0
//! A node with an agent, a client pod and a server pod, and the ways to measure there.
//!
//! Invariant: a process that measures runs in the client pod's network namespace, so that only its cgroup decides whether it
//! is in the mesh.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::loaded_programs;
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use serde::Deserialize;

use super::process_use;
use crate::{
    agent::Agent,
    process::{Place, Process, binary},
    topology::{Node, Pod, Topology},
};

/// Port of the servers. The next one leads to the same server, for A/A.
pub(super) const PORT: u16 = 9000;

/// Where measurements are made.
pub(super) struct Lab {
    pub(super) agent: Agent,
    client: Pod,
    server: Pod,
    node: Node,
    elsewhere: Node,
    remote: Pod,
    _topology: Topology,
}

/// Whether a process is in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Mesh,
    Outside,
}

/// The CPUs that a process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cpus {
    All,
    /// The last one alone.
    One,
}

/// What `socket-probe bench-connect` says of one address.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Target {
    ok: u64,
    errors: BTreeMap<String, u64>,
    ns: Nanoseconds,
    /// CPU time per operation of the client's thread.
    pub(super) cpu_ns_per_op: f64,
    /// Cost of reading the clock, which the wall time contains.
    #[serde(default)]
    pub(super) clock_ns: f64,
}

#[derive(Clone, Debug, Deserialize)]
struct Nanoseconds {
    p50: f64,
}

impl Target {
    /// Median wall time of an operation, nanoseconds.
    pub(super) fn p50(&self) -> f64 {
        self.ns.p50
    }
}

#[derive(Debug, Deserialize)]
struct BenchReport {
    clock_ns: f64,
    targets: Vec<Target>,
}

/// Runs and time of the kernel programs, by name.
#[derive(Clone, Debug, Default)]
pub(super) struct Programs(BTreeMap<String, Ran>);

/// How often a program ran and how long altogether.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ran {
    pub(super) runs: f64,
    pub(super) seconds: f64,
}

impl Ran {
    /// Nanoseconds of a run.
    pub(super) fn per_run(self) -> f64 {
        self.seconds * 1e9 / self.runs
    }
}

impl Programs {
    /// From the descriptors of a process, which the kernel describes with the programs' statistics.
    fn of(pid: u32) -> Result<Self> {
        let mut by_id = BTreeMap::new();
        for descriptor in process_use::descriptors(pid)? {
            let field = |name| descriptor.number(name);
            if let (Some(id), Some(runs), Some(ns)) =
                (field("prog_id"), field("run_cnt"), field("run_time_ns"))
            {
                let (runs, seconds) = (runs as f64, ns as f64 / 1e9);
                by_id.insert(id, Ran { runs, seconds });
            }
        }
        let named = loaded_programs().flatten().filter_map(|info| {
            let ran = by_id.get(&u64::from(info.id()))?;
            Some((info.name_as_str()?.to_owned(), *ran))
        });
        Ok(Self(named.collect()))
    }

    /// What a program did since `before`.
    pub(super) fn since(&self, before: &Self, program: &str) -> Ran {
        let of = |programs: &Self| programs.0.get(program).copied().unwrap_or_default();
        let (now, before) = (of(self), of(before));
        Ran {
            runs: now.runs - before.runs,
            seconds: now.seconds - before.seconds,
        }
    }

    /// Names of the programs.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}

impl Lab {
    /// A lab without servers, whose agent does not run.
    pub(super) fn new() -> Result<Self> {
        let topology = Topology::new()?;
        let (node, elsewhere) = (topology.node("a")?, topology.node("outside")?);
        Ok(Self {
            agent: node.agent()?,
            client: node.pod("client")?,
            server: node.pod("server")?,
            remote: elsewhere.pod("remote")?,
            node,
            elsewhere,
            _topology: topology,
        })
    }

    /// Starts the agent with the configuration `yaml`.
    pub(super) fn start(&mut self, yaml: &str, program_stats: bool) -> Result<()> {
        self.agent.configure(yaml)?;
        self.start_agent(program_stats)
    }

    /// Starts the agent with whatever is configured.
    pub(super) fn start_agent(&mut self, program_stats: bool) -> Result<()> {
        self.agent
            .start(&["--program-stats", if program_stats { "true" } else { "false" }])
    }

    /// Ends the agent and starts it again.
    pub(super) fn restart(&mut self, program_stats: bool) -> Result<()> {
        self.agent.stop()?;
        self.start_agent(program_stats)
    }

    /// Address of the server.
    pub(super) fn server(&self) -> IpAddr {
        self.server.v4()
    }

    /// The server's own address, with `offset` added to [`PORT`].
    pub(super) fn direct(&self, offset: u16) -> SocketAddr {
        SocketAddr::new(self.server(), PORT + offset)
    }

    /// Starts `socket-probe serve`, named `name`, on `ports`, counted from [`PORT`].
    pub(super) fn serve(&self, name: &str, ports: &[u16], cpus: Cpus) -> Result<Process> {
        let mut arguments = vec!["serve".to_owned(), format!("--name={name}")];
        arguments.extend(
            ports
                .iter()
                .map(|offset| format!("--listen={}", self.direct(*offset))),
        );
        self.server_program(Side::Mesh, cpus, "socket-probe", &arguments)
    }

    /// Starts a server program in the server pod and waits until it listens.
    pub(super) fn server_program(
        &self,
        side: Side,
        cpus: Cpus,
        program: &str,
        arguments: &[String],
    ) -> Result<Process> {
        listening(spawn(&self.place(&self.server, side), cpus, program, arguments)?)
    }

    /// In a pod's network namespace, in its cgroup or outside the mesh.
    fn place(&self, pod: &Pod, side: Side) -> Place {
        let cgroup = match side {
            Side::Mesh => pod.cgroup(),
            Side::Outside => self.elsewhere.cgroup(),
        };
        Place {
            netns: pod.netns().path(),
            cgroup: cgroup.into(),
        }
    }

    /// Starts `socket-probe serve` in the client pod, outside the mesh, and gives its address.
    pub(super) fn serve_outside(&self, cpus: Cpus) -> Result<(SocketAddr, Process)> {
        let address = SocketAddr::new(self.client.v4(), PORT);
        let arguments = ["serve", "--name=outside", &format!("--listen={address}")].map(str::to_owned);
        let server = self.client(Side::Outside, cpus, "socket-probe", &arguments)?;
        Ok((address, listening(server)?))
    }

    /// A server in a pod of another node, and a service for it.
    pub(super) fn serve_remote(&self) -> Result<Process> {
        let address = SocketAddr::new(self.remote.v4(), PORT);
        let arguments = ["serve", "--name=remote", &format!("--listen={address}")].map(str::to_owned);
        listening(spawn(
            &self.place(&self.remote, Side::Mesh),
            Cpus::All,
            "socket-probe",
            &arguments,
        )?)
    }

    /// Address of the server of [`Self::serve_remote`].
    pub(super) fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote.v4(), PORT)
    }

    /// CPU time, user and system, of all processes of one side so far, the agent's aside. Network interrupts that the kernel handles
    /// at the end of a system call are in it.
    pub(super) fn cpu_of(&self, side: Side) -> Result<Duration> {
        let cgroups = match side {
            Side::Mesh => vec![self.client.cgroup(), self.server.cgroup()],
            Side::Outside => vec![self.elsewhere.cgroup()],
        };
        cgroups.into_iter().map(cpu_usage).sum()
    }

    /// A folder that goes with the lab.
    pub(super) fn folder(&self) -> Result<PathBuf> {
        let config = self.agent.config();
        Ok(config.parent().context("a file is in a folder")?.to_owned())
    }

    /// Starts a program of the test bed in the client pod.
    pub(super) fn client(
        &self,
        side: Side,
        cpus: Cpus,
        program: &str,
        arguments: &[String],
    ) -> Result<Process> {
        spawn(&self.place(&self.client, side), cpus, program, arguments)
    }

    /// Runs `socket-probe bench-connect` and gives a result per address; an operation that failed is an error.
    pub(super) fn bench_connect(
        &self,
        side: Side,
        cpus: Cpus,
        addresses: &[SocketAddr],
        flags: &[&str],
        count: u64,
    ) -> Result<Vec<Target>> {
        let mut arguments = vec!["bench-connect".to_owned(), format!("--count={count}")];
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        arguments.extend(addresses.iter().map(ToString::to_string));
        let (mut report, _): (BenchReport, _) =
            self.client(side, cpus, "socket-probe", &arguments)?.report()?;
        for (target, address) in report.targets.iter_mut().zip(addresses) {
            target.clock_ns = report.clock_ns;
            ensure!(
                target.ok == count,
                "{address}: {:?} of {count} operations failed",
                target.errors
            );
        }
        Ok(report.targets)
    }

    /// What the agent's programs did so far; counted while statistics are on.
    pub(super) fn programs(&self) -> Result<Programs> {
        Programs::of(self.agent.process().pid())
    }

    /// What the agent tells Prometheus.
    pub(super) fn metrics(&self) -> Result<String> {
        let (code, text) = self.agent.http(&self.node, "/metrics")?;
        ensure!(code == 200, "/metrics answered {code}");
        Ok(text)
    }
}

fn listening(server: Process) -> Result<Process> {
    server.wait_for_line(|line| line.starts_with("listening on"))?;
    Ok(server)
}

/// What the kernel accounts to a cgroup.
fn cpu_usage(cgroup: &Path) -> Result<Duration> {
    let file = cgroup.join("cpu.stat");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let usage = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
    let usage = usage.with_context(|| format!("usage_usec in {}", file.display()))?;
    Ok(Duration::from_micros(usage.parse()?))
}

/// Starts a program that inherits the CPUs that it may use.
fn spawn(place: &Place, cpus: Cpus, program: &str, arguments: &[String]) -> Result<Process> {
    thread::scope(|scope| {
        let starter = scope.spawn(|| {
            if cpus == Cpus::One {
                let mut set = CpuSet::new();
                set.set(thread::available_parallelism()?.get() - 1)?;
                sched_setaffinity(Pid::from_raw(0), &set).context("choose a CPU")?;
            }
            Process::spawn(place, &binary(program), arguments)
        });
        starter
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A service at `address` with one port, and an algorithm.
pub(super) fn service(
    name: &str,
    address: SocketAddr,
    protocol: &str,
    algorithm: &str,
    backends: impl IntoIterator<Item = (SocketAddr, u32)>,
) -> String {
    let backends: Vec<String> = backends
        .into_iter()
        .map(|(backend, weight)| {
            format!(
                "  - {{address: {}, port: {}, weight: {weight}}}\n",
                backend.ip(),
                backend.port()
            )
        })
        .collect();
    format!(
        "---
apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {{name: {name}, namespace: bench}}
spec:
  addresses: [{}]
  ports: [{{port: {}, protocol: {protocol}}}]
  backends:
{}---
apiVersion: nodemesh.io/v1alpha1
kind: TrafficPolicy
metadata: {{name: {name}, namespace: bench}}
spec:
  targetRef: {{kind: Service, name: {name}}}
  loadBalancer: {{algorithm: {algorithm}}}
",
        address.ip(),
        address.port(),
        backends.concat()
    )
}

/// Address of the `index`th service.
pub(super) fn virtual_address(index: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 1, index], 8000))
}
