// SPDX-License-Identifier: Apache-2.0
//! The benchmarks: what the mesh costs and how fast it follows a change, on the machine where they run.
//!
//! ```text
//! cases ─► lab (node, agent, client, server) ─► socket-probe, or `inside` ─► series ─► Markdown
//! ```
//! Used by the binary `bench`. Invariant: a ratio compares what was measured in turns within one run, and stands beside the
//! ratio of two measurements of the same thing, which is what the machine's noise makes of 1.

mod admission;
mod chaos;
mod connect_hook;
mod control_agents;
mod control_fanout;
mod control_lab;
mod control_push;
mod control_registrations;
mod control_scale;
mod distribution;
mod established;
mod exchange;
mod footprint;
mod inside;
mod kubernetes;
mod lab;
mod listing;
mod machine;
mod markdown;
mod meter_calls;
mod meter_memory;
mod meter_streams;
mod meter_tokens;
mod packet;
mod pick_scale;
mod process_use;
mod scale;
mod series;
mod short_talk;
mod shortcut;
mod start;
mod token_load;

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Instant, SystemTime},
};

use anyhow::{Context as _, Result};

use crate::interrupt::{Interrupt, Interrupted};
use inside::Inside;

/// Exit code of a program that was ended by Ctrl-C.
const EXIT_INTERRUPTED: u8 = 130;

/// Measure what the mesh costs on this machine.
#[derive(Clone, Debug, clap::Parser)]
#[command(
    name = "bench",
    bin_name = "cargo xtask bench",
    args_conflicts_with_subcommands = true
)]
pub struct Options {
    /// Fewer and shorter rounds: all cases in about three minutes.
    #[arg(long)]
    quick: bool,
    /// Also write the results to a file in this folder.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// What to measure [default: everything].
    #[arg(value_enum)]
    cases: Vec<Case>,
    #[command(subcommand)]
    inside: Option<Inside>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// The hooks of `connect()`.
    ConnectHook,
    /// Connect, request, response and close.
    Exchange,
    /// The pick among 2 and among 10,000 backends.
    PickScale,
    /// A policy and limits beside none.
    Admission,
    /// A node with 10,000 services: start, change, memory.
    Scale,
    /// Where connections go.
    Distribution,
    /// Requests on established connections.
    Established,
    /// What the agent and its maps take.
    Footprint,
    /// What the meter takes of each read and write, of mesh sockets and of others.
    MeterCalls,
    /// CPU per token of metered streams, beside the same without nodemesh.
    MeterTokens,
    /// The agent while thousands of streams run.
    MeterStreams,
    /// Memory of a metered connection.
    MeterMemory,
    /// Two pods of one node, with the shortcut and without.
    Shortcut,
    /// A list of 200,000 connections.
    Listing,
    /// The packet path beside nftables DNAT, with 1 and with 10,000 services.
    Packet,
    /// From the agent's process to its data path: first start, upgrade, restart.
    Start,
    /// Kills and upgrades under 1,000 streams and 500 connects per second.
    Chaos,
    /// From an acknowledged write to the kernel of a node, with 100 agents connected.
    ControlPush,
    /// One change to 1,000 agents.
    ControlFanout,
    /// A control plane and an agent with 10,000 services and 100,000 endpoints.
    ControlScale,
    /// Registrations per second, and the end of a lease.
    ControlRegistrations,
    /// A cluster as the source: a slice to the kernel and to 100 agents, 100,000 endpoints listed anew.
    Kubernetes,
}

/// What every case is given.
struct Run {
    quick: bool,
    interrupt: Interrupt,
}

impl Run {
    /// The one or the other number of rounds, operations or seconds.
    fn scaled<T>(&self, quick: T, full: T) -> T {
        if self.quick { quick } else { full }
    }

    /// Between two measurements: ends the run if that was asked for.
    fn step(&self) -> Result<()> {
        Ok(self.interrupt.check()?)
    }
}

impl Case {
    fn run(self, run: &Run) -> Result<String> {
        match self {
            Self::ConnectHook => connect_hook::run(run),
            Self::Exchange => exchange::run(run),
            Self::PickScale => pick_scale::run(run),
            Self::Admission => admission::run(run),
            Self::Scale => scale::run(run),
            Self::Distribution => distribution::run(run),
            Self::Established => established::run(run),
            Self::Footprint => footprint::run(run),
            Self::MeterCalls => meter_calls::run(run),
            Self::MeterTokens => meter_tokens::run(run),
            Self::MeterStreams => meter_streams::run(run),
            Self::MeterMemory => meter_memory::run(run),
            Self::Shortcut => shortcut::run(run),
            Self::Listing => listing::run(run),
            Self::Packet => packet::run(run),
            Self::Start => start::run(run),
            Self::Chaos => chaos::run(run),
            Self::ControlPush => control_push::run(run),
            Self::ControlFanout => control_fanout::run(run),
            Self::ControlScale => control_scale::run(run),
            Self::ControlRegistrations => control_registrations::run(run),
            Self::Kubernetes => kubernetes::run(run),
        }
    }

    fn name(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Runs the cases and prints the results; success means that every case could be measured.
pub fn run(options: Options) -> Result<ExitCode> {
    if let Some(inside) = options.inside {
        inside.run()?;
        return Ok(ExitCode::SUCCESS);
    }
    let interrupt = Interrupt::watch()?;
    let run = Run {
        quick: options.quick,
        interrupt: interrupt.clone(),
    };
    match measure(&run, &options) {
        Ok(true) => Ok(ExitCode::SUCCESS),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) if error.is::<Interrupted>() || interrupt.check().is_err() => {
            eprintln!("interrupted; everything was removed");
            Ok(ExitCode::from(EXIT_INTERRUPTED))
        }
        Err(error) => Err(error),
    }
}

fn measure(run: &Run, options: &Options) -> Result<bool> {
    let began = (Instant::now(), SystemTime::now());
    let cases = match options.cases.as_slice() {
        [] => <Case as clap::ValueEnum>::value_variants(),
        some => some,
    };
    let mut sections = vec![machine::section(run.quick)?];
    let mut complete = true;
    for case in cases {
        eprintln!("{} ...", case.name());
        let started = Instant::now();
        let section = match case.run(run) {
            Ok(text) => text,
            Err(error) if run.interrupt.check().is_err() => return Err(error),
            Err(error) => {
                complete = false;
                format!("Could not be measured: {error:#}\n")
            }
        };
        eprintln!("{} took {:.1} s", case.name(), started.elapsed().as_secs_f64());
        sections.push(format!("## {}\n\n{section}", case.name()));
    }
    let took = began.0.elapsed().as_secs_f64();
    sections.push(format!(
        "Measured in {took:.0} s; load average at the end: {}.\n",
        machine::load_average()?
    ));
    let text = sections.join("\n");
    println!("{text}");
    if let Some(folder) = &options.output {
        eprintln!("written to {}", write(folder, began.1, &text)?.display());
    }
    Ok(complete)
}

fn write(folder: &Path, began: SystemTime, text: &str) -> Result<PathBuf> {
    let date = humantime::format_rfc3339_seconds(began)
        .to_string()
        .replace(':', "");
    let file = folder.join(format!("{date}.md"));
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(&file, text))
        .with_context(|| format!("write {}", file.display()))?;
    Ok(file)
}
