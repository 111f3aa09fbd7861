// SPDX-License-Identifier: Apache-2.0
//! One request and its answer on an open connection, recorded as it happens so that a report of an interval is true
//! for streams that outlive it.

use std::error::Error as _;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use tokio::time::timeout;

use super::chunk::{Event, completion_tokens};
use super::options::Mode;
use super::plan::Plan;
use super::session::Session;
use super::sse::SseParser;
use super::tally::Failure;

const PATH: &str = "/v1/chat/completions";

/// A request in progress.
pub(super) struct Exchange<'a> {
    pub(super) plan: &'a Plan,
    pub(super) worker: usize,
    /// When the request was started, before its connect.
    pub(super) started: Instant,
}

/// A request that failed, and whether it never left this host.
pub(super) struct Broken {
    pub(super) failure: Failure,
    pub(super) unsent: bool,
}

impl Exchange<'_> {
    /// Sends the request and reads the answer to its end.
    pub(super) async fn run(&self, session: &mut Session, authority: &str) -> Result<(), Broken> {
        let request = self.request(authority)?;
        let response = self.idle_limit(session.send(request)).await??;
        self.note_headers(session, &response);
        self.read(session, response).await
    }

    fn request(&self, authority: &str) -> Result<Request<Full<Bytes>>, Broken> {
        let mut request = Request::post(PATH)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json");
        if self.plan.options.mode == Mode::OneShot {
            request = request.header(CONNECTION, "close");
        }
        request
            .body(Full::new(self.plan.body.clone()))
            .map_err(|_| Failure::Protocol.into())
    }

    fn note_headers(&self, session: &mut Session, response: &Response<Incoming>) {
        let replica = response
            .headers()
            .get("x-replica")
            .and_then(|name| name.to_str().ok());
        self.plan.record(self.worker, |tally| {
            tally.ttfb.record(self.started.elapsed());
            *tally.statuses.entry(response.status().as_u16()).or_default() += 1;
            if let Some(replica) = replica {
                let replica = tally.replica(replica);
                replica.requests += 1;
                replica.connections += u64::from(session.replica.is_none());
            }
        });
        if session.replica.as_deref() != replica {
            session.replica = replica.map(str::to_owned);
        }
    }

    async fn read(&self, session: &Session, response: Response<Incoming>) -> Result<(), Broken> {
        let status = response.status();
        let body = response.into_body();
        if status != StatusCode::OK {
            self.whole(body).await?;
            return Err(Failure::HttpStatus.into());
        }
        if self.plan.options.stream {
            return self.events(session, body).await;
        }
        let answer = self.whole(body).await?;
        let tokens = completion_tokens(&answer).ok_or(Failure::Protocol)?;
        self.count_tokens(session, tokens, Span::Whole);
        Ok(())
    }

    async fn whole(&self, mut body: Incoming) -> Result<Vec<u8>, Broken> {
        let mut answer = Vec::new();
        while let Some(data) = self.data(&mut body).await? {
            answer.extend_from_slice(&data);
        }
        Ok(answer)
    }

    async fn events(&self, session: &Session, mut body: Incoming) -> Result<(), Broken> {
        let mut parser = SseParser::default();
        let (mut done, mut malformed) = (false, false);
        let mut last_token: Option<Instant> = None;
        while let Some(data) = self.data(&mut body).await? {
            let mut tokens = 0;
            parser.feed(&data, |event| match Event::of(event) {
                Event::Content => tokens += 1,
                Event::Done => done = true,
                Event::Malformed => malformed = true,
                Event::Other => (),
            });
            if tokens > 0 {
                let now = Instant::now();
                let span = match last_token.replace(now) {
                    None => Span::First(now - self.started),
                    Some(previous) => Span::Gap(now - previous),
                };
                self.count_tokens(session, tokens, span);
            }
        }
        match (done, malformed) {
            (_, true) => Err(Failure::Protocol.into()),
            (false, _) => Err(Failure::Truncated.into()),
            (true, false) => Ok(()),
        }
    }

    /// The next bytes of the body; `None` at its end.
    async fn data(&self, body: &mut Incoming) -> Result<Option<Bytes>, Broken> {
        while let Some(frame) = self.idle_limit(body.frame()).await? {
            if let Ok(data) = frame?.into_data() {
                self.plan
                    .record(self.worker, |tally| tally.bytes += data.len() as u64);
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// Records `tokens` (at least 1) that came in one read.
    fn count_tokens(&self, session: &Session, tokens: u64, span: Span) {
        self.plan.record(self.worker, |tally| {
            tally.tokens += tokens;
            match span {
                Span::First(time) => tally.ttft.record(time),
                Span::Gap(gap) => tally.itl.record(gap),
                Span::Whole => (),
            }
            if !matches!(span, Span::Whole) {
                (1..tokens).for_each(|_| tally.itl.record(Duration::ZERO));
            }
            if let Some(replica) = &session.replica {
                let replica = tally.replica(replica);
                replica.tokens += tokens;
                if let Span::First(time) = span {
                    replica.ttft.record(time);
                }
            }
        });
    }

    async fn idle_limit<T>(&self, wait: impl Future<Output = T>) -> Result<T, Broken> {
        timeout(self.plan.options.timeout, wait)
            .await
            .map_err(|_| Failure::Timeout.into())
    }
}

/// The time that ended with a read of tokens. Further tokens of one read came with the first: their gap is 0.
#[derive(Clone, Copy)]
enum Span {
    /// Since the start of the request.
    First(Duration),
    /// Since the previous read of tokens.
    Gap(Duration),
    /// The answer came as a whole.
    Whole,
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self {
            failure,
            unsent: false,
        }
    }
}

impl From<hyper::Error> for Broken {
    fn from(error: hyper::Error) -> Self {
        let mut source = error.source();
        while let Some(cause) = source {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                match io.kind() {
                    io::ErrorKind::UnexpectedEof => return Failure::Truncated.into(),
                    io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe => return Failure::Reset.into(),
                    io::ErrorKind::TimedOut => return Failure::Timeout.into(),
                    _ => (),
                }
            }
            source = cause.source();
        }
        if error.is_canceled() {
            return Self {
                failure: Failure::Truncated,
                unsent: true,
            };
        }
        let ended = error.is_incomplete_message() || error.is_closed();
        if ended {
            Failure::Truncated.into()
        } else {
            Failure::Protocol.into()
        }
    }
}
