// SPDX-License-Identifier: Apache-2.0
//! What an operator types at a node, and what the CLI answers.
//!
//! Invariant: what is shown is the output of the CLI; nothing is made up, and what is left out is said.

use anyhow::{Context as _, Result, ensure};
use nodemesh_agent::api::{Event, EventKind};

use super::screen::Screen;
use crate::{agent::Agent, single_node::said};

/// How far back events are looked for: longer than a scene takes.
const PAST: &str = "1m";

/// The answer of `nodemesh VERB` at the node of `agent`.
pub(super) fn ask(agent: &Agent, verb: &[&str]) -> Result<String> {
    let output = agent.cli(verb)?;
    ensure!(
        output.status.success(),
        "nodemesh {}: {}",
        verb.join(" "),
        said(&output)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// Shows a command and lines of its answer.
pub(super) fn show<'a>(screen: &mut Screen, command: &str, lines: impl Iterator<Item = &'a str>) {
    let lines: Vec<String> = lines.map(|line| format!("  {line}")).collect();
    screen.say(&format!("\n$ nodemesh {command}\n{}", lines.join("\n")));
}

/// The arguments of `nodemesh monitor` for what has happened lately, with more `filters`.
fn monitor<'a>(filters: &[&'a str]) -> Vec<&'a str> {
    [&["monitor", "--follow=false", "--since", PAST], filters].concat()
}

/// Shows the last `count` events that `filters` let through.
pub(super) fn show_events(agent: &Agent, filters: &[&str], count: usize, screen: &mut Screen) -> Result<()> {
    let verb = monitor(filters);
    let text = ask(agent, &verb)?;
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(count)..];
    let command = format!("{} | tail -{count}", verb.join(" "));
    show(screen, &command, last.iter().copied());
    Ok(())
}

/// The events of a kind that `filters` let through, the oldest first.
pub(super) fn events(agent: &Agent, kind: EventKind, filters: &[&str]) -> Result<Vec<Event>> {
    let filters = [&["--kind", kind.word(), "-o", "json"], filters].concat();
    let text = ask(agent, &monitor(&filters))?;
    let event = |line| serde_json::from_str(line).with_context(|| format!("no event: {line}"));
    text.lines().map(event).collect()
}
