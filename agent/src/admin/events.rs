// SPDX-License-Identifier: Apache-2.0
//! Answer of `GET /v1/events`: one JSON object per line, as they come.
//!
//! Invariant: a reader is waited for only here, in its own connection; what it is too slow for, it is told of by a line.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use clap::ValueEnum as _;
use futures_util::stream;

use super::connections::parse_endpoint;
use crate::{
    api::{Event, EventKind, EventQuery},
    datapath::clock::{TimeOfDay, monotonic_ns},
    events::{Events, Heard, Subscription},
};

/// Bytes of text that are sent at once, about.
const CHUNK: usize = 32 * 1024;

/// What a reader wants to hear of.
#[derive(Debug)]
struct Filter {
    /// Empty for all.
    kinds: Vec<EventKind>,
    service: Option<String>,
    backend: Option<String>,
}

impl Filter {
    fn new(query: &EventQuery) -> Result<Self> {
        let words = query.kind.iter().flat_map(|kinds| kinds.split(','));
        let kinds = words.map(|word| {
            EventKind::from_str(word, false)
                .ok()
                .filter(|kind| *kind != EventKind::Lost)
                .with_context(|| format!("`{word}` is no kind of event; there are {}", all_kinds()))
        });
        // In the form that events have.
        let backend = query.backend.as_deref().map(parse_endpoint).transpose()?;
        Ok(Self {
            kinds: kinds.collect::<Result<_>>()?,
            service: query.service.clone(),
            backend: backend.map(|(addr, port)| super::report::endpoint(addr, port)),
        })
    }

    fn wants(&self, event: &Event) -> bool {
        let holds = |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && holds(&self.service, &event.service)
            && holds(&self.backend, &event.backend)
    }
}

fn all_kinds() -> String {
    EventKind::ALL.map(EventKind::word).join(", ")
}

/// The events that a query selects.
#[derive(Debug)]
pub struct EventStream {
    subscription: Subscription,
    filter: Filter,
}

impl EventStream {
    /// Begins to listen.
    pub fn new(events: &Arc<Events>, query: &EventQuery) -> Result<Self> {
        let filter = Filter::new(query)?;
        let now = monotonic_ns();
        let since = match query.since {
            Some(seconds) => {
                let age = Duration::try_from_secs_f64(seconds)
                    .with_context(|| format!("`since` is {seconds}; give a number of seconds, 0 or more"))?;
                now.saturating_sub(u64::try_from(age.as_nanos()).unwrap_or(u64::MAX))
            }
            None if query.follow => now,
            None => 0,
        };
        Ok(Self {
            subscription: events.subscribe(since, query.follow),
            filter,
        })
    }

    /// Lines, as many as there are and fit into a part; `None` at the end.
    async fn part(&mut self) -> Option<Vec<u8>> {
        let mut text = Vec::new();
        while text.is_empty() {
            let heard = self.subscription.next().await?;
            self.append(heard, &mut text);
        }
        while text.len() < CHUNK {
            let Some(heard) = self.subscription.next_now() else {
                break;
            };
            self.append(heard, &mut text);
        }
        Some(text)
    }

    fn append(&self, heard: Heard, text: &mut Vec<u8>) {
        match heard {
            Heard::Event(event) if self.filter.wants(&event) => write(&event, text),
            Heard::Event(_) => {}
            Heard::Lost(count) => {
                let now = monotonic_ns();
                let lost = Event {
                    count: Some(count),
                    ..Event::new(EventKind::Lost, TimeOfDay::now().text(now), now)
                };
                write(&lost, text);
            }
        }
    }
}

fn write(event: &Event, text: &mut Vec<u8>) {
    serde_json::to_writer(&mut *text, event).expect("a vector takes every event");
    text.push(b'\n');
}

impl IntoResponse for EventStream {
    fn into_response(self) -> Response {
        let parts = stream::unfold(self, |mut events| async {
            let part = events.part().await?;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from(part)), events))
        });
        (
            [(header::CONTENT_TYPE, "application/x-ndjson")],
            Body::from_stream(parts),
        )
            .into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, service: &str, backend: Option<&str>) -> Event {
        Event {
            service: Some(service.to_owned()),
            backend: backend.map(str::to_owned),
            ..Event::new(kind, String::new(), 0)
        }
    }

    #[test]
    fn everything_that_is_asked_for_must_hold() {
        let query = EventQuery {
            kind: Some("ejected,probed".to_owned()),
            service: Some("models/chat".to_owned()),
            backend: Some("[::ffff:10.0.0.1]:80".to_owned()),
            ..EventQuery::default()
        };
        let filter = Filter::new(&query).unwrap();
        let address = Some("10.0.0.1:80");
        for (kind, service, backend, wanted) in [
            (EventKind::Ejected, "models/chat", address, true),
            (EventKind::Probed, "models/chat", address, true),
            (EventKind::Refused, "models/chat", address, false),
            (EventKind::Ejected, "models/other", address, false),
            (EventKind::Ejected, "models/chat", Some("10.0.0.2:80"), false),
            (EventKind::Ejected, "models/chat", None, false),
        ] {
            let event = event(kind, service, backend);
            assert_eq!(filter.wants(&event), wanted, "{event:?}");
        }
        let all = Filter::new(&EventQuery::default()).unwrap();
        assert!(all.wants(&event(EventKind::Closed, "a/b", None)));
    }

    #[test]
    fn a_question_that_makes_no_sense_is_answered_with_what_does() {
        for (kind, backend, named) in [
            (Some("refused,ejectd"), None, "readmitted"),
            (Some("lost"), None, "`lost`"),
            (None, Some("10.0.0.1"), "ip:port"),
        ] {
            let query = EventQuery {
                kind: kind.map(str::to_owned),
                backend: backend.map(str::to_owned),
                ..EventQuery::default()
            };
            let error = format!("{:#}", Filter::new(&query).unwrap_err());
            assert!(error.contains(named), "{error}");
        }
    }
}
