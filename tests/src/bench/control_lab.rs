// SPDX-License-Identifier: Apache-2.0
//! A control plane, an agent that follows it and the kernel's rows of that: what the cases about the control plane measure with.
//!
//! Invariant: sockets of a [`Inside`] are in the network namespace of its pod, whichever thread opens them.

use std::{
    collections::BTreeMap,
    fs::File,
    future::Future,
    net::{IpAddr, Ipv4Addr},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};
use nodemesh_abi::{Backend, BackendFlags, Ip16};
use nodemesh_agent::datapath::{MapWriter, PinRoot};
use nodemesh_proto::v1::{ApplyRequest, registry_client::RegistryClient};
use serde_json::{Value, json};
use tokio::runtime::{Builder, Runtime};
use tonic::transport::{Channel, Endpoint};

use super::process_use;
use crate::{
    agent::Agent,
    control::ControlPlane,
    eventually::{PATIENCE, pause},
    netns::NetNs,
    topology::{Node, Pod, Topology},
};

/// Namespace of every resource.
pub(super) const NAMESPACE: &str = "bench";
/// The service whose endpoint changes.
pub(super) const SWITCHED: &str = "switched";
/// Unused rows that are looked at for a new backend: the agent takes the lowest that is free.
const ROWS: usize = 4;
/// Pause between two looks at the kernel.
const LOOK: Duration = Duration::from_micros(100);
/// Flags without which thousands of clients at one address would be held back.
const NO_RATE_LIMIT: [&str; 2] = ["--max-request-rate", "1000000"];

/// A node with an agent, which may run or not, and a running control plane in a pod of it.
pub(super) struct ControlLab {
    pub(super) agent: Agent,
    pub(super) control: ControlPlane,
    /// Where simulated agents and those who write resources are.
    pub(super) clients: Inside,
    pins: PinRoot,
    _pod: Pod,
    _node: Node,
    _topology: Topology,
}

impl ControlLab {
    pub(super) fn new() -> Result<Self> {
        let (lab, ()) = Self::with(|_, control, flags| control.start(flags))?;
        Ok(lab)
    }

    /// One whose control plane is started by `start`, with these flags and more; and what that made on the node.
    pub(super) fn with<T>(
        start: impl FnOnce(&Node, &mut ControlPlane, &[&str]) -> Result<T>,
    ) -> Result<(Self, T)> {
        crate::file_limit::raise()?;
        let topology = Topology::new()?;
        let node = topology.node("a")?;
        let pod = node.pod("clients")?;
        let mut control = ControlPlane::new(node.pod("control")?);
        let made = start(&node, &mut control, &Self::flags())?;
        let lab = Self {
            agent: node.agent()?,
            control,
            clients: Inside::of(pod.netns())?,
            pins: node.pins(),
            _pod: pod,
            _node: node,
            _topology: topology,
        };
        Ok((lab, made))
    }

    fn flags() -> Vec<&'static str> {
        [&NO_RATE_LIMIT[..], &["--report-interval", "5s"]].concat()
    }

    /// Starts the agent and waits until it is ready; how long that took.
    pub(super) fn start_agent(&mut self) -> Result<Duration> {
        let flags = self.control.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let began = Instant::now();
        self.agent.start(&flags)?;
        Ok(began.elapsed())
    }

    /// Ends the agent and removes all that it would start from: state on disk, maps, programs.
    pub(super) fn forget_agent(&mut self) -> Result<()> {
        self.agent.stop()?;
        let output = self.agent.cleanup()?;
        ensure!(output.status.success(), "nodemesh cleanup: {output:?}");
        let state = self.agent.state_dir();
        std::fs::remove_dir_all(&state).with_context(|| format!("remove {}", state.display()))
    }

    /// Ends the control plane and starts it with the resources that it has; how long until it serves them.
    pub(super) fn restart_control(&mut self) -> Result<Duration> {
        self.control.stop()?;
        let began = Instant::now();
        self.control.start(&Self::flags())?;
        Ok(began.elapsed())
    }

    /// Someone who writes resources, with a connection of its own.
    pub(super) fn writer(&self) -> Result<Writer<'_>> {
        let endpoint = Endpoint::from_shared(self.control.url())?.tcp_nodelay(true);
        let connect = async move { endpoint.connect().await };
        let client = RegistryClient::new(
            self.clients
                .run(connect)
                .context("connect to the control plane")?,
        );
        Ok(Writer {
            inside: &self.clients,
            client,
        })
    }

    /// The kernel's rows.
    pub(super) fn rows(&self) -> Result<Rows> {
        Ok(Rows(MapWriter::open(&self.pins)?))
    }

    /// Resident memory of control plane and agent, KiB: now and at the peak.
    pub(super) fn memory(&self) -> Result<[(u64, u64); 2]> {
        let of = |pid| process_use::resident(pid);
        Ok([of(self.control.process().pid())?, of(self.agent.process().pid())?])
    }
}

/// A runtime whose threads are in a network namespace.
pub(super) struct Inside(Runtime);

impl Inside {
    fn of(netns: &NetNs) -> Result<Self> {
        let namespace = File::open(netns.path())?;
        let enter = move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET).expect("root may enter a network namespace");
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(enter)
            .build()?;
        Ok(Self(runtime))
    }

    /// Does `work` and waits for it.
    pub(super) fn run<F>(&self, work: F) -> F::Output
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        // Not `block_on` alone: this thread is elsewhere.
        let done = self.0.block_on(self.0.spawn(work));
        done.expect("work of a benchmark does not panic")
    }

    /// Lets `work` go on by itself.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        drop(self.0.spawn(work));
    }
}

/// Someone who writes resources.
pub(super) struct Writer<'l> {
    inside: &'l Inside,
    client: RegistryClient<Channel>,
}

