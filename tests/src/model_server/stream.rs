// SPDX-License-Identifier: Apache-2.0
//! A streamed answer: the steps of a [`Generation`] as server-sent events, each of which leaves in a write of its own.
//! hyper polls the stream straight from the connection, so it is dropped as soon as the client is gone.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::unfold;
use futures_util::{Stream, StreamExt as _};
use tokio::task::yield_now;

use super::generation::{Generation, Step};
use super::heartbeat::Heartbeats;
use super::openai::{Renderer, text};
use super::recorder::Mark;
use super::settings::Tail;

/// The events of one answer, in order.
pub(super) struct Events {
    generation: Generation,
    renderer: Renderer,
    random: fastrand::Rng,
    include_usage: bool,
    prelude_first: bool,
    tail: Tail,
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
    pub(super) fn new(generation: Generation, renderer: Renderer, random: fastrand::Rng) -> Self {
        Self {
            generation,
            renderer,
            random,
            include_usage: false,
            prelude_first: false,
            tail: Tail::Apart,
            next: Next::Prelude,
            held: None,
        }
    }

    /// Whether the usage block comes before the end.
    pub(super) fn usage(mut self, include: bool) -> Self {
        self.include_usage = include;
        self
    }

    pub(super) fn tail(mut self, tail: Tail) -> Self {
        self.tail = tail;
        self
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

    /// The stream, with a comment after each `heartbeat` unless that is 0.
    pub(super) fn into_stream(
        self,
        heartbeat: Duration,
    ) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        let beats = Heartbeats::new(&self.generation, heartbeat);
        let events = unfold(self, async |mut events| {
            events.event().await.map(|event| (event, events))
        });
        beats.among(events).map(Ok)
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
                self.apart().await;
                self.next = Next::Done;
                Some(self.renderer.usage(self.generation.usage()).into())
            }
            Next::Done => {
                self.apart().await;
                self.next = Next::End;
                Some(Bytes::from_static(Renderer::done().as_bytes()))
            }
            Next::End => {
                if self.tail == Tail::Split {
                    yield_now().await;
                }
                None
            }
        }
    }

    /// Has hyper write what it has before the next event comes, unless everything of the end is one write.
    async fn apart(&self) {
        if self.tail != Tail::Coalesced {
            yield_now().await;
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
            self.generation.connection().mark(Mark::Tokens);
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
