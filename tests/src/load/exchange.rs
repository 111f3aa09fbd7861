// SPDX-License-Identifier: Apache-2.0
//! One request and its answer on an open connection, recorded as it happens so that a report of an interval is true
//! for streams that outlive it.

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::{Instant as Deadline, timeout_at};

use super::cancel::{How, When};
use super::chunk::{Event, completion_tokens};
use super::options::Mode;
use super::request::Request;
use super::response::Head;
use super::session::{ReadError, Session};
use super::sse::SseParser;
use super::tally::Failure;

const PATH: &str = "/v1/chat/completions";
/// How long `100 Continue` is waited for; curl's default.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// Why a request has no complete answer.
pub(super) enum Broken {
    /// It failed.
    Failed(Failure),
    /// It never left this host.
    Unsent,
    /// It was given up on purpose.
    GivenUp,
}

/// Reads the answer to one request.
pub(super) struct Exchange<'a, 'plan> {
    pub(super) request: &'a mut Request<'plan>,
    pub(super) session: &'a mut Session,
    /// Of a cancellation in prefill.
    cancel_at: Option<Deadline>,
}

impl<'a, 'plan> Exchange<'a, 'plan> {
    pub(super) fn new(request: &'a mut Request<'plan>, session: &'a mut Session) -> Self {
        Self {
            request,
            session,
            cancel_at: None,
        }
    }

    /// Writes the request; `pipelined` if another is ahead of it.
    pub(super) async fn send(&mut self, pipelined: bool) -> Result<(), Broken> {
        let expects = self.request.plan.options.expect_continue;
        self.request.sending(self.session, pipelined);
        let written = self.session.traffic().written_bytes();
        let head = self.head();
        let body = self.request.plan.body.clone();
        let result = if expects {
            self.send_expecting(head.as_bytes(), &body).await
        } else {
            let bytes = [head.as_bytes(), &body[..]].concat();
            let deadline = Deadline::now() + self.request.plan.options.timeout;
            match timeout_at(deadline, self.session.write(&bytes)).await {
                Ok(result) => result.map_err(|error| Broken::Failed(failure(&error))),
                Err(_) => Err(Failure::Timeout.into()),
            }
        };
        self.request.sent(self.session, written, result.is_ok());
        if result.is_err() && self.session.traffic().written_bytes() == written {
            self.request.unsent();
            return Err(Broken::Unsent);
        }
        result
    }

    /// The body follows `100 Continue`.
    async fn send_expecting(&mut self, head: &[u8], body: &[u8]) -> Result<(), Broken> {
        let wrong = |error: io::Error| Broken::Failed(failure(&error));
        self.session.write(head).await.map_err(wrong)?;
        match timeout_at(Deadline::now() + CONTINUE_WAIT, self.session.head()).await {
            Ok(Ok(interim)) if interim.status == 100 => self.note_interim(),
            // Curl closes, too, since the server may take the body for the next request.
            Ok(Ok(_)) => return Err(Failure::HttpStatus.into()),
            Ok(Err(error)) => return Err(error.into()),
            Err(_) => (),
        }
        self.session.write(body).await.map_err(wrong)
    }

    /// Reads the answer to its end.
    pub(super) async fn receive(&mut self) -> Result<(), Broken> {
        self.request.awaited(self.session);
        if let Some(When::Prefill(after)) = self.request.fate.map(|fate| fate.when) {
            self.cancel_at = Some(Deadline::now() + after);
        }
        let head = loop {
            let head = self.wait(async |session| session.head().await).await?;
            if head.status >= 200 {
                break head;
            }
            self.note_interim();
        };
        self.note_head(&head);
        if head.status != 200 {
            self.whole().await?;
            return Err(Failure::HttpStatus.into());
        }
        if head.streamed {
            return self.events().await;
        }
        let answer = self.whole().await?;
        let tokens = completion_tokens(&answer).ok_or(Failure::Protocol)?;
        self.count_tokens(tokens, Span::Whole);
        Ok(())
    }

    fn head(&self) -> String {
        let plan = self.request.plan;
        let close = if plan.options.mode == Mode::OneShot {
            "connection: close\r\n"
        } else {
            ""
        };
        let expect = if plan.options.expect_continue {
            "expect: 100-continue\r\n"
        } else {
            ""
        };
        format!(
            "POST {PATH} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nx-request-id: {}\r\n{close}{expect}content-length: {}\r\n\r\n",
            self.session.dialled,
            self.request.id(),
            plan.body.len()
        )
    }

    fn note_interim(&mut self) {
        let now = self.session.traffic().read_ns();
        if let Some(seen) = &mut self.request.observation {
            seen.interim_ns.get_or_insert(now);
        }
    }

    fn note_head(&mut self, head: &Head) {
        let is_first = self.session.replica.is_none();
        self.request.record(|tally| {
            tally.ttfb.record(self.request.started.elapsed());
            *tally.statuses.entry(head.status).or_default() += 1;
            if let Some(replica) = &head.replica {
                let replica = tally.replica(replica);
                replica.requests += 1;
                replica.connections += u64::from(is_first);
            }
        });
        if let Some(seen) = &mut self.request.observation {
            seen.status = Some(head.status);
            seen.first_byte_ns = Some(self.session.traffic().read_ns());
            seen.replica.clone_from(&head.replica);
        }
        self.session.replica.clone_from(&head.replica);
    }

