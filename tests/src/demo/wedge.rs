// SPDX-License-Identifier: Apache-2.0
//! The last scene: one replica freezes in the middle of its streams while another is merely slow, and the CLI tells them apart.
//!
//! Invariant: what is shown is the output of the CLI; nothing of it is made up or left out but lines of other replicas.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nodemesh_agent::api::{Connection, Phase};
use serde_json::{Value, json};

use super::{
    client::Report,
    fleet, mesh,
    replica::Replica,
    roles::{FASTEST, SLOWEST},
    screen::Screen,
    stage::Stage,
};
use crate::{agent::Agent, eventually::pause, interrupt::Interrupt};

/// Streams at the same time, over all replicas.
const STREAMS: u32 = 12;
/// Tokens of an answer.
const TOKENS: u32 = 32;
/// Milliseconds between two tokens of the slow replica.
const SLOW: u32 = 150;
/// How long to wait for what should be seen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Wedged {
    /// Streams of the frozen replica and how long ago their last byte was, seconds.
    pub(super) frozen: Vec<Stream>,
    /// Those of the slow one.
    pub(super) slow: Vec<Stream>,
    /// `STALLED` of `nodemesh top` for the frozen and for the slow replica.
    pub(super) top: [u64; 2],
    /// Requests in flight at the frozen replica, as the control plane told them then.
    pub(super) told: u64,
    /// Requests that were answered in the end, and all.
    pub(super) answered: (u64, u64),
}

/// A connection in the middle of a response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    pub(super) stalled: bool,
    /// Since the last byte, seconds.
    pub(super) quiet: f64,
}

/// Plays the scene.
pub(super) fn play(stage: &Stage, interrupt: &Interrupt, screen: &mut Screen) -> Result<Wedged> {
    let [frozen, slow] = [FASTEST, SLOWEST].map(|index| &stage.replicas[index]);
    frozen.behave(&json!({"failure": "freeze"}))?;
    slow.behave(&json!({"inter_token_ms": SLOW}))?;
    screen.say(&format!(
        "\nOne more scene: {STREAMS} new streams. {} freezes after a few tokens: its connections stay open and nothing breaks; {} \
         takes {SLOW} ms\nfor a token instead of {}. Which of them is wedged?",
        frozen.cast.name, slow.cast.name, slow.cast.speed.token
    ));
    let client = &stage.clients[0];
    let arguments = [
        format!("--url=http://{}", mesh::service_address(0)),
        format!("--model={}", mesh::MODEL),
        format!("--requests={STREAMS}"),
        format!("--concurrency={STREAMS}"),
        format!("--max-tokens={TOKENS}"),
    ];
    let streams = client.pod().spawn("load-client", &arguments)?;
    let agent = stage.agent(client.cast.node);
    let seen = tell_apart(agent, frozen, slow, interrupt)?;
    let top = show(agent, frozen, slow, screen)?;
    let told = fleet::in_flight(&stage.control, frozen.cast.name, interrupt)?;
    screen.say(&format!(
        "The control plane has heard of {told} requests in flight at {}.",
        frozen.cast.name
    ));
    frozen.behave(&json!({"failure": "none"}))?;
    slow.behave(&json!({"inter_token_ms": slow.cast.speed.token}))?;
    let (report, _): (Report, _) = streams.report()?;
    let answered = (report.requests.ok, u64::from(STREAMS));
    screen.say(&format!(
        "{} thaws, and {} of {} streams end as they should.",
        frozen.cast.name, answered.0, answered.1
    ));
    let [frozen, slow] = seen;
    Ok(Wedged {
        frozen,
        slow,
        top,
        told,
        answered,
    })
}

/// Waits until some stream of the frozen replica is told to be stalled while the slow one streams, and gives the streams of both.
fn tell_apart(
    agent: &Agent,
    frozen: &Replica,
    slow: &Replica,
    interrupt: &Interrupt,
) -> Result<[Vec<Stream>; 2]> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt.check()?;
        let connections = agent.connections()?;
        let found = [frozen, slow].map(|replica| streams(&connections, replica));
        if found[0].iter().any(|stream| stream.stalled) && !found[1].is_empty() {
            return Ok(found);
        }
        if Instant::now() > deadline {
            bail!("no stream was told to be stalled within {PATIENCE:?}: {connections:?}");
        }
        pause(LOOK_INTERVAL);
    }
}

fn streams(connections: &[Connection], replica: &Replica) -> Vec<Stream> {
    let open = connections
        .iter()
        .filter(|connection| is_of(&connection.backend, replica) && connection.phase == Phase::Stream);
    open.map(|connection| Stream {
        stalled: connection.stalled,
        quiet: connection.quiet_seconds.unwrap_or_default(),
    })
    .collect()
}

fn is_of(backend: &str, replica: &Replica) -> bool {
    replica
        .addresses()
        .iter()
        .any(|address| address.to_string() == backend)
}

/// Shows what an operator sees, and gives the stalled streams that `nodemesh top` tells of both replicas.
fn show(agent: &Agent, frozen: &Replica, slow: &Replica, screen: &mut Screen) -> Result<[u64; 2]> {
    let [frozen, slow] = [frozen, slow].map(|replica| replica.addresses()[0].to_string());
    for verb in [
        &["connections", "--vantage", "client", "--sort", "quiet"][..],
        &["top", "--once", "--vantage", "client"],
    ] {
        let text = ask(agent, verb)?;
        let shown = |line: &&str| line.contains(&frozen) || line.contains(&slow);
        let lines = text.lines().take(1).chain(text.lines().filter(shown));
        let lines: Vec<String> = lines.map(|line| format!("  {line}")).collect();
        screen.say(&format!("\n$ nodemesh {}\n{}", verb.join(" "), lines.join("\n")));
    }
    screen.say(&format!("\n  {frozen} is the frozen one, {slow} the slow one.\n"));
    let lines: Vec<Value> = serde_json::from_str(&ask(
        agent,
        &["top", "--once", "--vantage", "client", "-o", "json"],
    )?)
    .context("the JSON of nodemesh top")?;
    let stalled = |backend: &str| {
        let line = lines.iter().find(|line| line["backend"] == backend);
        line.and_then(|line| line["stalled_streams"].as_u64())
            .with_context(|| format!("no line of {backend} in {lines:?}"))
    };
    Ok([stalled(&frozen)?, stalled(&slow)?])
}

fn ask(agent: &Agent, verb: &[&str]) -> Result<String> {
    let output = agent.cli(verb)?;
    ensure!(
        output.status.success(),
        "nodemesh {}: {}",
        verb.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}
