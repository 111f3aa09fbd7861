// SPDX-License-Identifier: Apache-2.0
//! Command line of `model-server`; the flags that `/control` can change later become the first [`Settings`].

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use humantime::parse_duration;

use super::settings::{EarlyHeaders, Failure, HalfClose, Settings, Share, Tail};
use crate::tls::Versions;

/// A replica of a model that behaves like vLLM's OpenAI server.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "model-server", version)]
pub struct Options {
    /// Address to listen on; repeat it for several. Port 0 takes a free one.
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8000")]
    pub listen: Vec<SocketAddr>,
    /// Name of the replica, sent in the header `x-replica` [default: host name and port].
    #[arg(long)]
    pub name: Option<String>,
    /// Model that is served; a request for another one gets 404.
    #[arg(long, default_value = "llama-3.1-8b")]
    pub model: String,
    /// On SIGTERM, finish open requests for at most this long.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub drain: Duration,
    /// Seed of the generated text and request ids.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Serve TLS with the certificates of this PEM file, the leaf first.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Versions of TLS that are accepted.
    #[arg(long, value_enum, default_value = "both")]
    pub tls_versions: Versions,
    /// Listen here without TLS, too, for `/control` and scrapes; repeat it for several.
    #[arg(long, value_name = "IP:PORT")]
    pub listen_plain: Vec<SocketAddr>,
    /// Write a JSON line to this file for each exchange that ended, see `truth::Exchange`.
    #[arg(long, value_name = "FILE")]
    pub truth: Option<PathBuf>,
    /// What `/control` can change while the server runs.
    #[command(flatten)]
    pub behaviour: Behaviour,
}

/// Flags that are the initial [`Settings`].
#[derive(Clone, Debug, Args)]
pub struct Behaviour {
    /// Time to the first token of an empty prompt, once the request runs.
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = parse_duration)]
    pub prefill: Duration,
    /// Extra prefill time per KiB of request body.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_duration)]
    pub prefill_per_kb: Duration,
    /// Time between two tokens. Timers have a resolution of 1 ms; 0 generates as fast as possible.
    #[arg(long, value_name = "DURATION", default_value = "20ms", value_parser = parse_duration)]
    pub inter_token: Duration,
    /// Output tokens of a request that has no `max_tokens`.
    #[arg(long, default_value = "32", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
    /// Tokens per chunk after the first one (vLLM's `--stream-interval`).
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens_per_write: u32,
    /// Requests that run at the same time; more wait in order of arrival. 0 admits none.
    #[arg(long, default_value_t = 256)]
    pub max_num_seqs: usize,
    /// What leaves before prefill ends: the headers (vLLM), or the headers and the chunk that names the role.
    #[arg(
        long,
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_value = "none",
        default_missing_value = "prelude"
    )]
    pub early_headers: EarlyHeaders,
    /// What the end of a stream is written with.
    #[arg(long, value_enum, default_value = "apart")]
    pub tail: Tail,
    /// Send a comment this often while a stream is open; 0 for never.
    #[arg(long, value_name = "DURATION", default_value = "0ms", value_parser = parse_duration)]
    pub heartbeat: Duration,
    /// Answer with one object of a known length, whether a stream was asked for or not.
    #[arg(long)]
    pub whole: bool,
    /// Close a keep-alive connection that sent no request for this long (uvicorn's default).
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub idle_timeout: Duration,
    /// What becomes of a response whose client has shut its side down.
    #[arg(long, value_enum, default_value = "cancel")]
    pub half_close: HalfClose,
    /// Misbehaviour from the start.
    #[arg(long, value_enum, default_value = "none")]
    pub failure: Failure,
    /// Tokens after which a stream is in its middle, for failures that come there; the last token is never before.
    #[arg(long, value_name = "TOKENS", default_value_t = 3)]
    pub failure_after: u32,
    /// Part of the requests that the failure befalls, drawn when they start.
    #[arg(long, default_value = "1")]
    pub failure_share: Share,
}

impl From<Behaviour> for Settings {
    fn from(flags: Behaviour) -> Self {
        Self {
            failure: flags.failure,
            prefill: flags.prefill.into(),
            prefill_per_kb: flags.prefill_per_kb.into(),
            inter_token: flags.inter_token.into(),
            tokens: flags.tokens,
            tokens_per_write: flags.tokens_per_write,
            max_num_seqs: flags.max_num_seqs,
            early_headers: flags.early_headers,
            tail: flags.tail,
            heartbeat: flags.heartbeat.into(),
            whole: flags.whole,
            idle_timeout: flags.idle_timeout.into(),
            half_close: flags.half_close,
            failure_after: flags.failure_after,
            failure_share: flags.failure_share,
        }
    }
}
