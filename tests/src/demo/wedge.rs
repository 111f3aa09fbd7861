// SPDX-License-Identifier: Apache-2.0
//! A scene: one replica freezes in the middle of its streams while its `/health` goes on to say 200 and another one is merely slow; the CLI
//! tells them apart, the kernels leave the frozen one alone, and it thaws.
//!
//! Invariant: what is shown is the output of the CLI; nothing of it is made up or left out but lines of other replicas.

mod ejection;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use nodemesh_agent::api::{Connection, Phase};
use serde_json::{Value, json};

use super::{
    client::Report,
    fleet, mesh, operator,
    replica::Replica,
    roles::{FASTEST, SLOWEST},
    screen::Screen,
    stage::Stage,
};
use crate::{agent::Agent, eventually::pause, interrupt::Interrupt, monotonic::now_ns, process::Process};
pub(super) use ejection::Ejected;

/// Clients of this scene: one of each node.
const CALLERS: [usize; 2] = [0, 2];
/// Streams of each at the same time.
const STREAMS: usize = 9;
/// Tokens of an answer.
const TOKENS: u32 = 64;
/// Milliseconds between two tokens of the slow replica, and of the others: all answers take longer than it takes to tell who is wedged.
const SLOW: u32 = 100;
const PACE: u32 = 40;
/// Streams of the frozen replica at each node when it freezes.
const AT_LEAST: usize = 2;
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
    /// What the kernels did about it.
    pub(super) ejected: Ejected,
    /// Requests that were answered in the end, and those that failed or were cut.
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
    let agents = CALLERS.map(|caller| stage.agent(stage.clients[caller].cast.node));
    for replica in stage.replicas.iter().filter(|replica| replica.runs()) {
        let pace = if std::ptr::eq(replica, slow) { SLOW } else { PACE };
        replica.behave(&json!({"inter_token_ms": pace}))?;
    }
    let callers = CALLERS.map(|caller| call(stage, caller));
    let callers: Vec<Process> = callers.into_iter().collect::<Result<_>>()?;
    for agent in agents {
        wait(interrupt, "streams from the replica that will freeze", || {
            let connections = agent.connections()?;
            Ok((streams(&connections, frozen).len() >= AT_LEAST).then_some(()))
        })?;
    }
    let at = now_ns();
    frozen.behave(&json!({"failure": "freeze", "failure_after": 0}))?;
    let health = frozen.health()?;
    screen.say(&format!(
        "\nOne more scene, with new streams from both nodes. {} freezes in the middle of its answers, as an engine does that hangs:\n\
         connections stay open, nothing breaks, new requests are accepted and not answered, and its /health says {health}. {} is\n\
         merely slow: {SLOW} ms for a token, where others take {PACE}. Which of them is wedged?",
        frozen.cast.name, slow.cast.name
    ));
    let seen = tell_apart(agents[0], frozen, slow, interrupt)?;
    let top = show(agents[0], frozen, slow, screen)?;
    let out = ejection::wait(agents, frozen, at, interrupt, screen)?;
    let told = fleet::in_flight(&stage.control, frozen.cast.name, interrupt)?;
    screen.say(&format!(
        "The control plane has heard of {told} requests in flight at {}.",
        frozen.cast.name
    ));
    let quiet = out.watch(agents, frozen, interrupt)?;
    let thawed = now_ns();
    frozen.behave(&json!({"failure": "none"}))?;
    for replica in stage.replicas.iter().filter(|replica| replica.runs()) {
        replica.behave(&json!({"inter_token_ms": replica.cast.speed.token}))?;
    }
    let mut ejected = quiet.readmission(agents, frozen, thawed, interrupt, screen)?;
    ejected.health = health;
    let answered = finish(callers)?;
    screen.say(&format!(
        "All streams of this scene have ended: {} requests were answered, {} were not.",
        answered.0, answered.1
    ));
    let [frozen, slow] = seen;
    Ok(Wedged {
        frozen,
        slow,
        top,
        told,
        ejected,
        answered,
    })
}

/// Starts streams from the pod of a client, until it is told to finish.
fn call(stage: &Stage, caller: usize) -> Result<Process> {
    let arguments = [
        format!("--url=http://{}", mesh::service_address(0)),
        format!("--model={}", mesh::MODEL),
        format!("--concurrency={STREAMS}"),
        format!("--max-tokens={TOKENS}"),
        "--think=20ms".into(),
        "--finish".into(),
        "--allow-failures".into(),
    ];
    stage.clients[caller].pod().spawn("load-client", &arguments)
}

/// Lets clients finish; requests that were answered, and others.
pub(super) fn finish(callers: Vec<Process>) -> Result<(u64, u64)> {
    for caller in &callers {
        caller.signal(Signal::SIGTERM)?;
    }
    let (mut ok, mut others) = (0, 0);
    for caller in callers {
        let (report, _): (Report, _) = caller.report()?;
        ok += report.requests.ok;
        others += report.failures() + report.requests.aborted;
    }
    Ok((ok, others))
}

/// Looks until there is something to see.
fn wait<T>(interrupt: &Interrupt, what: &str, mut look: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        interrupt.check()?;
        if let Some(seen) = look()? {
            return Ok(seen);
        }
        if Instant::now() > deadline {
            bail!("{what}: not within {PATIENCE:?}");
        }
        pause(LOOK_INTERVAL);
    }
}

/// Waits until some stream of the frozen replica is told to be stalled while the slow one streams, and gives the streams of both.
fn tell_apart(
    agent: &Agent,
    frozen: &Replica,
    slow: &Replica,
    interrupt: &Interrupt,
) -> Result<[Vec<Stream>; 2]> {
    wait(interrupt, "a stream that is told to be stalled", || {
        let connections = agent.connections()?;
        let found = [frozen, slow].map(|replica| streams(&connections, replica));
        let is_told = found[0].iter().all(|stream| stream.stalled) && !found[0].is_empty();
        Ok((is_told && !found[1].is_empty()).then_some(found))
    })
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
        let text = operator::ask(agent, verb)?;
        let is_shown = |line: &&str| line.contains(&frozen) || line.contains(&slow);
        let lines = text.lines().take(1).chain(text.lines().filter(is_shown));
        operator::show(screen, &verb.join(" "), lines);
    }
    screen.say(&format!("\n  {frozen} is the frozen one, {slow} the slow one.\n"));
    let text = operator::ask(agent, &["top", "--once", "--vantage", "client", "-o", "json"])?;
    let lines: Vec<Value> = serde_json::from_str(&text).context("the JSON of nodemesh top")?;
    let stalled = |backend: &str| {
        let line = lines.iter().find(|line| line["backend"] == backend);
        line.and_then(|line| line["stalled_streams"].as_u64())
            .with_context(|| format!("no line of {backend} in {lines:?}"))
    };
    Ok([stalled(&frozen)?, stalled(&slow)?])
}
