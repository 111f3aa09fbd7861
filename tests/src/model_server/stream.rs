// SPDX-License-Identifier: Apache-2.0
//! A streamed answer: the steps of a [`Generation`] as server-sent events, each of which leaves in a write of its own.
//! hyper polls the stream straight from the connection, so it is dropped as soon as the client is gone.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::task::yield_now;

use super::generation::{Generation, Step};
use super::openai::{Renderer, text};

/// The events of one answer, in order.
pub(super) struct Events {
    generation: Generation,
    renderer: Renderer,
    random: fastrand::Rng,
    include_usage: bool,
    prelude_first: bool,
    next: Next,
    /// A step taken before its event was due.
    held: Option<Step>,
}

enum Next {
    Prelude,
    Tokens,
    Usage,
    Done,
    End,
}

impl Events {
    pub(super) fn new(
        generation: Generation,
        renderer: Renderer,
        random: fastrand::Rng,
        include_usage: bool,
    ) -> Self {
        Self {
            generation,
            renderer,
            random,
            include_usage,
            prelude_first: false,
            next: Next::Prelude,
            held: None,
        }
    }

    /// Has the prelude leave at once; else it waits and leaves together with the first token.
    pub(super) fn prelude_first(mut self) -> Self {
        self.prelude_first = true;
        self
    }

    /// Waits for the first token.
    pub(super) async fn first_step(&mut self) {
        if self.held.is_none() {
            self.held = self.generation.step().await;
        }
    }

    pub(super) fn into_stream(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        unfold(self, async |mut events| {
            events.event().await.map(|event| (Ok(event), events))
        })
    }

    async fn event(&mut self) -> Option<Bytes> {
        if let Next::Prelude = self.next {
            if !self.prelude_first {
                self.first_step().await;
            }
            self.next = Next::Tokens;
            if let Some(prelude) = self.renderer.prelude() {
                return Some(prelude.into());
            }
        }
        match self.next {
            Next::Prelude | Next::Tokens => Some(self.tokens().await.into()),
            Next::Usage => {
                yield_now().await;
                self.next = Next::Done;
                Some(self.renderer.usage(self.generation.usage()).into())
            }
            Next::Done => {
                yield_now().await;
                self.next = Next::End;
                Some(Bytes::from_static(Renderer::done().as_bytes()))
            }
            Next::End => None,
        }
    }

    async fn tokens(&mut self) -> String {
        self.first_or_next_step().await.map_or_else(String::new, |step| {
            if step.finish.is_some() {
                self.next = if self.include_usage {
                    Next::Usage
                } else {
                    Next::Done
                };
            }
            self.renderer
                .tokens(&text(&mut self.random, step.tokens), step.finish)
        })
    }

    async fn first_or_next_step(&mut self) -> Option<Step> {
        match self.held.take() {
            Some(step) => Some(step),
            None => self.generation.step().await,
        }
    }
}
