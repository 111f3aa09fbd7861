// SPDX-License-Identifier: Apache-2.0
//! 10,000 Services with 100,000 endpoints, and a control plane that has to list all of it anew: the API server has forgotten what changed since. Agents
//! must not see anything of that but what really has changed.
//!
//! The double serves: the real one takes minutes to fill.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::{
    super::{
        Run,
        control_agents::{Arrival, SimulatedAgents},
        control_lab::endpoint,
        markdown::Table,
        process_use::resident,
        series::Series,
    },
    ClusterLab, Served, fresh, objects, pod_name, service, slice,
};
use crate::{
    eventually::wait_until,
    kubernetes::{ApiServer, Double},
};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
const AGENTS: usize = 10;
/// The Service whose slice changes.
const CHANGED: &str = "s0";
/// MiB of the control plane, at the peak.
const TARGET_MIB: u64 = 600;
/// Pauses in a row after which nothing more is expected.
const PAUSES: u32 = 6;
/// For a list of everything.
const PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn run(run: &Run, has_pods: bool) -> Result<String> {
    let what = if has_pods {
        "10,000 Services, 100,000 endpoints, 100,000 Pods"
    } else {
        "10,000 Services, 100,000 endpoints"
    };
    let mut table = Table::new(&[what, ""]);
    let mut fact = |what: &str, value: String| table.row(&[what.to_owned(), value]);
    let mut cluster = ClusterLab::new(Served::Double, |api| fill(api, has_pods))?;
    let pid = cluster.lab.control.process().pid();
    fact("control plane's memory when it is ready", mib(pid)?);
    let mut agents = SimulatedAgents::start(&cluster.lab.clients, &cluster.lab.control.url(), AGENTS)?;
    fact("with 10 agents that hold all of it", mib(pid)?);
    let mut took = Series::default();
    for round in 0..run.scaled(2, 5) {
        run.step()?;
        took.push(relist(&mut cluster, &mut agents, round)?.as_secs_f64());
    }
    fact(
        "the API server is back until a change that was missed is at the last agent",
        format!("{} s", took.shown(1.0, 2)),
    );
    fact("control plane's memory after that", mib(pid)?);
    let (_, peak) = resident(pid)?;
    let met = if peak / 1024 <= TARGET_MIB {
        "met"
    } else {
        "**not met**"
    };
    Ok(format!(
        "{table}\nEach time watches were answered 410; agents were sent the one slice that had changed and the one Service that was gone, and nothing else.\n\
         Target: at most {TARGET_MIB} MiB: {met}.\n"
    ))
}

fn double(api: &ApiServer) -> Result<&Double> {
    api.double().context("the double serves")
}

fn fill(api: &ApiServer, has_pods: bool) -> Result<()> {
    let double = double(api)?;
    for number in 0..SERVICES {
        let name = format!("s{number}");
        let addresses = (0..ENDPOINTS).map(|replica| endpoint(number * ENDPOINTS + replica));
        double.apply(&service(&name, number))?;
        double.apply(&slice(&name, addresses.clone()))?;
        if !has_pods {
            continue;
        }
        for address in addresses {
            let mut pod = objects::object("v1", "Pod", &pod_name(address));
            pod["metadata"]["labels"] = json!({"app": name});
            pod["spec"] = json!({
                "serviceAccountName": "default", "nodeName": "a",
                "containers": [{"name": "main", "image": "registry.example/model:1", "ports": [{"containerPort": 8000}]}],
            });
            double.apply(&pod)?;
            let status =
                json!({"status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}});
            double.patch_status(&pod, &status)?;
        }
    }
    Ok(())
}

/// The API server goes away, and comes back with two changes and no memory; how long until agents know.
fn relist(cluster: &mut ClusterLab, agents: &mut SimulatedAgents, round: u32) -> Result<Duration> {
    settle(agents)?;
    let address = fresh(round);
    let before = double(&cluster.api)?.expired();
    cluster.api.kill()?;
    let rest = (1..ENDPOINTS).map(endpoint);
    let gone = format!("s{}", round + 1);
    double(&cluster.api)?.apply(&slice(CHANGED, rest.chain([address])))?;
    double(&cluster.api)?.delete(&service(&gone, round + 1))?;
    cluster.api.restart()?;
    let began = Instant::now();
    let mut arrived: Vec<Arrival> = Vec::new();
    let api = double(&cluster.api)?;
    let mut failed = None;
    wait_until(PATIENCE, || {
        match agents.until_quiet() {
            Ok(more) => arrived.extend(more),
            Err(error) => failed = Some(error),
        }
        failed.is_some() || is_complete(&arrived, address.into(), &gone)
    })?;
    if let Some(error) = failed {
        return Err(error);
    }
    arrived.extend(agents.until_quiet()?);
    ensure!(api.expired() > before, "the API server has not answered 410");
    for name in arrived.iter().flat_map(|arrival| &arrival.names) {
        let is_expected = [CHANGED, &gone].iter().any(|service| is_of(name, service));
        ensure!(
            is_expected,
            "agents were sent {name}, of which nothing has changed"
        );
    }
    let last = arrived.iter().map(|arrival| arrival.at).max();
    Ok(last
        .context("something arrived")?
        .saturating_duration_since(began))
}

/// Waits until agents have all that there is: on a busy machine one pause says little.
fn settle(agents: &mut SimulatedAgents) -> Result<()> {
    let mut pauses = 0;
    while pauses < PAUSES {
        pauses = if agents.until_quiet()?.is_empty() {
            pauses + 1
        } else {
            0
        };
    }
    Ok(())
}

/// Whether every agent has the change and the end of a Service.
fn is_complete(arrived: &[Arrival], address: IpAddr, gone: &str) -> bool {
    (0..AGENTS).all(|agent| {
        let own = || arrived.iter().filter(|arrival| arrival.agent == agent);
        own().any(|arrival| arrival.endpoints.contains(&address))
            && own().any(|arrival| arrival.names.iter().any(|name| is_of(name, gone)))
    })
}

/// Whether the resource `name` is of the Service.
fn is_of(name: &str, service: &str) -> bool {
    let mut words = name.split(|char: char| !char.is_ascii_alphanumeric());
    words.any(|word| word == service)
}

fn mib(pid: u32) -> Result<String> {
    let (resident, peak) = resident(pid)?;
    Ok(format!(
        "{} MiB resident, peak {} MiB",
        resident / 1024,
        peak / 1024
    ))
}
