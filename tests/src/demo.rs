// SPDX-License-Identifier: Apache-2.0
//! The demo: clients of a virtual address, model servers of unequal speed that register themselves at a control plane, two nodes,
//! and what becomes of the traffic when the control plane dies and returns, a server dies, joins, leaves, and freezes, and a client is
//! denied.
//!
//! ```text
//! roles ─► stage (nodes, control plane, servers, clients) ─► script, story, wedge, outside, denial (what happens) ─► kernels, watch ─► screen
//!                                                                   └─► facts, fleet ─► summary, verdict (expectations)
//! ```
//! Used by the binary `demo`. Invariant: every number on the screen was read from the CLI and the agents' API, from a client's report
//! or from a server's own answer; none is computed from what the demo did.

mod client;
mod denial;
mod facts;
mod fleet;
mod kernels;
mod latency;
mod mesh;
mod operator;
mod outside;
mod pair;
mod picture;
mod replica;
mod roles;
mod screen;
mod script;
mod squatters;
mod stage;
mod story;
mod summary;
mod upheaval;
mod verdict;
mod watch;
mod wedge;

use std::process::ExitCode;

use anyhow::Result;

use crate::interrupt::{Interrupt, Interrupted};
use screen::Screen;
use stage::Stage;
use story::Story;

/// Exit code of a program that was ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Watch connections to one model service while its replicas come and go and its control plane restarts.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "demo", bin_name = "cargo xtask demo")]
pub struct Options {
    /// How long it takes; everything that happens is scaled to it.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(30..=600))]
    seconds: u32,
    /// Append lines instead of redrawing the table in place [default: if the output is no terminal].
    #[arg(long)]
    plain: bool,
}

/// Runs the demo; success means that every expectation held.
pub fn run(options: &Options) -> Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    let mut screen = Screen::new(options.plain);
    match perform(options, &interrupt, &mut screen) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) if error.is::<Interrupted>() || interrupt.check().is_err() => {
            screen.settle();
            screen.say("interrupted; everything was removed");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}

fn perform(options: &Options, interrupt: &Interrupt, screen: &mut Screen) -> Result<bool> {
    let timing = script::Timing::new(options.seconds);
    screen.say(&picture::picture(timing));
    let mut stage = Stage::build(interrupt, screen)?;
    let facts = Story::new(&mut stage, timing, interrupt, screen)?.play()?;
    screen.settle();
    screen.say(&summary::text(&stage, &facts));
    let wedged = wedge::play(&stage, interrupt, screen)?;
    let outside = outside::play(&stage, interrupt, screen)?;
    let denied = denial::play(&stage, interrupt, screen)?;
    let fleet = fleet::show(&stage.control, interrupt, screen)?;
    let upheaval = upheaval::play(interrupt, screen)?;
    let paired = pair::play(interrupt, screen)?;
    let scenes = (&wedged, &outside, &denied);
    let verdict = verdict::judge(&stage, &facts, scenes, &fleet, &upheaval, &paired);
    screen.say(&verdict.to_string());
    Ok(verdict.all_hold())
}
