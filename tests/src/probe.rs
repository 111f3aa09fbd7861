// SPDX-License-Identifier: Apache-2.0
//! What the socket API itself says: which errno a connect got, which address `getpeername()` and `recvfrom()` return,
//! which replica answered, and what a connect costs. Used by the binary `socket-probe` for tests of kernel programs.
//!
//! `serve` is the far end; `connect`, `udp` and `bench-connect` are the near end and print one JSON line. Invariant: a
//! near end never retries, times out or rewrites anything that it was not told to.

mod bench;
mod connect;
mod report;
mod serve;
mod tcp;
mod udp;

#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

/// Sockets, and nothing but the truth about them.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "socket-probe", version)]
pub struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Command {
    /// Answer with a name: TCP connections get it as a line and then an echo, datagrams as a prefix.
    Serve(serve::Args),
    /// Open TCP connections and report where they led.
    Connect(connect::Args),
    /// Exchange datagrams and report who answered from where.
    Udp(udp::Args),
    /// Measure what `connect()` costs, with several addresses interleaved.
    BenchConnect(bench::Args),
}

/// Runs one command. A report that lists errors is a success: the caller judges it.
pub fn run(options: Options) -> anyhow::Result<ExitCode> {
    crate::file_limit::raise()?;
    match options.command {
        Command::Serve(args) => serve::run(&args)?,
        Command::Connect(args) => connect::run(&args)?,
        Command::Udp(args) => print(&udp::run(&args)?)?,
        Command::BenchConnect(args) => print(&bench::run(&args)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(report: &impl Serialize) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, report)?;
    writeln!(stdout)?;
    Ok(stdout.flush()?)
}

/// A time span; a bare number is in milliseconds.
fn span(text: &str) -> Result<Duration, humantime::DurationError> {
    text.parse().map_or_else(
        |_| humantime::parse_duration(text),
        |millis| Ok(Duration::from_millis(millis)),
    )
}

/// Like [`span`], but longer than 0: the kernel takes a timeout of 0 for none.
fn timeout(text: &str) -> Result<Duration, String> {
    match span(text) {
        Ok(span) if !span.is_zero() => Ok(span),
        Ok(_) => Err("a timeout must be longer than 0".into()),
        Err(error) => Err(error.to_string()),
    }
}
