// SPDX-License-Identifier: Apache-2.0
//! Case `control-scale`: 10,000 services with 100,000 endpoints, once as backends of the services and once as workloads that they
//! select: start of an agent, a change of one endpoint, and what control plane and agent take.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Result, ensure};
use serde_json::Value;

use super::{
    Run,
    control_lab::{ControlLab, SWITCHED, Writer, endpoint, selecting, service, workload},
    markdown::Table,
    series::Series,
};

const SERVICES: u32 = 10_000;
const ENDPOINTS: u32 = 10;
/// Writes at once while the resources are made.
const AT_ONCE: usize = 256;
/// Seconds from the start of an agent to ready.
const TARGET_START_S: f64 = 3.0;
/// MiB of the control plane and of the agent, at the peak.
const TARGET_MIB: [u64; 2] = [500, 200];

/// What the endpoints are.
#[derive(Clone, Copy)]
enum Form {
    Backends,
    Workloads,
}

pub(super) fn run(run: &Run) -> Result<String> {
    let mut text = String::new();
    for (form, what) in [
        (Form::Backends, "100,000 backends of 10,000 services"),
        (Form::Workloads, "100,000 workloads that 10,000 services select"),
    ] {
        text += &measure(run, form, what)?;
        text.push('\n');
    }
    Ok(text)
}

fn measure(run: &Run, form: Form, what: &str) -> Result<String> {
    let mut lab = ControlLab::new()?;
    let mut table = Table::new(&[what, ""]);
    let mut fact = |what: &str, value: String| table.row(&[what.to_owned(), value]);
    let took = form.fill(&lab.writer()?)?;
    fact(
        "written one by one, 256 at once",
        format!("{:.1} s", took.as_secs_f64()),
    );
    run.step()?;
    let mut starts = Series::default();
    for round in 0..run.scaled(2, 7) {
        run.step()?;
        if round > 0 {
            lab.forget_agent()?;
        }
        starts.push(lab.start_agent()?.as_secs_f64());
    }
    fact(
        "first start of an agent, process to ready",
        format!("{} s", starts.shown(1.0, 2)),
    );
    let memory = lab.memory()?;
    fact("control plane's memory after that", mib(memory[0]));
    fact("agent's memory after that", mib(memory[1]));
    let changes = changes(run, form, &lab)?;
    fact(
        "acknowledgement of one endpoint's change to the row in the kernel",
        format!("{} ms", changes.shown(1.0, 1)),
    );
    let memory = lab.memory()?;
    fact("control plane's memory after the changes", mib(memory[0]));
    fact("agent's memory after the changes", mib(memory[1]));
    // Not before: the list takes memory, too.
    let there = lab.agent.backends()?.len();
    ensure!(
        there >= (SERVICES * ENDPOINTS) as usize,
        "an agent with {there} endpoints was ready"
    );
    run.step()?;
    let took = lab.restart_control()?;
    fact(
        "restart of the control plane, process to ready",
        format!("{:.2} s", took.as_secs_f64()),
    );
    let [restarted, _] = lab.memory()?;
    fact("control plane's memory after its restart", mib(restarted));
    lab.agent.stop()?;
    let took = lab.start_agent()?;
    fact(
        "start of an agent from its state on disk, maps adopted",
        format!("{:.2} s", took.as_secs_f64()),
    );

    let start = word(starts.median() <= TARGET_START_S);
    let [control, agent] = [0, 1].map(|index| word(memory[index].1 / 1024 <= TARGET_MIB[index]));
    Ok(format!(
        "{table}\nTargets: start at most {TARGET_START_S} s: {start}; control plane at most {} MiB: {control}; agent at most {} MiB: \
         {agent}.\n",
        TARGET_MIB[0], TARGET_MIB[1]
    ))
}

impl Form {
    /// Makes the resources.
    fn fill(self, writer: &Writer<'_>) -> Result<Duration> {
        match self {
            Self::Backends => {
                let switched = self.changed(endpoint(SERVICES * ENDPOINTS));
                writer.apply_all((0..SERVICES).map(service_of).chain([switched]), AT_ONCE)
            }
            Self::Workloads => {
                let workloads = (0..SERVICES * ENDPOINTS).map(|number| {
                    workload(
                        &format!("w{number}"),
                        &format!("s{}", number / ENDPOINTS),
                        endpoint(number),
                    )
                });
                let services = (0..SERVICES).map(|number| selecting(&format!("s{number}"), number));
                Ok(writer.apply_all(services, AT_ONCE)? + writer.apply_all(workloads, AT_ONCE)?)
            }
        }
    }

    /// What changes: the last endpoint of the last service is at `address` now.
    fn changed(self, address: Ipv4Addr) -> Value {
        match self {
            Self::Backends => {
                let rest = (1..ENDPOINTS).map(|replica| endpoint(SERVICES * ENDPOINTS + replica));
                service(SWITCHED, SERVICES, rest.chain([address]))
            }
            Self::Workloads => workload("w0", "s0", address),
        }
    }
}

fn service_of(number: u32) -> Value {
    let backends = (0..ENDPOINTS).map(|replica| endpoint(number * ENDPOINTS + replica));
    service(&format!("s{number}"), number, backends)
}

/// Milliseconds from acknowledgement to the kernel.
fn changes(run: &Run, form: Form, lab: &ControlLab) -> Result<Series> {
    let (writer, rows) = (lab.writer()?, lab.rows()?);
    let mut series = Series::default();
    for round in 0..run.scaled(10, 50) {
        run.step()?;
        let address = endpoint(1_000_000 + round);
        let resource = form.changed(address);
        let (written, seen) = rows.appears(address, || writer.apply(&resource))?;
        series.push(seen.saturating_duration_since(written.acknowledged).as_secs_f64() * 1e3);
    }
    Ok(series)
}

fn mib((resident, peak): (u64, u64)) -> String {
    format!("{} MiB resident, peak {} MiB", resident / 1024, peak / 1024)
}

fn word(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**not met**" }
}
