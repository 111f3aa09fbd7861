// SPDX-License-Identifier: Apache-2.0
//! A response body that tells the recorder of its connection when its end is about to be written. Put around every answer to a
//! request that has a line in the truth.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body as AnyBody, Bytes};
use axum::http::StatusCode;
use hyper::body::{Body, Frame, SizeHint};

use super::connection::ConnectionHandle;
use super::recorder::Mark;

/// The body.
pub(super) struct Marked {
    body: AnyBody,
    connection: ConnectionHandle,
    /// Every piece is text of the model: the answer is neither an error nor a stream, which marks its own.
    whole: bool,
}

impl Marked {
    pub(super) fn new(body: AnyBody, status: StatusCode, connection: ConnectionHandle) -> Self {
        let whole = status.is_success() && body.size_hint().exact().is_some();
        if body.is_end_stream() {
            connection.mark(Mark::End);
        }
        Self {
            body,
            connection,
            whole,
        }
    }
}

impl Body for Marked {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if frame.is_some() && self.whole {
            self.connection.mark(Mark::Tokens);
        }
        if frame.is_none() || self.body.is_end_stream() {
            self.connection.mark(Mark::End);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
