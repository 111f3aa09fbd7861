// SPDX-License-Identifier: Apache-2.0
//! Command line of `load-client`.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use clap::ArgAction;
use humantime::parse_duration;

use super::cancel::{CancelPhase, Cancellation};
use super::range::Spans;
use super::target::Target;
use crate::tls::Versions;

/// Sends requests to model servers and reports what a client sees, as JSON lines.
///
/// Without --requests and --duration it runs until SIGTERM or SIGINT, which cut what is open, or SIGUSR1, which gives it --grace.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "load-client", version)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of its own")]
pub struct Options {
    /// Server, as http://IP:PORT or https://IP:PORT; repeat it for several, which are used in turn.
    #[arg(long, required = true, value_name = "URL")]
    pub url: Vec<Target>,
    /// Requests in progress at the same time at most.
    #[arg(long, default_value_t = 1)]
    pub concurrency: usize,
    /// Stop after this many requests.
    #[arg(long)]
    pub requests: Option<NonZeroU64>,
    /// Start no request after this time.
    #[arg(long, value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// After --duration, cut requests that take longer than this.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub grace: Duration,
    /// On SIGTERM and SIGINT, start no more requests and finish those that are open, within --grace.
    #[arg(long)]
    pub finish: bool,
    /// Connection per request, or one that each worker keeps.
    #[arg(long, value_enum, default_value = "one-shot")]
    pub mode: Mode,
    /// Ask for a streamed answer.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = ArgAction::Set)]
    pub stream: bool,
    /// Model to ask for.
    #[arg(long, default_value = "llama-3.1-8b")]
    pub model: String,
    /// Output tokens per request [default: what the server gives].
    #[arg(long)]
    pub max_tokens: Option<NonZeroU32>,
    /// Size of the prompt.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub prompt_bytes: usize,
    /// Start requests at this rate per second, whatever the answers (open loop), up to --concurrency at once.
    #[arg(long, value_parser = positive)]
    pub rate: Option<f64>,
    /// Give up a connect after this time.
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub connect_timeout: Duration,
    /// Give up a request that received no byte for this time.
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// Local address to connect from; repeat it for several, which workers use in turn.
    #[arg(long, value_name = "IP")]
    pub source: Vec<IpAddr>,
    /// Pause of a worker between two requests.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_duration)]
    pub think: Duration,
    /// Pause of a worker before it uses its connection again, drawn from this range; comes on top of --think.
    #[arg(long, value_name = "MIN..MAX", default_value = "0ms")]
    pub keep_alive_gap: Spans,
    /// In mode keep-alive, close a connection after this many requests.
    #[arg(long, value_name = "REQUESTS")]
    pub requests_per_connection: Option<NonZeroU64>,
    /// Send on a kept connection without a look at whether the server has closed it.
    #[arg(long)]
    pub blind: bool,
    /// Send this many requests of a connection at once; the answers come one after the other.
    #[arg(long, value_name = "REQUESTS", default_value = "1")]
    pub pipeline: NonZeroUsize,
    /// Send the body only when the server says `100 Continue`, or after a second.
    #[arg(long)]
    pub expect_continue: bool,
    /// Start the workers over this time instead of all at once.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_duration)]
    pub ramp: Duration,
    /// Trust servers whose certificates lead to one in this PEM file.
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Name that the certificate must be for [default: the IP address of the URL].
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
    /// Versions of TLS that are offered.
    #[arg(long, value_enum, default_value = "both")]
    pub tls_versions: Versions,
    /// Give up some requests, this way.
    #[arg(long, value_enum)]
    pub cancel: Option<Cancellation>,
    /// Part of the requests that are given up, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value = "0.3", value_parser = share)]
    pub cancel_share: f64,
    /// When they are given up.
    #[arg(long, value_enum, default_value = "any")]
    pub cancel_phase: CancelPhase,
    /// In prefill: how long after the request was written, drawn from this range.
    #[arg(long, value_name = "MIN..MAX", default_value = "0ms..50ms")]
    pub cancel_after: Spans,
    /// In decode: with which arrival of tokens, drawn from 1 to this.
    #[arg(long, value_name = "TOKENS", default_value = "8")]
    pub cancel_tokens: NonZeroUsize,
    /// Seed of everything that is drawn.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Write a JSON line to this file for each exchange that ended, see `load::observation::Observation`.
    #[arg(long, value_name = "FILE")]
    pub log: Option<PathBuf>,
    /// Also print a report of each interval.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub report_interval: Option<Duration>,
    /// Exit with 0 although requests failed.
    #[arg(long)]
    pub allow_failures: bool,
}

impl Options {
    /// Random numbers for the request `number`; the same for the same seed.
    pub(super) fn random(&self, number: u64) -> fastrand::Rng {
        fastrand::Rng::with_seed(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number)
    }
}

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Each worker keeps one connection for as long as the server does.
    KeepAlive,
    /// A new connection per request.
    OneShot,
}

fn positive(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(rate) if rate.is_finite() && rate > 0.0 => Ok(rate),
        _ => Err(format!(
            "`{text}` is no rate: give a number of requests per second above 0"
        )),
    }
}

fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err(format!("`{text}` is no share: give a number from 0 to 1")),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(interval) if !interval.is_zero() => Ok(interval),
        Ok(_) => Err("an interval must be longer than 0".into()),
        Err(error) => Err(error.to_string()),
    }
}
