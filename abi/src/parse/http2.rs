// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Frames of HTTP/2 (RFC 9113, section 4.1), and what they do to the exchange of their stream.
//!
//! Headers are not decoded: of the compressed ones only a status from HPACK's static table (RFC 7541, appendix A) is read.
//! Invariant: a stream is opened by the client's HEADERS and closed once, by either side or with its connection.

use crate::{
    Effects, Meter, Stream,
    exchange::Content,
    traffic::{Cancel, Outcome},
};

/// Bytes of a frame's header.
pub const HEADER: usize = 9;
/// Bytes of the client's preface.
pub const PREFACE: u32 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const LAST_TYPE: u8 = 9;
const END_STREAM: u8 = 1;
/// Flags of HEADERS that put something before the compressed headers.
const PADDED_OR_PRIORITY: u8 = 0x28;
/// Largest frame that peers may send unless they agreed otherwise is 16 KiB; a length beyond this is no frame.
const LONGEST: u32 = 1 << 20;

/// What a frame is to the meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the connection, or of no interest.
    Control,
    /// Headers or trailers.
    Headers,
    /// A part of the body.
    Data,
    /// Its stream is over at once.
    Reset,
}

/// A frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// Bytes that follow the header.
    pub length: u32,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// It is the last of its direction.
    pub ends: bool,
    /// Its payload begins with the compressed headers.
    pub bare: bool,
}

/// Reads a frame's header; `None` if these bytes are none.
#[inline(always)]
pub fn frame(header: &[u8; HEADER]) -> Option<Frame> {
    let [a, b, c, kind, flags, e, f, g, h] = *header;
    let length = u32::from_be_bytes([0, a, b, c]);
    if kind > LAST_TYPE || length > LONGEST {
        return None;
    }
    let stream = u32::from_be_bytes([e, f, g, h]) & 0x7fff_ffff;
    let kind = match kind {
        _ if stream == 0 => Kind::Control,
        DATA => Kind::Data,
        HEADERS => Kind::Headers,
        RST_STREAM => Kind::Reset,
        _ => Kind::Control,
    };
    Some(Frame {
        kind,
        length,
        stream,
        ends: flags & END_STREAM != 0,
        bare: flags & PADDED_OR_PRIORITY == 0,
    })
}

/// The class of the status in the first byte of compressed headers, if it is one of the static table's; else 0.
#[inline(always)]
pub const fn status_class(first: u8) -> u8 {
    match first {
        0x88..=0x8a => 2,
        0x8b => 3,
        0x8c | 0x8d => 4,
        0x8e => 5,
        _ => 0,
    }
}

/// A frame of an open stream in request direction; the stream is over if `effects` says that a request finished.
#[inline(always)]
pub fn request(meter: &mut Meter, stream: &mut Stream, frame: Frame, now: u64, effects: &mut Effects) {
    if meter.has_ended() {
        return;
    }
    match frame.kind {
        Kind::Reset => {
            let cancel = Cancel::new(stream.exchange.first_byte_ns != 0, true);
            close(meter, stream, Outcome::Canceled, effects);
            if let Some(finished) = &mut effects.finished {
                finished.cancel = Some(cancel);
            }
        }
        Kind::Data => {
            stream.exchange.request(frame.length, now);
            meter.stream_request(frame.length, effects);
        }
        Kind::Headers | Kind::Control => {}
    }
}

/// A frame of an open stream in response direction, `status` the class that its first byte shows; likewise.
#[inline(always)]
pub fn response(
    meter: &mut Meter,
    stream: &mut Stream,
    frame: Frame,
    status: u8,
    now: u64,
    effects: &mut Effects,
) {
    if meter.has_ended() {
        return;
    }
    match frame.kind {
        Kind::Reset => {
            let begun = stream.exchange.first_byte_ns != 0;
            close(
                meter,
                stream,
                if begun {
                    Outcome::Truncated
                } else {
                    Outcome::NoResponse
                },
                effects,
            );
            return;
        }
        Kind::Headers | Kind::Data => {
            let trailers = frame.kind == Kind::Headers && stream.exchange.first_byte_ns != 0;
            if frame.kind == Kind::Headers && status != 0 {
                stream.status = u32::from(status);
            }
            if frame.length > 0 {
                let content = if trailers { Content::Marker } else { Content::Data };
                stream.exchange.response(frame.length, now, content, effects);
            }
        }
        Kind::Control => return,
    }
    if frame.ends && meter.client_has_gone() {
        let cancel = Cancel::new(stream.exchange.first_byte_ns != 0, false);
        close(meter, stream, Outcome::Canceled, effects);
        if let Some(finished) = &mut effects.finished {
            finished.cancel = Some(cancel);
        }
    } else if frame.ends {
        let outcome = match stream.status {
            4 => Outcome::ClientError,
            5.. => Outcome::ServerError,
            _ => Outcome::Success,
        };
        close(meter, stream, outcome, effects);
    }
}

