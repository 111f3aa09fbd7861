// SPDX-License-Identifier: Apache-2.0
//! A scene: a client outside the mesh, whose sockets no program sees, reaches the model by the packet path of the first node.
//!
//! Invariant: what is shown is the output of the CLI; what is told was counted by the client and by the kernel.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use nodemesh_agent::api;

use super::{client::Report, mesh, screen::Screen, stage::Stage};
use crate::{
    agent::Agent,
    eventually::{PATIENCE, wait_until},
    interrupt::Interrupt,
};

/// Requests, each on a connection of its own.
const REQUESTS: u64 = 24;
/// Connections at a time.
const STREAMS: u32 = 8;
/// Tokens of an answer: enough for a look while they come.
const TOKENS: u32 = 48;
/// Lines of the list that are shown.
const SHOWN: usize = 5;

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Outside {
    /// Requests that were answered.
    answered: u64,
    /// Flows that were open at one moment, and on how many replicas.
    open: (usize, usize),
    /// Connections of the client that a socket hook saw.
    by_sockets: usize,
    /// Packets toward the replicas and back, as the kernel counted them.
    packets: (u64, u64),
}

impl Outside {
    /// What should have been seen, whether it was, and the numbers.
    pub(super) fn expectation(&self) -> (&'static str, bool, String) {
        let (open, replicas) = self.open;
        let (forwarded, returned) = self.packets;
        let holds = self.answered == REQUESTS
            && replicas > 1
            && self.by_sockets == 0
            && forwarded > 0
            && returned > 0;
        let numbers = format!(
            "{} of {REQUESTS} requests answered; {open} flows on {replicas} replicas at one moment, {} of them seen at a socket; {forwarded} \
             packets forwarded, {returned} returned",
            self.answered, self.by_sockets
        );
        (
            "a client outside the mesh reaches the model by packets",
            holds,
            numbers,
        )
    }
}

/// Plays the scene.
pub(super) fn play(stage: &Stage, interrupt: &Interrupt, screen: &mut Screen) -> Result<Outside> {
    let agent = stage.agent(0);
    let address = mesh::service_address(0);
    screen.say(&format!(
        "\nAnd a stranger: {} is outside the mesh, no hook sees its sockets. Its packets to {address} come to node a, which translates them.",
        stage.outsider.v4()
    ));
    let before = packets(agent)?;
    let arguments = [
        format!("--url=http://{address}"),
        format!("--model={}", mesh::MODEL),
        format!("--requests={REQUESTS}"),
        format!("--concurrency={STREAMS}"),
        format!("--max-tokens={TOKENS}"),
    ];
    let streams = stage.outsider.spawn("load-client", &arguments)?;
    let mut flows = Vec::new();
    wait_until(PATIENCE, || {
        flows = agent.flows().unwrap_or_default();
        flows.retain(|flow| flow.state == "established");
        interrupt.check().is_err() || flows.len() > STREAMS as usize / 2
    })
    .context("see flows of the client outside")?;
    interrupt.check()?;
    show(agent, screen)?;
    let client = stage.outsider.v4().to_string();
    let is_its = |connection: &api::Connection| {
        let address = connection.client.as_deref().unwrap_or_default();
        address.starts_with(&client)
    };
    let by_sockets = agent
        .connections()?
        .iter()
        .filter(|connection| is_its(connection))
        .count();
    let replicas: BTreeSet<&str> = flows.iter().map(|flow| flow.backend.as_str()).collect();
    let open = (flows.len(), replicas.len());
    let (report, _): (Report, _) = streams.report()?;
    // What is over is told apart from what is open only when its time is over, too.
    wait_until(PATIENCE, || agent.flows().is_ok_and(|flows| flows.is_empty()))
        .with_context(|| format!("see the flows end: {:?}", agent.flows()))?;
    let after = packets(agent)?;
    Ok(Outside {
        answered: report.requests.ok,
        open,
        by_sockets,
        packets: (after.0 - before.0, after.1 - before.1),
    })
}

/// Packets forwarded and returned so far.
fn packets(agent: &Agent) -> Result<(u64, u64)> {
    let status = agent.status()?;
    let packet = status.datapath.packet.context("node a has a packet path")?;
    let count = |event: &str| packet.events.get(event).map_or(0, |count| count.packets);
    Ok((count("forwarded"), count("returned")))
}

fn show(agent: &Agent, screen: &mut Screen) -> Result<()> {
    let output = agent.cli(&["connections", "--path", "packet", "--sort", "bytes"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    screen.say("$ nodemesh connections --path packet --sort bytes");
    for line in text.lines().take(SHOWN + 1) {
        screen.say(&format!("  {}", line.trim_end()));
    }
    Ok(())
}
