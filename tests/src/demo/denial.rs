// SPDX-License-Identifier: Apache-2.0
//! A scene: two clients stream, a policy denies one of them, and it is lifted again.
//!
//! Invariant: what is shown is the output of the CLI; a client counts what it saw itself.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nodemesh_agent::api::EventKind;

use super::{client::Report, fleet, mesh, operator, screen::Screen, stage::Stage, wedge::finish};
use crate::{eventually::pause, interrupt::Interrupt, process::Process};

/// The client that goes on, and the one that is denied: of one node each.
const CHAT: usize = 0;
const BATCH: usize = 2;
const DENIED: &str = "apps/batch";
const RULE: &str = "no-batch";
/// Streams of each at the same time.
const STREAMS: usize = 2;
/// Tokens of an answer.
const TOKENS: u32 = 16;
/// How long both are watched under the policy.
const WATCHED: Duration = Duration::from_millis(1500);
/// How long to wait for what should be seen.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Denied {
    /// What the clients saw under the policy.
    pub(super) batch: Saw,
    pub(super) chat: Saw,
    /// Whether `nodemesh policy explain` names the rule.
    pub(super) is_explained: bool,
    /// Refusals that the events of the denied client's node tell of.
    pub(super) told: u64,
    /// From the end of the policy until the denied client was served again; `None` if it was not.
    pub(super) again: Option<Duration>,
}

/// What a client saw.
#[derive(Clone, Debug, Default)]
pub(super) struct Saw {
    answered: u64,
    /// Requests that failed on a connection that was open.
    broken: u64,
    opened: u64,
    /// Failed connects, by the name of their error.
    errors: BTreeMap<String, u64>,
}

impl Saw {
    fn add(&mut self, report: &Report) {
        let errors: u64 = report.connect_errors.values().sum();
        self.answered += report.requests.ok;
        self.broken += report.failures().saturating_sub(errors);
        self.opened += report.connections;
        for (name, count) in &report.connect_errors {
            *self.errors.entry(name.clone()).or_default() += count;
        }
    }

    /// Whether it got nowhere, and was told why.
    pub(super) fn only_denied(&self) -> bool {
        self.opened == 0 && self.answered == 0 && self.errors.keys().eq(["EACCES"])
    }

    /// Whether everything went well.
    pub(super) fn is_undisturbed(&self) -> bool {
        self.answered > 0 && self.broken == 0 && self.errors.is_empty()
    }
}

impl fmt::Display for Saw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} connections opened, {} requests answered",
            self.opened, self.answered
        )?;
        for (name, count) in &self.errors {
            write!(f, ", {count} x {name}")?;
        }
        Ok(())
    }
}

/// A client that streams until it is told to finish.
struct Caller {
    process: Process,
    /// Reports that were read.
    read: usize,
}

impl Caller {
    fn start(stage: &Stage, index: usize) -> Result<Self> {
        let arguments = [
            format!("--url=http://{}", mesh::service_address(0)),
            format!("--model={}", mesh::MODEL),
            format!("--concurrency={STREAMS}"),
            format!("--max-tokens={TOKENS}"),
            "--think=50ms".into(),
            "--report-interval=100ms".into(),
            "--finish".into(),
            "--allow-failures".into(),
        ];
        let process = stage.clients[index].pod().spawn("load-client", &arguments)?;
        Ok(Self { process, read: 0 })
    }

    /// What it reported since the last call.
    fn news(&mut self) -> Result<Saw> {
        let mut saw = Saw::default();
        for line in self.process.stdout().split_off(self.read) {
            self.read += 1;
            saw.add(&serde_json::from_str(&line).with_context(|| format!("a client said {line}"))?);
        }
        Ok(saw)
    }

    /// Waits for news that `are_right`, and gives how long that took.
    fn wait(&mut self, interrupt: &Interrupt, are_right: impl Fn(&Saw) -> bool) -> Result<Option<Duration>> {
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            interrupt.check()?;
            if are_right(&self.news()?) {
                return Ok(Some(began.elapsed()));
            }
            pause(LOOK_INTERVAL);
        }
        Ok(None)
    }
}

