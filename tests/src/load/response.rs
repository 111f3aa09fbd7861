// SPDX-License-Identifier: Apache-2.0
//! HTTP/1.1 responses, parsed as the bytes come. Own code around `httparse`, because no client library sends a request before the
//! answer to the one ahead of it, or tells which read brought which bytes.
//!
//! Used by [`super::session`]. Pure: takes bytes off the front of a buffer and leaves what is incomplete.

use bytes::{Buf as _, Bytes, BytesMut};

const MAX_HEADERS: usize = 32;
/// Longest head, chunk size line or trailer line that is waited for.
const MAX_LINE: usize = 64 << 10;

/// Bytes that are no HTTP/1.1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer does not speak HTTP/1.1")]
pub(super) struct Malformed;

/// The head of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    /// `x-replica`.
    pub(super) replica: Option<String>,
    /// `text/event-stream`.
    pub(super) streamed: bool,
    /// The connection ends with this response.
    pub(super) closes: bool,
    pub(super) body: Body,
}

/// What is still to come of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// Bytes until the end.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// Whatever comes until the connection ends.
    UntilClose,
}

/// Where in a chunked body the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Data(u64),
    AfterData,
    Trailer,
    End,
}

/// Takes a head, also that of an interim response; `None` if it is not complete.
pub(super) fn take_head(buffer: &mut BytesMut) -> Result<Option<Head>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(buffer) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if buffer.len() <= MAX_LINE => return Ok(None),
        _ => return Err(Malformed),
    };
    let header = |name: &str| {
        response
            .headers
            .iter()
            .find(|header| header.name.eq_ignore_ascii_case(name))
            .and_then(|header| std::str::from_utf8(header.value).ok())
    };
    let says = |name: &str, word: &str| header(name).is_some_and(|value| value.eq_ignore_ascii_case(word));
    let status = response.code.ok_or(Malformed)?;
    let body = match header("content-length") {
        _ if says("transfer-encoding", "chunked") => Body::Chunked(Chunk::Size),
        _ if status < 200 || status == 204 || status == 304 => Body::Length(0),
        Some(length) => Body::Length(length.parse().map_err(|_| Malformed)?),
        None => Body::UntilClose,
    };
    let head = Head {
        status,
        replica: header("x-replica").map(str::to_owned),
        streamed: header("content-type").is_some_and(|kind| kind.starts_with("text/event-stream")),
        closes: says("connection", "close") || response.version == Some(0) || body == Body::UntilClose,
        body,
    };
    buffer.advance(length);
    Ok(Some(head))
}

impl Body {
    pub(super) fn is_done(self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked(Chunk::End))
    }

    /// Takes the next piece of content; `None` if there is none before more bytes come.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        let piece = match self {
            Self::Length(left) => take_up_to(buffer, left),
            Self::Chunked(chunk) => chunk.take(buffer)?,
            Self::UntilClose => buffer.split().freeze(),
        };
        Ok((!piece.is_empty()).then_some(piece))
    }
}

impl Chunk {
    /// Empty if more bytes are needed, or at the end.
    fn take(&mut self, buffer: &mut BytesMut) -> Result<Bytes, Malformed> {
        loop {
            match self {
                Self::Size => match httparse::parse_chunk_size(buffer) {
                    Ok(httparse::Status::Complete((line, size))) => {
                        buffer.advance(line);
                        *self = if size == 0 {
                            Self::Trailer
                        } else {
                            Self::Data(size)
                        };
                    }
                    Ok(httparse::Status::Partial) if buffer.len() <= MAX_LINE => return Ok(Bytes::new()),
                    _ => return Err(Malformed),
                },
                Self::Data(left) => {
                    let piece = take_up_to(buffer, left);
                    if *left == 0 {
                        *self = Self::AfterData;
                    }
                    return Ok(piece);
                }
                Self::AfterData => match take_line(buffer)? {
                    None => return Ok(Bytes::new()),
                    Some(0) => *self = Self::Size,
                    Some(_) => return Err(Malformed),
                },
                Self::Trailer => match take_line(buffer)? {
                    None => return Ok(Bytes::new()),
                    Some(0) => *self = Self::End,
                    Some(_) => (),
                },
                Self::End => return Ok(Bytes::new()),
            }
        }
    }
}

fn take_up_to(buffer: &mut BytesMut, left: &mut u64) -> Bytes {
    let length = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    *left -= length as u64;
    buffer.split_to(length).freeze()
}

/// Takes a line that ends with CRLF and gives its length without that.
fn take_line(buffer: &mut BytesMut) -> Result<Option<usize>, Malformed> {
    match buffer.windows(2).position(|pair| pair == b"\r\n") {
        Some(end) => {
            buffer.advance(end + 2);
            Ok(Some(end))
        }
        None if buffer.len() <= MAX_LINE => Ok(None),
        None => Err(Malformed),
    }
}
