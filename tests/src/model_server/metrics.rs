// SPDX-License-Identifier: Apache-2.0
//! Prometheus families under vLLM's names, labels and histogram bounds. Written by [`super::generation`], rendered by
//! [`super::api`]; the gauges are read from the scheduler at each scrape and therefore exact.

use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Encoder as _, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::openai::FinishReason;
use super::scheduler::Load;

const LABELS: [&str; 2] = ["model_name", "engine"];
const ENGINE: &str = "0";

const TIME_TO_FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0,
    80.0, 160.0, 640.0, 2560.0,
];
const INTER_TOKEN_LATENCY: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
];
const REQUEST_LATENCY: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0,
    960.0, 1920.0, 7680.0,
];

/// Handles to the families of one replica.
pub(super) struct Metrics {
    registry: Registry,
    running: IntGauge,
    waiting: IntGauge,
    kv_cache_usage: Gauge,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    finished: [(FinishReason, IntCounter); 3],
    time_to_first_token: Histogram,
    inter_token_latency: Histogram,
    e2e_latency: Histogram,
}

impl Metrics {
    pub(super) fn new(model: &str) -> prometheus::Result<Self> {
        let family = Families {
            registry: Registry::new(),
            model,
        };
        let finished = family.register(IntCounterVec::new(
            Opts::new("vllm:request_success_total", "Requests that ended, by reason."),
            &[LABELS[0], LABELS[1], "finished_reason"],
        )?)?;
        let reason = |reason: FinishReason| -> prometheus::Result<_> {
            Ok((
                reason,
                finished.get_metric_with_label_values(&[model, ENGINE, reason.as_str()])?,
            ))
        };
        Ok(Self {
            running: family.gauge("vllm:num_requests_running", "Requests that run on the engine.")?,
            waiting: family.gauge("vllm:num_requests_waiting", "Requests that wait for the engine.")?,
            kv_cache_usage: family.ratio(
                "vllm:kv_cache_usage_perc",
                "Share of the engine's sequences in use, 0 to 1; stands in for its KV cache.",
            )?,
            prompt_tokens: family.counter("vllm:prompt_tokens_total", "Prompt tokens processed.")?,
            generation_tokens: family.counter("vllm:generation_tokens_total", "Tokens generated.")?,
            finished: [
                reason(FinishReason::Stop)?,
                reason(FinishReason::Length)?,
                reason(FinishReason::Abort)?,
            ],
            time_to_first_token: family.histogram(
                "vllm:time_to_first_token_seconds",
                "Time from the arrival of a request to its first token.",
                TIME_TO_FIRST_TOKEN,
            )?,
            inter_token_latency: family.histogram(
                "vllm:inter_token_latency_seconds",
                "Time between two tokens of a request.",
                INTER_TOKEN_LATENCY,
            )?,
            e2e_latency: family.histogram(
                "vllm:e2e_request_latency_seconds",
                "Time from the arrival of a request to its last token.",
                REQUEST_LATENCY,
            )?,
            registry: family.registry,
        })
    }

    pub(super) fn prefilled(&self, prompt_tokens: usize, since_arrival: Duration) {
        self.prompt_tokens.inc_by(prompt_tokens as u64);
        self.time_to_first_token.observe(since_arrival.as_secs_f64());
    }

    pub(super) fn generated(&self, tokens: u32) {
        self.generation_tokens.inc_by(tokens.into());
    }

    /// `gap` is the time between two chunks, of which the second had `tokens` tokens.
    pub(super) fn decoded(&self, tokens: u32, gap: Duration) {
        for _ in 0..tokens {
            self.inter_token_latency
                .observe(gap.as_secs_f64() / f64::from(tokens));
        }
    }

    /// An aborted request has no end-to-end latency.
    pub(super) fn finished(&self, reason: FinishReason, since_arrival: Duration) {
        if reason != FinishReason::Abort {
            self.e2e_latency.observe(since_arrival.as_secs_f64());
        }
        for (_, counter) in self.finished.iter().filter(|(counted, _)| *counted == reason) {
            counter.inc();
        }
    }

    /// The exposition text of a scrape at which the scheduler has `load` of at most `limit` sequences.
    pub(super) fn render(&self, load: Load, limit: usize) -> prometheus::Result<Vec<u8>> {
        self.running.set(load.running.try_into().unwrap_or(i64::MAX));
        self.waiting.set(load.waiting.try_into().unwrap_or(i64::MAX));
        #[expect(
            clippy::cast_precision_loss,
            reason = "a ratio of two counts that memory bounds"
        )]
        self.kv_cache_usage
            .set((load.running as f64 / limit.max(1) as f64).min(1.0));
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(text)
    }
}

struct Families<'a> {
    registry: Registry,
    model: &'a str,
}

impl Families<'_> {
    fn register<C: Collector + Clone + 'static>(&self, family: C) -> prometheus::Result<C> {
        self.registry.register(Box::new(family.clone()))?;
        Ok(family)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.register(IntGaugeVec::new(Opts::new(name, help), &LABELS)?)?
            .get_metric_with_label_values(&[self.model, ENGINE])
    }

    fn ratio(&self, name: &str, help: &str) -> prometheus::Result<Gauge> {
        self.register(GaugeVec::new(Opts::new(name, help), &LABELS)?)?
            .get_metric_with_label_values(&[self.model, ENGINE])
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.register(IntCounterVec::new(Opts::new(name, help), &LABELS)?)?
            .get_metric_with_label_values(&[self.model, ENGINE])
    }

    fn histogram(&self, name: &str, help: &str, bounds: &[f64]) -> prometheus::Result<Histogram> {
        self.register(HistogramVec::new(
            HistogramOpts::new(name, help).buckets(bounds.to_vec()),
            &LABELS,
        )?)?
        .get_metric_with_label_values(&[self.model, ENGINE])
    }
}
