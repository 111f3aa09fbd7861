// SPDX-License-Identifier: Apache-2.0
//! What the control plane is told and what it tells, through the CLI's verbs.
//!
//! Invariant: what is shown is the output of the CLI as it is.

use std::{
    collections::BTreeSet,
    process::Output,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

use super::{mesh, screen::Screen};
use crate::{control::ControlPlane, eventually::pause, interrupt::Interrupt, single_node::said};

/// How long the nodes may take to report that nothing is in flight any more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);

const NODES: [&str; 2] = ["get", "nodes"];
const BACKENDS: [&str; 4] = ["get", "backends", "-n", mesh::NAMESPACE];

/// What the control plane knows of its nodes and their load.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) nodes: Vec<Node>,
    pub(super) backends: Vec<Backend>,
}

/// One line of `nodemesh get nodes`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) id: String,
    applied_version: String,
    types: Vec<Type>,
    errors: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Type {
    nack_message: String,
}

/// One line of `nodemesh get backends`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Backend {
    workload: String,
    in_flight: u64,
    connections_active: u64,
}

impl Node {
    /// Whether it has what it was sent and complains about nothing.
    pub(super) fn is_well(&self) -> bool {
        let accepts = |state: &Type| state.nack_message.is_empty();
        !self.applied_version.is_empty() && self.errors.is_empty() && self.types.iter().all(accepts)
    }
}

impl Fleet {
    /// Names of the workloads that are registered; backends that have left have none any more.
    pub(super) fn workloads(&self) -> BTreeSet<&str> {
        let names = self.backends.iter().map(|backend| backend.workload.as_str());
        names.filter(|name| !name.is_empty()).collect()
    }

    /// Requests in flight at a workload.
    fn in_flight(&self, workload: &str) -> u64 {
        let own = self
            .backends
            .iter()
            .filter(|backend| backend.workload == workload);
        own.map(|backend| backend.in_flight).sum()
    }

    /// Requests in flight and open connections, over all nodes.
    pub(super) fn open(&self) -> (u64, u64) {
        let sum = |number: fn(&Backend) -> u64| self.backends.iter().map(number).sum();
        (
            sum(|backend| backend.in_flight),
            sum(|backend| backend.connections_active),
        )
    }

    fn ask(control: &ControlPlane) -> Result<Self> {
        Ok(Self {
            nodes: json(control, &NODES)?,
            backends: json(control, &BACKENDS)?,
        })
    }
}

/// Applies what an operator wrote, and shows both.
pub(super) fn apply(control: &ControlPlane, screen: &mut Screen) -> Result<()> {
    apply_text(control, &mesh::manifest(), screen)
}

/// The same for any `manifest`.
pub(super) fn apply_text(control: &ControlPlane, manifest: &str, screen: &mut Screen) -> Result<()> {
    let answer = text(&control.cli_with(&["apply", "-f", "-"], manifest))?;
    screen.say(&format!("$ nodemesh apply -f - <<EOF\n{manifest}EOF\n{answer}"));
    Ok(())
}

/// Deletes a policy of who may connect, and shows it.
pub(super) fn delete_policy(control: &ControlPlane, name: &str, screen: &mut Screen) -> Result<()> {
    let verb = ["delete", "accesspolicy", name, "-n", mesh::NAMESPACE];
    let answer = text(&control.cli(&verb))?;
    screen.say(&format!("\n$ nodemesh {}\n{answer}", verb.join(" ")));
    Ok(())
}

/// Waits until the nodes have reported requests in flight at `workload`, and gives how many; 0 if they do not.
pub(super) fn in_flight(control: &ControlPlane, workload: &str, interrupt: &Interrupt) -> Result<u64> {
    let fleet = wait(control, interrupt, |fleet| fleet.in_flight(workload) > 0)?;
    Ok(fleet.in_flight(workload))
}

/// Waits until the nodes have reported that nothing is open, and shows them and their load.
pub(super) fn show(control: &ControlPlane, interrupt: &Interrupt, screen: &mut Screen) -> Result<Fleet> {
    wait(control, interrupt, |fleet| fleet.open() == (0, 0))?;
    for verb in [&NODES[..], &BACKENDS] {
        let text = text(&control.cli(verb))?;
        let lines: Vec<String> = text.lines().map(|line| format!("  {line}")).collect();
        screen.say(&format!("\n$ nodemesh {}\n{}", verb.join(" "), lines.join("\n")));
    }
    Fleet::ask(control)
}

fn wait(control: &ControlPlane, interrupt: &Interrupt, is_right: impl Fn(&Fleet) -> bool) -> Result<Fleet> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt.check()?;
        let fleet = Fleet::ask(control)?;
        if is_right(&fleet) || Instant::now() > deadline {
            return Ok(fleet);
        }
        pause(LOOK_INTERVAL);
    }
}

fn json<T: DeserializeOwned>(control: &ControlPlane, verb: &[&str]) -> Result<T> {
    let text = text(&control.cli(&[verb, &["-o", "json"]].concat()))?;
    serde_json::from_str(&text).with_context(|| format!("the JSON of nodemesh {}: {text}", verb.join(" ")))
}

fn text(output: &Output) -> Result<String> {
    ensure!(output.status.success(), "nodemesh: {}", said(output));
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_that_have_left_are_no_workloads_but_what_is_open_there_counts() {
        let backend = |workload: &str, in_flight| Backend {
            workload: workload.into(),
            in_flight,
            connections_active: 1,
        };
        let fleet = Fleet {
            nodes: Vec::new(),
            backends: vec![backend("replica-1", 2), backend("replica-1", 3), backend("", 4)],
        };
        assert_eq!(fleet.workloads(), BTreeSet::from(["replica-1"]));
        assert_eq!((fleet.in_flight("replica-1"), fleet.open()), (5, (9, 3)));
    }
}
