// SPDX-License-Identifier: Apache-2.0
//! A client of model servers that controls its connections and reports what a client can see: where each connection
//! went, how each request ended, and when each token came.
//!
//! ```text
//! workers -> session (dial, TLS, HTTP/1.1) -> exchange (SSE, cancellation) -> request -> tally (sharded) -> report (JSON lines)
//!                                                                                \-> observation (a log line each)
//! ```
//! Used by the binary `load-client` and by tests in process. Invariant: every request that was started is in exactly
//! one of `ok`, `failed`, `cancelled` and `aborted`.

mod cancel;
mod chunk;
mod dial;
mod exchange;
mod latency;
pub mod observation;
mod options;
mod plan;
mod range;
mod report;
mod request;
mod response;
mod session;
mod sse;
mod tally;
mod target;
mod worker;

#[cfg(test)]
mod tests;

use std::io::Write as _;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at};

pub use cancel::{CancelPhase, Cancellation, How};
pub use options::{Mode, Options};
pub use range::Spans;
pub use report::{Failure, Kind, Report};
pub use target::Target;

use plan::{Phase, Plan};
use tally::Tally;

/// Runs the load and prints the reports; SIGTERM and SIGINT end it with the final one.
///
/// Success means that no request failed, or that failures are allowed.
pub async fn run(options: Options) -> anyhow::Result<ExitCode> {
    crate::file_limit::raise()?;
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;
    let mut enough = signal(SignalKind::user_defined1())?;
    let allow_failures = options.allow_failures;
    let report = drive_to_end(
        options,
        async {
            enough.recv().await;
        },
        async {
            tokio::select! {
                _ = terminate.recv() => (),
                _ = interrupt.recv() => (),
            }
        },
        print,
    )
    .await?;
    print(&report)?;
    Ok(if allow_failures || report.failures() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the load until it is complete or `interrupted` resolves, and returns the final report. `on_interval` gets one
/// report per `--report-interval`.
pub async fn drive(
    options: Options,
    interrupted: impl Future<Output = ()>,
    on_interval: impl FnMut(&Report) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    drive_to_end(options, std::future::pending(), interrupted, on_interval).await
}

/// The same, but when `enough` resolves, no request is started any more, and those that are open get their `--grace`.
async fn drive_to_end(
    options: Options,
    enough: impl Future<Output = ()>,
    interrupted: impl Future<Output = ()>,
    mut on_interval: impl FnMut(&Report) -> anyhow::Result<()>,
) -> anyhow::Result<Report> {
    let (duration, grace, every) = (options.duration, options.grace, options.report_interval);
    let finish = options.finish;
    let concurrency = options.concurrency;
    let plan = Arc::new(Plan::new(options)?);
    let (phase, _) = watch::channel(Phase::Running);
    let mut workers: JoinSet<()> = (0..concurrency)
        .map(|index| worker::run(Arc::clone(&plan), index, phase.subscribe()))
        .collect();

    let started = Instant::now();
    let mut total = Tally::default();
    let mut last_tick = started;
    let mut end = std::pin::pin!(tokio::time::sleep(duration.unwrap_or(Duration::MAX)));
    let mut enough = std::pin::pin!(enough);
    let mut interrupted = std::pin::pin!(interrupted);
    let mut stopped = false;
    let period = every.unwrap_or(Duration::from_secs(u64::from(u32::MAX)));
    let mut ticks = interval_at(tokio::time::Instant::now() + period, period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            joined = workers.join_next() => match joined {
                Some(worker) => worker.context("a worker panicked")?,
                None => break,
            },
            () = &mut end, if *phase.borrow() != Phase::Cut => {
                let next = if *phase.borrow() == Phase::Running { Phase::Finishing } else { Phase::Cut };
                phase.send_replace(next);
                end.as_mut().reset(tokio::time::Instant::now() + grace);
            }
            () = &mut enough, if *phase.borrow() == Phase::Running => {
                phase.send_replace(Phase::Finishing);
                end.as_mut().reset(tokio::time::Instant::now() + grace);
            }
            () = &mut interrupted, if !stopped => {
                stopped = true;
                let finishes = finish && *phase.borrow() != Phase::Cut;
                phase.send_replace(if finishes { Phase::Finishing } else { Phase::Cut });
                end.as_mut().reset(tokio::time::Instant::now() + grace);
            }
            _ = ticks.tick() => {
                let tally = plan.take();
                on_interval(&Report::new(Kind::Interval, &tally, last_tick.elapsed(), plan.in_flight()))?;
                last_tick = Instant::now();
                total.merge(&tally);
            }
        }
    }
    total.merge(&plan.take());
    Ok(Report::new(
        Kind::Final,
        &total,
        started.elapsed(),
        plan.in_flight(),
    ))
}

fn print(report: &Report) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, report)?;
    writeln!(stdout)?;
    Ok(stdout.flush()?)
}
