// SPDX-License-Identifier: Apache-2.0
//! What one event of a stream, or one whole answer, says about tokens.

use std::borrow::Cow;

use serde::Deserialize;

/// One event of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Generated text.
    Content,
    /// A role, a usage block, or anything else without text.
    Other,
    /// `[DONE]`.
    Done,
    /// No JSON object.
    Malformed,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Vec<Choice<'a>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    #[serde(borrow)]
    content: Option<Cow<'a, str>>,
}

impl Event {
    pub(super) fn of(data: &[u8]) -> Self {
        if data == b"[DONE]" {
            return Self::Done;
        }
        match serde_json::from_slice::<Chunk<'_>>(data) {
            Ok(chunk) if chunk.choices.iter().any(Choice::has_text) => Self::Content,
            Ok(_) => Self::Other,
            Err(_) => Self::Malformed,
        }
    }
}

impl Choice<'_> {
    fn has_text(&self) -> bool {
        let content = self.delta.as_ref().and_then(|delta| delta.content.as_ref());
        content
            .or(self.text.as_ref())
            .is_some_and(|text| !text.is_empty())
    }
}

/// Tokens of an answer without `stream`; `None` if it is no such answer.
pub(super) fn completion_tokens(answer: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Answer {
        usage: Usage,
    }
    #[derive(Deserialize)]
    struct Usage {
        completion_tokens: u64,
    }
    serde_json::from_slice::<Answer>(answer)
        .ok()
        .map(|answer| answer.usage.completion_tokens)
}