/// The stream is over.
#[inline(always)]
fn close(meter: &mut Meter, stream: &mut Stream, outcome: Outcome, effects: &mut Effects) {
    if stream.exchange.streams() {
        stream.exchange.first_large_gap(effects);
    }
    effects.finished = Some(stream.exchange.finished(outcome, stream.status as u8, true, true));
    meter.stream_closed(stream.exchange.request_bytes, effects);
    stream.id = 0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Vantage;

    const MS: u64 = 1_000_000;

    fn header(kind: u8, flags: u8, stream: u32, length: u32) -> Frame {
        let ([_, a, b, c], [e, f, g, h]) = (length.to_be_bytes(), stream.to_be_bytes());
        frame(&[a, b, c, kind, flags, e, f, g, h]).expect("a frame")
    }

    fn opened() -> (Meter, Stream) {
        let mut meter = Meter::default();
        meter.start(Vantage::Server, 0, 0);
        meter.recognise(crate::Wire::Http2, &mut Effects::default());
        meter.stream_opened(1, &mut Effects::default());
        let mut stream = Stream::default();
        stream.open(1, 100 * MS);
        (meter, stream)
    }

    #[test]
    fn a_header_is_read_and_garbage_is_not() {
        let data = header(DATA, END_STREAM, 5, 70_000);
        assert_eq!(
            (data.kind, data.stream, data.length, data.ends),
            (Kind::Data, 5, 70_000, true)
        );
        assert_eq!(header(4, 0, 0, 18).kind, Kind::Control);
        assert_eq!(frame(b"HTTP/1.1 "), None);
    }

    #[test]
    fn a_stream_of_messages_has_a_first_token_and_gaps() {
        let (mut meter, mut stream) = opened();
        let mut all = Effects::default();
        request(
            &mut meter,
            &mut stream,
            header(DATA, END_STREAM, 1, 200),
            110 * MS,
            &mut all,
        );
        assert_eq!(all.finished, None);
        assert_eq!((meter.open, meter.held_bytes), (1, 200));
        let mut step = |frame, at| {
            let mut effects = Effects::default();
            response(&mut meter, &mut stream, frame, 2, at * MS, &mut effects);
            effects
        };
        let first = step(header(HEADERS, 4, 1, 20), 111);
        assert_eq!(first.first_byte_ns, MS);
        step(header(DATA, 0, 1, 20), 410);
        step(header(DATA, 0, 1, 20), 430);
        let fourth = step(header(DATA, 0, 1, 20), 450);
        assert_eq!(
            (fourth.first_token_ns, fourth.chunks, fourth.gap_count),
            (300 * MS, 3, 2)
        );
        let end = step(header(HEADERS, 4 | END_STREAM, 1, 10), 451);
        let finished = end.finished.expect("the stream is over");
        assert_eq!(
            (
                finished.outcome,
                finished.chunks,
                end.in_flight,
                end.request_bytes
            ),
            (Outcome::Success, 3, -1, -200)
        );
    }

    #[test]
    fn a_reset_by_the_client_is_a_cancel_and_one_by_the_server_is_not() {
        let (mut meter, mut stream) = opened();
        let mut effects = Effects::default();
        request(
            &mut meter,
            &mut stream,
            header(RST_STREAM, 0, 1, 4),
            120 * MS,
            &mut effects,
        );
        let finished = effects.finished.expect("over");
        assert_eq!(
            (finished.outcome, finished.cancel),
            (Outcome::Canceled, Some(Cancel::PrefillReset))
        );
        let (mut meter, mut stream) = opened();
        let mut effects = Effects::default();
        response(
            &mut meter,
            &mut stream,
            header(RST_STREAM, 0, 1, 4),
            0,
            120 * MS,
            &mut effects,
        );
        assert_eq!(
            effects.finished.map(|finished| finished.outcome),
            Some(Outcome::NoResponse)
        );
        assert_eq!(meter.open, 0);
    }

    #[test]
    fn an_end_that_nobody_waits_for_is_a_cancel() {
        let (mut meter, mut stream) = opened();
        meter.peer_fin();
        let mut effects = Effects::default();
        response(
            &mut meter,
            &mut stream,
            header(HEADERS, END_STREAM, 1, 10),
            2,
            120 * MS,
            &mut effects,
        );
        let finished = effects.finished.expect("over");
        assert_eq!(
            (finished.outcome, finished.cancel),
            (Outcome::Canceled, Some(Cancel::DecodeFin))
        );
        let (mut meter, mut stream) = opened();
        meter.end(crate::meter::End::Closed, 0, 120 * MS, &mut Effects::default());
        let mut effects = Effects::default();
        response(
            &mut meter,
            &mut stream,
            header(HEADERS, END_STREAM, 1, 10),
            2,
            121 * MS,
            &mut effects,
        );
        assert_eq!(effects, Effects::default(), "it was given up with its connection");
    }

    #[test]
    fn a_status_of_the_static_table_is_known() {
        assert_eq!([0x88, 0x8d, 0x8e, 0x48, 0xbf].map(status_class), [2, 4, 5, 0, 0]);
    }
}