/// When a write was sent and when it was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    pub(super) sent: Instant,
    pub(super) acknowledged: Instant,
}

impl Writer<'_> {
    /// Creates or replaces a resource.
    pub(super) fn apply(&self, resource: &Value) -> Result<Written> {
        let request = ApplyRequest {
            resource: resource.to_string(),
            ..ApplyRequest::default()
        };
        let mut client = self.client.clone();
        self.inside.run(async move {
            let sent = Instant::now();
            client.apply(request).await?;
            Ok(Written {
                sent,
                acknowledged: Instant::now(),
            })
        })
    }

    /// Creates many, `at_once` at a time; how long it took.
    pub(super) fn apply_all(
        &self,
        resources: impl Iterator<Item = Value> + Send + 'static,
        at_once: usize,
    ) -> Result<Duration> {
        use futures_util::{StreamExt as _, TryStreamExt as _, stream};
        let client = self.client.clone();
        let began = Instant::now();
        self.inside.run(async move {
            let calls = resources.map(|resource| {
                let mut client = client.clone();
                let request = ApplyRequest {
                    resource: resource.to_string(),
                    ..ApplyRequest::default()
                };
                async move { client.apply(request).await.map(drop) }
            });
            stream::iter(calls)
                .buffer_unordered(at_once)
                .try_collect::<()>()
                .await
        })?;
        Ok(began.elapsed())
    }
}

/// The rows of backends in an agent's kernel maps, which are only read here.
pub(super) struct Rows(MapWriter);

impl Rows {
    /// Ids one of which the next new backend gets: the lowest that are free, or will be when the agent has freed what is retired.
    fn free(&self) -> Result<Vec<u32>> {
        let (mut free, mut unused) = (Vec::new(), 0);
        for id in 0..self.0.backend_capacity() {
            let row = self.0.backend(id)?;
            if !is_available(&row) {
                free.push(id);
                unused += usize::from(row == Backend::UNUSED);
            }
            if unused == ROWS {
                return Ok(free);
            }
        }
        bail!("the map of backends is full")
    }

    /// Does `act`, which leads to a new backend at `address`, and looks for its row; what `act` came to and when the row was there.
    pub(super) fn appears<T: Send>(
        &self,
        address: Ipv4Addr,
        act: impl FnOnce() -> Result<T> + Send,
    ) -> Result<(T, Instant)> {
        let (ids, address) = (self.free()?, Ip16::from(IpAddr::V4(address)));
        let (seen, seeing) = mpsc::channel();
        let done = thread::scope(|scope| {
            let acting = scope.spawn(act);
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                let row = |id: &u32| {
                    self.0
                        .backend(*id)
                        .is_ok_and(|row| is_available(&row) && row.addr == address)
                };
                if ids.iter().any(row) {
                    // Received below.
                    let _ = seen.send(Instant::now());
                    break;
                }
                pause(LOOK);
            }
            acting
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let at = seeing
            .try_recv()
            .with_context(|| format!("no row of {address:?} within {PATIENCE:?}"))?;
        Ok((done, at))
    }

    /// Waits until there are available backends at all `addresses`; their ids, in the same order.
    pub(super) fn find(&self, addresses: &[Ipv4Addr]) -> Result<Vec<u32>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let mut by_address = BTreeMap::new();
            for id in 0..self.0.backend_capacity() {
                let row = self.0.backend(id)?;
                if is_available(&row) {
                    by_address.insert(row.addr.words(), id);
                }
            }
            let id_of = |address: &Ipv4Addr| by_address.get(&Ip16::from(IpAddr::V4(*address)).words());
            if let Some(ids) = addresses.iter().map(|address| id_of(address).copied()).collect() {
                return Ok(ids);
            }
        }
        bail!("not all rows within {PATIENCE:?}")
    }

    /// Waits until the backend of this id is not available any more.
    pub(super) fn goes(&self, id: u32, patience: Duration) -> Result<Instant> {
        let deadline = Instant::now() + patience;
        while is_available(&self.0.backend(id)?) {
            ensure!(
                Instant::now() < deadline,
                "the row {id} is still there after {patience:?}"
            );
            pause(LOOK);
        }
        Ok(Instant::now())
    }
}

fn is_available(row: &Backend) -> bool {
    row.generation != 0 && row.flags & BackendFlags::AVAILABLE != 0
}

/// A document.
pub(super) fn document(kind: &str, name: &str, labels: &Value, spec: &Value) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
        "spec": spec,
    })
}

/// The service `name` at the `number`th virtual address, with backends.
pub(super) fn service(name: &str, number: u32, backends: impl Iterator<Item = Ipv4Addr>) -> Value {
    let backends: Value = backends
        .map(|address| json!({"address": address, "port": 8000}))
        .collect();
    let spec =
        json!({"addresses": [virtual_address(number)], "ports": [{"port": 8000}], "backends": backends});
    document("Service", name, &json!({}), &spec)
}

/// The service `name` at the `number`th virtual address, of the workloads that are labelled with its name.
pub(super) fn selecting(name: &str, number: u32) -> Value {
    let spec =
        json!({"addresses": [virtual_address(number)], "ports": [{"port": 8000}], "selector": {"app": name}});
    document("Service", name, &json!({}), &spec)
}

/// The workload `name` of the service `app`.
pub(super) fn workload(name: &str, app: &str, address: Ipv4Addr) -> Value {
    document(
        "Workload",
        name,
        &json!({"app": app}),
        &json!({"addresses": [address]}),
    )
}

pub(super) fn virtual_address(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a60_0000 + number)
}

/// Address of the `number`th endpoint.
pub(super) fn endpoint(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 + number)
}
