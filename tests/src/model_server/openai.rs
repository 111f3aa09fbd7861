// SPDX-License-Identifier: Apache-2.0
//! The OpenAI shapes of a request and of its answers, as vLLM fills them in. Pure: no clock, no socket.

use serde::Deserialize;
use serde_json::{Value, json};

use super::error::ApiError;

/// Words of the generated text; six characters each, as a token of English text has about five and a space.
const VOCABULARY: [&str; 16] = [
    " agent", " batch", " cache", " clock", " drain", " every", " first", " graph", " light", " model",
    " paths", " queue", " route", " token", " under", " video",
];

/// The two ways to ask for text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
}

/// Why a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FinishReason {
    /// The model had nothing more to say: the request set no `max_tokens`.
    Stop,
    /// `max_tokens` were generated.
    Length,
    /// The client went away.
    Abort,
}

impl FinishReason {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::Abort => "abort",
        }
    }
}

/// The fields of a request that matter here; others are ignored, as a model server must for its many clients.
#[derive(Debug, Deserialize)]
pub(super) struct CompletionRequest {
    pub(super) model: Option<String>,
    messages: Option<Vec<Value>>,
    prompt: Option<Value>,
    #[serde(default)]
    pub(super) stream: bool,
    stream_options: Option<StreamOptions>,
    max_tokens: Option<u32>,
    max_completion_tokens: Option<u32>,
}

#[derive(Debug, Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

impl CompletionRequest {
    pub(super) fn parse(body: &[u8], endpoint: Endpoint) -> Result<Self, ApiError> {
        let request: Self = serde_json::from_slice(body)
            .map_err(|error| ApiError::BadRequest(format!("JSON decode error: {error}")))?;
        let (missing, field) = match endpoint {
            Endpoint::Chat => (request.messages.as_ref().is_none_or(Vec::is_empty), "messages"),
            Endpoint::Completions => (request.prompt.is_none(), "prompt"),
        };
        if missing {
            return Err(ApiError::BadRequest(format!(
                "{field}: field required, with at least one element"
            )));
        }
        if request.asked_tokens() == Some(0) {
            return Err(ApiError::BadRequest(
                "max_tokens must be at least 1, got 0.".into(),
            ));
        }
        Ok(request)
    }

    /// Output tokens that the request asked for.
    pub(super) fn asked_tokens(&self) -> Option<u32> {
        self.max_completion_tokens.or(self.max_tokens)
    }

    pub(super) fn include_usage(&self) -> bool {
        self.stream_options
            .as_ref()
            .is_some_and(|options| options.include_usage)
    }

    /// Four bytes of text make a token, which is near the truth for English.
    pub(super) fn prompt_tokens(&self) -> usize {
        let messages = self
            .messages
            .iter()
            .flatten()
            .filter_map(|message| message.get("content"));
        messages
            .chain(&self.prompt)
            .map(text_bytes)
            .sum::<usize>()
            .div_ceil(4)
    }
}

fn text_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(parts) => parts.iter().map(text_bytes).sum(),
        Value::Object(part) => part.get("text").map_or(0, text_bytes),
        // A prompt of token ids.
        Value::Number(_) => 4,
        Value::Null | Value::Bool(_) => 0,
    }
}

/// Token counts of a finished request.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: u32,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens as usize,
            "completion_tokens": self.completion_tokens,
        })
    }
}

/// Text of `tokens` tokens; plain ASCII that needs no escape in JSON.
pub(super) fn text(random: &mut fastrand::Rng, tokens: u32) -> String {
    (0..tokens).filter_map(|_| random.choice(VOCABULARY)).collect()
}

/// Renders the answers to one request, which share its id, time and model.
pub(super) struct Renderer {
    endpoint: Endpoint,
    id: String,
    created: u64,
    model: String,
    /// The SSE event up to the value of `choices`, which is the same for all events of the stream.
    chunk_head: String,
}

impl Renderer {
    /// `created` is in seconds since 1970.
    pub(super) fn new(endpoint: Endpoint, random: &mut fastrand::Rng, created: u64, model: &str) -> Self {
        let (prefix, object) = match endpoint {
            Endpoint::Chat => ("chatcmpl", "chat.completion.chunk"),
            Endpoint::Completions => ("cmpl", "text_completion"),
        };
        let id = format!("{prefix}-{:032x}", random.u128(..));
        let chunk_head = format!(
            r#"data: {{"id":"{id}","object":"{object}","created":{created},"model":{},"choices":"#,
            Value::from(model)
        );
        Self {
            endpoint,
            id,
            created,
            model: model.to_owned(),
            chunk_head,
        }
    }

    /// The event that names the role; completions have none.
    pub(super) fn prelude(&self) -> Option<String> {
        let delta =
            r#"[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]"#;
        (self.endpoint == Endpoint::Chat).then(|| self.event(&[delta]))
    }

    /// The event of one or more tokens, `text`, which must need no escape in JSON.
    pub(super) fn tokens(&self, text: &str, finish: Option<FinishReason>) -> String {
        let (before, after) = match self.endpoint {
            Endpoint::Chat => (
                r#"[{"index":0,"delta":{"content":""#,
                r#""},"logprobs":null,"finish_reason":"#,
            ),
            Endpoint::Completions => (r#"[{"index":0,"text":""#, r#"","logprobs":null,"finish_reason":"#),
        };
        let finish = match finish {
            None => "null",
            Some(FinishReason::Stop) => "\"stop\"",
            Some(FinishReason::Length) => "\"length\"",
            Some(FinishReason::Abort) => "\"abort\"",
        };
        self.event(&[
            before,
            text,
            after,
            finish,
            r#","stop_reason":null,"token_ids":null}]"#,
        ])
    }

    /// The event of `stream_options.include_usage`.
    pub(super) fn usage(&self, usage: Usage) -> String {
        self.event(&["[],\"usage\":", &usage.json().to_string()])
    }

    /// The end marker of a stream.
    pub(super) fn done() -> &'static str {
        "data: [DONE]\n\n"
    }

    /// The whole answer to a request without `stream`.
    pub(super) fn complete(&self, text: &str, finish: FinishReason, usage: Usage) -> Value {
        let (object, choice) = match self.endpoint {
            Endpoint::Chat => (
                "chat.completion",
                json!({"index": 0, "message": {"role": "assistant", "content": text}, "logprobs": null,
                       "finish_reason": finish.as_str()}),
            ),
            Endpoint::Completions => (
                "text_completion",
                json!({"index": 0, "text": text, "logprobs": null, "finish_reason": finish.as_str()}),
            ),
        };
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model,
               "choices": [choice], "usage": usage.json()})
    }

    fn event(&self, choices: &[&str]) -> String {
        let choices = choices.concat();
        format!("{}{choices}}}\n\n", self.chunk_head)
    }
}