    async fn whole(&mut self) -> Result<Vec<u8>, Broken> {
        let mut answer = Vec::new();
        while let Some(piece) = self.piece().await? {
            if answer.is_empty()
                && let Some(seen) = &mut self.request.observation
                && seen.status == Some(200)
            {
                let now = self.session.traffic().read_ns();
                seen.first_token_ns = Some(now);
                seen.emissions_ns.push(now);
            }
            answer.extend_from_slice(&piece);
        }
        Ok(answer)
    }

    async fn events(&mut self) -> Result<(), Broken> {
        let mut parser = SseParser::default();
        let (mut done, mut malformed) = (false, false);
        let mut last_token: Option<Instant> = None;
        while let Some(mut piece) = self.piece().await? {
            let mut tokens = 0;
            // Everything that one read brought is one emission.
            loop {
                parser.feed(&piece, |event| match Event::of(event) {
                    Event::Content => tokens += 1,
                    Event::Done => done = true,
                    Event::Malformed => malformed = true,
                    Event::Other => (),
                });
                match self.session.ready_piece().map_err(|_| Failure::Protocol)? {
                    Some(next) => piece = self.count_bytes(next),
                    None => break,
                }
            }
            if tokens > 0 {
                let now = Instant::now();
                let span = match last_token.replace(now) {
                    None => Span::First(now - self.request.started),
                    Some(previous) => Span::Gap(now - previous),
                };
                self.count_tokens(tokens, span);
                if !done {
                    self.cancel_in_decode().await?;
                }
            }
        }
        match (done, malformed) {
            (_, true) => Err(Failure::Protocol.into()),
            (false, _) => Err(Failure::Truncated.into()),
            (true, false) => Ok(()),
        }
    }

    /// The next bytes of the body; `None` at its end.
    async fn piece(&mut self) -> Result<Option<Bytes>, Broken> {
        let piece = self.wait(async |session| session.piece().await).await?;
        Ok(piece.map(|piece| self.count_bytes(piece)))
    }

    fn count_bytes(&self, piece: Bytes) -> Bytes {
        self.request.record(|tally| tally.bytes += piece.len() as u64);
        piece
    }

    /// Waits for something of the answer, within the limit for silence; gives the request up when its time has come.
    async fn wait<T>(
        &mut self,
        read: impl AsyncFn(&mut Session) -> Result<T, ReadError>,
    ) -> Result<T, Broken> {
        let silence = Deadline::now() + self.request.plan.options.timeout;
        loop {
            let deadline = self.cancel_at.map_or(silence, |cancel| cancel.min(silence));
            match timeout_at(deadline, read(self.session)).await {
                Ok(result) => return Ok(result?),
                Err(_) if self.cancel_at.take().is_some_and(|cancel| cancel <= silence) => {
                    self.give_up(false).await?;
                }
                Err(_) => return Err(Failure::Timeout.into()),
            }
        }
    }

    async fn cancel_in_decode(&mut self) -> Result<(), Broken> {
        let arrived = self
            .request
            .observation
            .as_ref()
            .map(|seen| seen.emissions_ns.len());
        match self.request.fate.map(|fate| fate.when) {
            Some(When::Decode(after)) if arrived >= Some(after) => self.give_up(true).await,
            _ => Ok(()),
        }
    }

    /// Goes on only after a half-close.
    async fn give_up(&mut self, in_decode: bool) -> Result<(), Broken> {
        let Some(fate) = self.request.fate else {
            return Ok(());
        };
        self.request.giving_up(fate.how);
        self.session.give_up(fate.how, in_decode).await;
        match fate.how {
            How::HalfClose => Ok(()),
            How::Fin | How::Rst | How::Kill => Err(Broken::GivenUp),
        }
    }

    /// Records `tokens` (at least 1) that came in one read.
    fn count_tokens(&mut self, tokens: u64, span: Span) {
        self.cancel_at = None;
        if let Some(seen) = &mut self.request.observation {
            seen.tokens += tokens;
            if !matches!(span, Span::Whole) {
                let now = self.session.traffic().read_ns();
                seen.first_token_ns.get_or_insert(now);
                seen.emissions_ns.push(now);
            }
        }
        self.request.record(|tally| {
            tally.tokens += tokens;
            match span {
                Span::First(time) => tally.ttft.record(time),
                Span::Gap(gap) => tally.itl.record(gap),
                Span::Whole => (),
            }
            if !matches!(span, Span::Whole) {
                (1..tokens).for_each(|_| tally.itl.record(Duration::ZERO));
            }
            if let Some(replica) = &self.session.replica {
                let replica = tally.replica(replica);
                replica.tokens += tokens;
                if let Span::First(time) = span {
                    replica.ttft.record(time);
                }
            }
        });
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
        Self::Failed(failure)
    }
}

impl From<ReadError> for Broken {
    fn from(error: ReadError) -> Self {
        Self::Failed(match error {
            ReadError::Io(error) => failure(&error),
            ReadError::Malformed => Failure::Protocol,
        })
    }
}

fn failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Failure::Truncated,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted | io::ErrorKind::BrokenPipe => {
            Failure::Reset
        }
        io::ErrorKind::TimedOut => Failure::Timeout,
        _ => Failure::Protocol,
    }
}
