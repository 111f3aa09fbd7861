// SPDX-License-Identifier: Apache-2.0
//! After the story: two pods of one node, and the shortcut between them, switched on and off while requests go on, all on the same
//! connections.
//!
//! Invariant: rates are what the client counted, and how messages went is what the agent's metrics say.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use serde_json::json;

use super::screen::Screen;
use crate::{
    agent::Agent,
    eventually::{PATIENCE, wait_until},
    interrupt::Interrupt,
    manifest::{Manifest, Policy, Service},
    process::{Process, binary},
    scrape::Scrape,
    topology::{Node, Topology},
};

/// Where clients find the server.
const SERVICE: ([u8; 4], u16) = ([10, 96, 9, 1], 8000);
const CONNECTIONS: u32 = 16;
/// Rates that are shown of each phase; the client tells one every half second.
const TELLINGS: usize = 3;

/// What was seen.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Paired {
    /// Requests per second by TCP, past it, and by TCP again.
    pub(super) rates: [f64; 3],
    /// Messages that took the shortcut in each of these phases.
    pub(super) handed: [u64; 3],
}

/// The node, its agent and the server.
struct Pair {
    agent: Agent,
    node: Node,
    server: SocketAddr,
    _topology: Topology,
}

/// Plays it.
pub(super) fn play(interrupt: &Interrupt, screen: &mut Screen) -> Result<Paired> {
    interrupt.check()?;
    let topology = Topology::new()?;
    let node = topology.node("pair")?;
    let (client, server) = (node.pod("asks")?, node.pod("answers")?);
    let address = SocketAddr::new(server.v4(), 9000);
    let mut pair = Pair {
        agent: node.agent()?,
        node,
        server: address,
        _topology: topology,
    };
    let program = binary("bench").display().to_string();
    let _server = server.serve(&program, &["short-serve".to_owned(), address.to_string()])?;
    pair.agent.configure(&pair.manifest(false))?;
    pair.agent.start(&["--shortcut", "force"])?;
    screen.say(&format!(
        "\nTwo pods of one node: {CONNECTIONS} connections, 1 KiB each way, thousand requests per second"
    ));
    let dial = SocketAddr::from(SERVICE);
    let arguments = [
        "short-talk".to_owned(),
        dial.to_string(),
        "exchange".to_owned(),
        format!("--connections={CONNECTIONS}"),
        "--millis=120000".to_owned(),
        "--tell".to_owned(),
    ];
    let mut talk = client.spawn(&program, &arguments)?;
    talk.wait_for_line(|line| line == "connected")?;
    talk.write_line("go")?;
    let mut seen = Paired::default();
    pair.phase(0, "the policy says nothing: TCP", &talk, &mut seen, screen)?;
    interrupt.check()?;
    pair.agent.reconfigure(&pair.manifest(true))?;
    let joined = || {
        pair.enrolled()
            .is_ok_and(|sockets| sockets == 2 * u64::from(CONNECTIONS))
    };
    wait_until(PATIENCE, joined).context("open connections do not take the shortcut")?;
    pair.phase(
        1,
        "shortcut: {enabled: true}, the same connections",
        &talk,
        &mut seen,
        screen,
    )?;
    interrupt.check()?;
    pair.agent.reconfigure(&pair.manifest(false))?;
    pair.phase(2, "switched off, the same connections", &talk, &mut seen, screen)?;
    Ok(seen)
}

impl Pair {
    fn manifest(&self, enabled: bool) -> String {
        let service = Service::new("pair", SERVICE.into()).to([self.server]);
        let policy = Policy::of("pair").set("shortcut", json!({"enabled": enabled}));
        Manifest::of([service]).and(policy).to_string()
    }

    fn scrape(&self) -> Result<Scrape> {
        let (_, text) = self.agent.http(&self.node, "/metrics")?;
        Scrape::parse(&text)
    }

    /// Messages that took the shortcut so far.
    fn handed_over(&self) -> Result<u64> {
        Ok(self
            .scrape()?
            .count("nodemesh_shortcut_messages_total", &[("route", "shortcut")]))
    }

    /// Sockets that are enrolled.
    fn enrolled(&self) -> Result<u64> {
        Ok(self.scrape()?.count("nodemesh_shortcut_sockets", &[]))
    }

    fn phase(
        &self,
        index: usize,
        what: &str,
        talk: &Process,
        seen: &mut Paired,
        screen: &mut Screen,
    ) -> Result<()> {
        let told = || {
            talk.stdout()
                .iter()
                .filter(|line| line.starts_with("rate "))
                .count()
        };
        let told_by =
            |lines: usize| wait_until(PATIENCE, || told() >= lines).context("the client tells no rate");
        // What is told next may have begun before the phase did.
        let from = told() + 1;
        told_by(from)?;
        let before = self.handed_over()?;
        told_by(from + TELLINGS)?;
        seen.handed[index] = self.handed_over()? - before;
        let rates: Vec<f64> = talk
            .stdout()
            .iter()
            .filter_map(|line| line.strip_prefix("rate ")?.parse().ok())
            .skip(from)
            .take(TELLINGS)
            .collect();
        seen.rates[index] = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
        let shown: Vec<String> = rates.iter().map(|rate| format!("{:.1}", rate / 1e3)).collect();
        screen.say(&format!(
            "  {what:<48} {}   {} messages handed over",
            shown.join("  "),
            seen.handed[index]
        ));
        Ok(())
    }
}
