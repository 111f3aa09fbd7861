// SPDX-License-Identifier: Apache-2.0
//! A chapter of its own: an agent is killed while it starts and upgraded, to another build and to another ABI and back, under streams
//! and connects. On two nodes of its own.
//!
//! Invariant: what it shows is what clients and the agent's counters said.

use anyhow::Result;

use super::screen::Screen;
use crate::{
    chaos::{self, Outcome, Plan},
    interrupt::Interrupt,
};

/// Enough to see every kind of it, in a quarter of a minute.
const PLAN: Plan = Plan {
    streams: 100,
    tokens: 20,
    connects_per_second: 50,
    kills: 4,
    upgrades: 4,
    other_abi: true,
    placed_alone: 600,
    seed: 7,
};

/// Plays it.
pub(super) fn play(interrupt: &Interrupt, screen: &mut Screen) -> Result<Outcome> {
    interrupt.check()?;
    screen.say(&format!(
        "\nThe agent of a node is killed and upgraded under {} streams and {} connects per second",
        PLAN.streams, PLAN.connects_per_second
    ));
    let outcome = chaos::run(&PLAN, |act| screen.say(&format!("  {act}")))?;
    let (seen, counted) = (&outcome.seen, &outcome.counted);
    screen.say(&format!(
        "  clients: {} connections, {} requests to their end, {} failed, {} broke off; the agent counted {} connections and {} requests",
        seen.connections, seen.ok, seen.failed, seen.cut, counted.opened, counted.requests
    ));
    Ok(outcome)
}