/// Plays the scene.
pub(super) fn play(stage: &Stage, interrupt: &Interrupt, screen: &mut Screen) -> Result<Denied> {
    let (chat, batch) = (&stage.clients[CHAT].cast.name, &stage.clients[BATCH].cast.name);
    screen.say(&format!(
        "\nThe last scene: {chat} and {batch} stream, and an operator gives both a name and denies one of them.\n"
    ));
    let [mut chat, mut batch] = [Caller::start(stage, CHAT)?, Caller::start(stage, BATCH)?];
    for caller in [&mut chat, &mut batch] {
        if caller.wait(interrupt, |saw| saw.answered > 0)?.is_none() {
            bail!("a client was not served: {:?}", caller.process.stderr());
        }
    }
    fleet::apply_text(&stage.control, &manifest(stage), screen)?;
    let Some(took) = batch.wait(interrupt, |saw| !saw.errors.is_empty())? else {
        bail!("{DENIED} was not denied within {PATIENCE:?}");
    };
    screen.say(&format!("\n{DENIED} is denied {} ms later.", took.as_millis()));
    let agent = stage.agent(stage.clients[BATCH].cast.node);
    let verb = ["policy", "explain", DENIED, mesh::SERVICE];
    let explained = operator::ask(agent, &verb)?;
    operator::show(screen, &verb.join(" "), explained.lines());
    // What they report from now on began when everything was in force.
    for caller in [&mut chat, &mut batch] {
        caller.wait(interrupt, |saw| saw.answered + saw.errors.len() as u64 > 0)?;
    }
    let [saw_chat, saw_batch] = watch(interrupt, [&mut chat, &mut batch])?;
    let filters = ["--kind", "refused", "--service", mesh::SERVICE];
    operator::show_events(agent, &filters, 2, screen)?;
    let events = operator::events(agent, EventKind::Refused, &["--service", mesh::SERVICE])?;
    let of_batch = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("policy"));
    let told = of_batch.map(|event| event.count.unwrap_or(1)).sum();
    let again = lift(stage, &mut batch, interrupt, screen)?;
    finish(vec![chat.process, batch.process])?;
    Ok(Denied {
        batch: saw_batch,
        chat: saw_chat,
        is_explained: explained.contains("denied") && explained.contains(RULE),
        told,
        again,
    })
}

/// What both see for a while.
fn watch(interrupt: &Interrupt, callers: [&mut Caller; 2]) -> Result<[Saw; 2]> {
    let end = Instant::now() + WATCHED;
    while Instant::now() < end {
        interrupt.check()?;
        pause(LOOK_INTERVAL);
    }
    let [chat, batch] = callers.map(Caller::news);
    Ok([chat?, batch?])
}

/// Deletes the policy, and gives how long it took until the denied client was served again.
fn lift(
    stage: &Stage,
    batch: &mut Caller,
    interrupt: &Interrupt,
    screen: &mut Screen,
) -> Result<Option<Duration>> {
    fleet::delete_policy(&stage.control, RULE, screen)?;
    let again = batch.wait(interrupt, |saw| saw.answered > 0)?;
    screen.say(&again.map_or_else(
        || format!("\n{DENIED} is not served again."),
        |again| format!("\n{DENIED} is served again {} ms later.", again.as_millis()),
    ));
    Ok(again)
}

/// What is applied: who the clients are, and the policy.
fn manifest(stage: &Stage) -> String {
    let [chat, batch] = [("chat", CHAT), ("batch", BATCH)].map(|(name, index)| {
        let client = &stage.clients[index];
        let (v4, v6) = (client.pod().v4(), client.pod().v6());
        format!(
            "apiVersion: nodemesh.io/v1alpha1
kind: Workload
metadata: {{name: {name}, namespace: apps}}
spec: {{addresses: [{v4}, \"{v6}\"], cgroup: {}}}
---
",
            client.cast.name
        )
    });
    format!(
        "{chat}{batch}apiVersion: nodemesh.io/v1alpha1
kind: AccessPolicy
metadata: {{name: {RULE}, namespace: {}}}
spec:
  targetRef: {{kind: Service, name: llama}}
  rules:
    - name: batch
      action: deny
      from: [{{namespaces: [apps], workloads: [batch]}}]
",
        mesh::NAMESPACE
    )
}
