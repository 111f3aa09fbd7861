// SPDX-License-Identifier: Apache-2.0
//! Comments of a server-sent event stream at a fixed period, as sse-starlette sends them to keep proxies awake. They come from the
//! server and not from the engine: a wedged engine does not stop them, a frozen server does.
//!
//! Used by [`super::stream`]. Invariant: a heartbeat never cancels the wait for the next event.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::poll_fn;
use futures_util::{Stream, StreamExt as _};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

use super::connection::ConnectionHandle;
use super::generation::Generation;
use super::recorder::Mark;

const COMMENT: &[u8] = b": ping\n\n";

/// The heartbeats of one stream.
pub(super) struct Heartbeats {
    /// `None` for no heartbeats.
    ticks: Option<Interval>,
    frozen: Arc<AtomicBool>,
    connection: ConnectionHandle,
}

impl Heartbeats {
    /// A `period` of 0 is for none.
    pub(super) fn new(generation: &Generation, period: Duration) -> Self {
        let ticks = (!period.is_zero()).then(|| {
            let mut ticks = interval_at(Instant::now() + period, period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            ticks
        });
        Self {
            ticks,
            frozen: generation.frozen(),
            connection: generation.connection().clone(),
        }
    }

    /// The events, with heartbeats while they are waited for. Each heartbeat is a write of its own.
    pub(super) fn among(
        mut self,
        events: impl Stream<Item = Bytes> + Send,
    ) -> impl Stream<Item = Bytes> + Send {
        let mut events = Box::pin(events);
        let (mut due, mut after) = (false, After::Write);
        poll_fn(move |context| {
            if after != After::Heartbeat
                && let Poll::Ready(event) = events.poll_next_unpin(context)
            {
                after = After::Event;
                return Poll::Ready(event);
            }
            due |= self.is_due(context);
            if after == After::Write {
                return if std::mem::take(&mut due) && !self.frozen.load(Ordering::Relaxed) {
                    after = After::Heartbeat;
                    self.connection.mark(Mark::Heartbeat);
                    Poll::Ready(Some(Bytes::from_static(COMMENT)))
                } else {
                    Poll::Pending
                };
            }
            if due || after == After::Heartbeat {
                context.waker().wake_by_ref();
            }
            // Hyper writes now.
            after = After::Write;
            Poll::Pending
        })
    }

    fn is_due(&mut self, context: &mut Context<'_>) -> bool {
        let mut due = false;
        while let Some(ticks) = &mut self.ticks
            && ticks.poll_tick(context).is_ready()
        {
            due = true;
        }
        due
    }
}

/// What came before a poll.
#[derive(Clone, Copy, PartialEq, Eq)]
enum After {
    Event,
    Heartbeat,
    Write,
}
