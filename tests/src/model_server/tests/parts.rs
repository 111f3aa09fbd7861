// SPDX-License-Identifier: Apache-2.0
//! Queue, settings and rendering on their own.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser as _;
use futures_util::FutureExt as _;

use crate::model_server::openai::{CompletionRequest, Endpoint, FinishReason, Renderer, text};
use crate::model_server::options::Options;
use crate::model_server::scheduler::{Load, Scheduler};
use crate::model_server::settings::{EarlyHeaders, Failure, Patch, Settings};

fn load(scheduler: &Scheduler) -> (usize, usize) {
    let Load { running, waiting } = scheduler.load();
    (running, waiting)
}

#[test]
fn the_queue_is_first_in_first_out_and_survives_cancellation() {
    let scheduler = Arc::new(Scheduler::new(1));
    let first = scheduler.admit().now_or_never().expect("a free slot");
    let mut second = Box::pin(scheduler.admit());
    let mut third = Box::pin(scheduler.admit());
    let mut fourth = Box::pin(scheduler.admit());
    for waiting in [&mut second, &mut third, &mut fourth] {
        assert!(waiting.as_mut().now_or_never().is_none());
    }
    assert_eq!(load(&scheduler), (1, 3));
    drop(second);
    assert_eq!(load(&scheduler), (1, 2), "a cancelled request leaves the queue");
    drop(first);
    assert_eq!(load(&scheduler), (1, 1));
    assert!(fourth.as_mut().now_or_never().is_none(), "the third came before");
    drop(third);
    assert_eq!(
        load(&scheduler),
        (1, 0),
        "a slot that nobody took goes to the next"
    );
    drop(fourth.now_or_never().expect("its turn"));
    assert_eq!(load(&scheduler), (0, 0));
}

#[test]
fn a_lower_limit_lets_running_requests_be() {
    let scheduler = Arc::new(Scheduler::new(2));
    let (first, second) = (scheduler.admit().now_or_never(), scheduler.admit().now_or_never());
    scheduler.set_limit(1);
    let mut third = Box::pin(scheduler.admit());
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    assert!(third.as_mut().now_or_never().is_none());
    drop(second);
    assert!(third.now_or_never().is_some());
}

fn settings(flags: &[&str]) -> Settings {
    Options::parse_from(["model-server"].iter().chain(flags))
        .behaviour
        .into()
}

#[test]
fn a_patch_changes_what_it_names() {
    let mut settings = settings(&["--prefill", "40ms", "--prefill-per-kb", "2ms"]);
    let patch: Patch =
        serde_json::from_str(r#"{"failure":"wedge-decode","early_headers":true,"tokens":7}"#).unwrap();
    settings.apply(&patch);
    assert_eq!(
        (settings.failure, settings.early_headers),
        (Failure::WedgeDecode, EarlyHeaders::Prelude)
    );
    assert_eq!((settings.tokens, settings.tokens_per_write), (7, 1));
    assert_eq!(settings.prefill_time(2048), Duration::from_millis(44));
    settings.apply(&serde_json::from_str(r#"{"failure":"slow","inter_token_ms":0.5}"#).unwrap());
    assert_eq!(settings.prefill_time(0), Duration::from_millis(400));
    assert_eq!(settings.inter_token_time(), Duration::from_millis(5));
    assert_eq!(
        settings.clone().healthy().inter_token_time(),
        Duration::from_micros(500)
    );
    let shape = r#"{"tail":"split","heartbeat_ms":7,"whole":true,"idle_timeout_ms":9,"half_close":"serve"}"#;
    settings.apply(&serde_json::from_str(shape).unwrap());
    let shown = serde_json::to_value(&settings).unwrap();
    let asked: serde_json::Map<_, _> = serde_json::from_str(shape).unwrap();
    for (name, value) in asked {
        assert!(
            shown[&name] == value || shown[&name].as_f64() == value.as_f64(),
            "{name}: {shown}"
        );
    }
}

#[test]
fn a_wrong_patch_is_refused_by_name() {
    for (patch, named) in [
        (r#"{"tokns":1}"#, "`tokns`"),
        (r#"{"failure":"explode"}"#, "`explode`"),
        (r#"{"early_headers":"late"}"#, "late"),
        (r#"{"early_headers":3}"#, "early_headers is true"),
        (r#"{"prefill_ms":-1}"#, "-1 ms"),
        (r#"{"tokens":0}"#, "nonzero"),
        (r#"{"failure_share":1.5}"#, "1.5 is no share"),
        (r#"{"tail":"long"}"#, "`long`"),
    ] {
        let error = serde_json::from_str::<Patch>(patch).expect_err(patch).to_string();
        assert!(error.contains(named), "{patch}: {error}");
    }
}

#[test]
fn the_flag_of_early_headers_may_stand_alone() {
    assert_eq!(settings(&[]).early_headers, EarlyHeaders::None);
    assert_eq!(
        settings(&["--early-headers"]).early_headers,
        EarlyHeaders::Prelude
    );
    assert_eq!(
        settings(&["--early-headers=headers"]).early_headers,
        EarlyHeaders::Headers
    );
}

#[test]
fn prompts_of_every_shape_have_tokens() {
    for (endpoint, body, tokens) in [
        (
            Endpoint::Chat,
            r#"{"messages":[{"role":"user","content":"12345678"},{"content":"1"}]}"#,
            3,
        ),
        (
            Endpoint::Chat,
            r#"{"messages":[{"content":[{"type":"text","text":"1234"},{"image_url":{}}]}]}"#,
            1,
        ),
        (Endpoint::Completions, r#"{"prompt":["1234","5678"]}"#, 2),
        (Endpoint::Completions, r#"{"prompt":[1,2,3]}"#, 3),
    ] {
        assert_eq!(
            CompletionRequest::parse(body.as_bytes(), endpoint)
                .unwrap()
                .prompt_tokens(),
            tokens,
            "{body}"
        );
    }
}

#[test]
fn a_chunk_has_the_size_of_vllms() {
    let mut random = fastrand::Rng::with_seed(1);
    let renderer = Renderer::new(Endpoint::Chat, &mut random, 1_763_000_000, "llama-3.1-8b");
    let chunk = renderer.tokens(&text(&mut random, 1), None);
    assert!(
        (245..=275).contains(&chunk.len()),
        "{} bytes: {chunk}",
        chunk.len()
    );
    assert!(
        renderer
            .tokens(" a", Some(FinishReason::Stop))
            .contains(r#""finish_reason":"stop""#)
    );
}

#[test]
fn the_model_name_is_escaped() {
    let renderer = Renderer::new(Endpoint::Completions, &mut fastrand::Rng::with_seed(1), 0, "a\"b");
    let event = renderer.tokens(" a", None);
    let json: serde_json::Value = serde_json::from_str(event.trim_start_matches("data: ")).unwrap();
    assert_eq!(json["model"], "a\"b");
}
