// SPDX-License-Identifier: Apache-2.0
//! What `/control` can change at run time. Owned by [`super::replica::Replica`] behind a watch channel: a request
//! takes the timings once, when it starts, and follows `failure` for as long as it lives.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How the replica behaves now; the JSON of `GET /control`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Settings {
    pub(super) failure: Failure,
    #[serde(rename = "prefill_ms")]
    pub(super) prefill: Millis,
    #[serde(rename = "prefill_per_kb_ms")]
    pub(super) prefill_per_kb: Millis,
    #[serde(rename = "inter_token_ms")]
    pub(super) inter_token: Millis,
    pub(super) tokens: u32,
    pub(super) tokens_per_write: u32,
    pub(super) max_num_seqs: usize,
    pub(super) early_headers: EarlyHeaders,
    pub(super) tail: Tail,
    /// 0 for none.
    #[serde(rename = "heartbeat_ms")]
    pub(super) heartbeat: Millis,
    /// Answer as if nobody had asked for a stream.
    pub(super) whole: bool,
    /// Of connections accepted from now on.
    #[serde(rename = "idle_timeout_ms")]
    pub(super) idle_timeout: Millis,
    /// Of connections accepted from now on.
    pub(super) half_close: HalfClose,
    pub(super) failure_after: u32,
    pub(super) failure_share: Share,
}

/// Misbehaviour of the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Failure {
    /// Behave.
    None,
    /// Accept requests and never answer; `/health` still says 200.
    Wedge,
    /// Answer, and stop in the middle of the stream; heartbeats go on.
    WedgeDecode,
    /// Answer, and write nothing more from the middle of the stream on, no heartbeat either.
    Freeze,
    /// Ten times the prefill and inter-token times, for requests from now on.
    Slow,
    /// Send a RST in the middle of the stream.
    Reset,
    /// Send a FIN in the middle of the stream.
    Truncate,
    /// Send a RST instead of a response.
    ResetEarly,
    /// Send a FIN instead of a response.
    CloseEarly,
    /// Answer new requests with status 500.
    Error,
}

/// What a streamed response sends before prefill ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum EarlyHeaders {
    /// Nothing.
    None,
    /// The response headers, as vLLM does.
    Headers,
    /// The response headers and the chunk that names the role.
    Prelude,
}

/// What the end of a streamed response is written with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Tail {
    /// `[DONE]` and the empty chunk are one write, apart from the last token, as with vLLM.
    Apart,
    /// One write with the last token.
    Coalesced,
    /// `[DONE]` and the empty chunk are a write each.
    Split,
}

/// What becomes of a response whose client has shut its side down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum HalfClose {
    /// It is given up, as with uvicorn.
    Cancel,
    /// It is finished.
    Serve,
}

/// A part of all requests, 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "f64")]
pub struct Share(f64);

impl Share {
    /// Whether a request is among them.
    pub(super) fn has(self, random: &mut fastrand::Rng) -> bool {
        random.f64() < self.0
    }
}

impl TryFrom<f64> for Share {
    type Error = String;

    fn try_from(share: f64) -> Result<Self, String> {
        if (0.0..=1.0).contains(&share) {
            Ok(Self(share))
        } else {
            Err(format!("{share} is no share: give a number from 0 to 1"))
        }
    }
}

impl std::str::FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let share: f64 = text
            .parse()
            .map_err(|_| format!("`{text}` is no share: give a number from 0 to 1"))?;
        share.try_into()
    }
}

/// A body of `POST /control`: any subset of the settings.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Patch {
    failure: Option<Failure>,
    prefill_ms: Option<Millis>,
    prefill_per_kb_ms: Option<Millis>,
    inter_token_ms: Option<Millis>,
    tokens: Option<std::num::NonZeroU32>,
    tokens_per_write: Option<std::num::NonZeroU32>,
    max_num_seqs: Option<usize>,
    early_headers: Option<EarlyHeaders>,
    tail: Option<Tail>,
    heartbeat_ms: Option<Millis>,
    whole: Option<bool>,
    idle_timeout_ms: Option<Millis>,
    half_close: Option<HalfClose>,
    failure_after: Option<u32>,
    failure_share: Option<Share>,
}

impl Settings {
    pub(super) fn apply(&mut self, patch: &Patch) {
        fn set<T: Copy>(field: &mut T, new: Option<T>) {
            if let Some(new) = new {
                *field = new;
            }
        }
        set(&mut self.failure, patch.failure);
        set(&mut self.prefill, patch.prefill_ms);
        set(&mut self.prefill_per_kb, patch.prefill_per_kb_ms);
        set(&mut self.inter_token, patch.inter_token_ms);
        set(&mut self.tokens, patch.tokens.map(Into::into));
        set(&mut self.tokens_per_write, patch.tokens_per_write.map(Into::into));
        set(&mut self.max_num_seqs, patch.max_num_seqs);
        set(&mut self.early_headers, patch.early_headers);
        set(&mut self.tail, patch.tail);
        set(&mut self.heartbeat, patch.heartbeat_ms);
        set(&mut self.whole, patch.whole);
        set(&mut self.idle_timeout, patch.idle_timeout_ms);
        set(&mut self.half_close, patch.half_close);
        set(&mut self.failure_after, patch.failure_after);
        set(&mut self.failure_share, patch.failure_share);
    }

    /// For a request that the failure spares.
    pub(super) fn healthy(mut self) -> Self {
        self.failure = Failure::None;
        self
    }

    /// Prefill time of a request whose body has `body_bytes` bytes.
    pub(super) fn prefill_time(&self, body_bytes: usize) -> Duration {
        #[expect(clippy::cast_precision_loss, reason = "a body has far fewer than 2^52 bytes")]
        let kib = body_bytes as f64 / 1024.0;
        (self.prefill.0 + self.prefill_per_kb.0.mul_f64(kib)) * self.slowdown()
    }

    pub(super) fn inter_token_time(&self) -> Duration {
        self.inter_token.0 * self.slowdown()
    }

    fn slowdown(&self) -> u32 {
        if self.failure == Failure::Slow { 10 } else { 1 }
    }
}

/// `true` stands for the early prelude and `false` for nothing early; the names of the modes work too.
impl<'de> Deserialize<'de> for EarlyHeaders {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "early_headers is true, false, \"none\", \"headers\" or \"prelude\""
        )]
        enum Given {
            Switch(bool),
            Mode(String),
        }
        match Given::deserialize(deserializer)? {
            Given::Switch(true) => Ok(Self::Prelude),
            Given::Switch(false) => Ok(Self::None),
            Given::Mode(mode) => {
                <Self as clap::ValueEnum>::from_str(&mode, false).map_err(serde::de::Error::custom)
            }
        }
    }
}

/// A time span; a JSON number of milliseconds, which may have a fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Millis(pub(super) Duration);

impl From<Duration> for Millis {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.0.as_secs_f64() * 1e3)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let millis = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(millis / 1e3)
            .map(Self)
            .map_err(|error| serde::de::Error::custom(format_args!("{millis} ms is no time span: {error}")))
    }
}
