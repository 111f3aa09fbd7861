// SPDX-License-Identifier: Apache-2.0
//! The body of a response: counts what the call came to, and can end a stream before its handler does.
//!
//! Invariant: whoever is cut off is told why by a status, so a client can tell it from a broken connection.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Frame;
use tonic::{Code, Status, body::Body};

use super::gate::code_of;
use crate::{metrics::Metrics, security::Method};

/// The account of one call; one that was not ended when it is dropped was cancelled by the client.
#[derive(Debug)]
pub(super) struct Record {
    metrics: Arc<Metrics>,
    method: Method,
    began: Instant,
    is_ended: bool,
}

impl Record {
    pub(super) fn begin(metrics: &Arc<Metrics>, method: Method) -> Self {
        metrics.call_began(method);
        Self {
            metrics: Arc::clone(metrics),
            method,
            began: Instant::now(),
            is_ended: false,
        }
    }

    pub(super) fn end(mut self, code: Code) {
        self.note(code);
    }

    fn note(&mut self, code: Code) {
        if !std::mem::replace(&mut self.is_ended, true) {
            self.metrics.call_ended(self.method, code, self.began.elapsed());
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        self.note(Code::Cancelled);
    }
}

type End = Pin<Box<dyn Future<Output = Status> + Send>>;

/// A body with its account.
pub(super) struct Guarded {
    /// `None` when it is over.
    inner: Option<Body>,
    end: Option<End>,
    record: Record,
}

impl Guarded {
    /// Wraps the body of `response`, which `end` may end.
    pub(super) fn wrap(
        response: Response<Body>,
        record: Record,
        end: Option<impl Future<Output = Status> + Send + 'static>,
    ) -> Response<Body> {
        if let Some(code) = code_of(response.headers()) {
            record.end(code);
            return response;
        }
        let end: Option<End> = end.map(|end| Box::pin(end) as End);
        response.map(|inner| {
            Body::new(Self {
                inner: Some(inner),
                end,
                record,
            })
        })
    }

    fn finish(&mut self, status: &Status) -> Frame<Bytes> {
        self.inner = None;
        self.record.note(status.code());
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers = Status::new(status.code(), "")
                .into_http::<Body>()
                .into_parts()
                .0
                .headers;
        }
        Frame::trailers(trailers)
    }
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(inner) = &mut this.inner else {
            return Poll::Ready(None);
        };
        if let Some(Poll::Ready(status)) = this.end.as_mut().map(|end| end.as_mut().poll(context)) {
            return Poll::Ready(Some(Ok(this.finish(&status))));
        }
        let polled = Pin::new(inner).poll_frame(context);
        if let Poll::Ready(polled) = &polled {
            let code = match polled {
                Some(Ok(frame)) => frame
                    .trailers_ref()
                    .map(|trailers| code_of(trailers).unwrap_or(Code::Ok)),
                Some(Err(status)) => Some(status.code()),
                None => Some(Code::Unknown),
            };
            if let Some(code) = code {
                this.record.note(code);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(http_body::Body::is_end_stream)
    }
}
