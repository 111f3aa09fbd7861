// SPDX-License-Identifier: Apache-2.0
//! Command line of `load-client`.

use std::net::IpAddr;
use std::num::{NonZeroU32, NonZeroU64};
use std::time::Duration;

use clap::ArgAction;
use humantime::parse_duration;

use super::target::Target;

/// Sends requests to model servers and reports what a client sees, as JSON lines.
///
/// Without --requests and --duration it runs until SIGTERM or SIGINT.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "load-client", version)]
pub struct Options {
    /// Server, as http://IP:PORT; repeat it for several, which are used in turn.
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
    /// Local address to connect from.
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// Pause of a worker between two requests.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_duration)]
    pub think: Duration,
    /// Also print a report of each interval.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    pub report_interval: Option<Duration>,
    /// Exit with 0 although requests failed.
    #[arg(long)]
    pub allow_failures: bool,
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

fn interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text) {
        Ok(interval) if !interval.is_zero() => Ok(interval),
        Ok(_) => Err("an interval must be longer than 0".into()),
        Err(error) => Err(error.to_string()),
    }
}
