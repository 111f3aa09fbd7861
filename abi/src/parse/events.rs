// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Server-sent events with tokens in JSON: whether a packet holds more than heartbeats, and whether it holds text.
//!
//! A packet *holds data* when a line of it begins with `data:` and goes on with anything but `[` (as in `[DONE]`), and the event
//! is not named `ping`. It *holds a token* when one of the members that carry text (`content`, `reasoning_content`,
//! `reasoning`, `thinking`, `text`, `arguments`) is a string that is not empty. A blank after a colon is skipped, so that every
//! serialiser's habit matches. Invariant: a pattern that a packet cuts is missed, never invented.

use super::{same, word};
use crate::meter::DownFacts;

/// Most bytes of a packet that are searched for its first token.
pub const SEARCHED: u32 = 1_024;
/// How many bytes of a packet's end [`tail`] wants.
pub const TAIL: u32 = 16;
/// The end of a response in chunks: the end of a chunk, and the last chunk (RFC 9112, section 7.1). Its first byte is any.
const END: u64 = word(*b"\0\r\n0\r\n\r\n");
/// The event that ends a stream of tokens, in a chunk of its own or at the end of one.
const DONE: [u64; 2] = [word(*b"data: [D"), word(*b"ONE]\n\n\r\n")];

/// Whether a packet that begins with the eight bytes `first` and the eight `second` (big-endian) is seen at once to hold data: with the
/// line of a chunk's size of up to four digits, or none, and an event that is JSON. What is not seen here, [`Events`] finds.
#[inline(always)]
pub const fn begins_with_data(first: u64, second: u64) -> bool {
    const LINE: u64 = word(*b"\ndata: {");
    let at_once = same(first >> 8, LINE & 0x00ff_ffff_ffff_ffff);
    let after_size = same(first << 16 | second >> 48, LINE)
        | same(first << 24 | second >> 40, LINE)
        | same(first << 32 | second >> 32, LINE)
        | same(first << 40 | second >> 24, LINE);
    at_once | after_size != 0
}

/// What is to be told of a packet after the first token: nothing, if it is data as usual. Data is told when a marker waits to be read with
/// it (among the facts `pending`), and a marker with whether data before it is `unread`. By arithmetic, as in [`super`].
#[inline(always)]
pub const fn goes_on(is_data: bool, pending: u16, unread: bool) -> DownFacts {
    const DATA_BIT: u32 = DownFacts::DATA.0.trailing_zeros();
    const MARKER_BIT: u32 = DownFacts::MARKER.0.trailing_zeros();
    let data = is_data as u16;
    let awaited = ((pending >> MARKER_BIT) & 1) << DATA_BIT;
    let marker = DownFacts::MARKER.0 | (DownFacts::AFTER_DATA.0 * unread as u16);
    DownFacts((awaited * data) | (marker * (1 - data)))
}

/// Whether data is among what was not read when a packet came that begins at `seq`: all from `down_seq` on, but for a marker that is
/// `pending`, ends at `down_mark` and has no data before it.
#[inline(always)]
pub const fn is_data_unread(down_seq: u32, seq: u32, pending: u16, down_mark: u32) -> bool {
    const OF_MARKER: u16 = DownFacts::MARKER.0 | DownFacts::AFTER_DATA.0 | DownFacts::DATA.0;
    let only_a_marker = pending & OF_MARKER == DownFacts::MARKER.0 && down_mark == seq;
    down_seq != seq && !only_a_marker
}

/// What the last 16 bytes of a packet show, in two big-endian words.
#[inline(always)]
pub const fn tail(first: u64, second: u64) -> DownFacts {
    DownFacts(0)
        .with_if(second & (u64::MAX >> 8) == END, DownFacts::END)
        .with_if(first == DONE[0] && second == DONE[1], DownFacts::DONE)
}

/// The low six bytes of a window.
const SIX: u64 = 0xffff_ffff_ffff;
const DATA_LINE: u64 = word(*b"\0\0\ndata:");
const PING: u64 = word(*b"ent:ping");

/// A packet that is read byte by byte. Without padding, as [`super::head::Head`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Events {
    /// The latest eight bytes, without blanks after colons.
    recent: u64,
    /// 1 while the present event is a named heartbeat.
    ping: u64,
    /// What was found: bits of [`DownFacts`].
    facts: u64,
}

impl Events {
    /// At the beginning of a line; `zero` as in [`super::head::Head::new`].
    #[inline(always)]
    pub fn new(zero: u64) -> Self {
        Self {
            recent: zero | u64::from(b'\n'),
            ping: zero,
            facts: zero,
        }
    }

    /// The next byte.
    #[inline(always)]
    pub fn byte(&mut self, byte: u8) {
        let (recent, value) = (self.recent, u64::from(byte));
        let last = recent & 0xff;
        if last == u64::from(b':') {
            if same(value, u64::from(b' ')) != 0 {
                return;
            }
            let line = same(recent & SIX, DATA_LINE);
            let ends =
                same(value, u64::from(b'[')) | same(value, u64::from(b'\n')) | same(value, u64::from(b'\r'));
            self.facts |= (line & !ends & !self.ping).wrapping_mul(u64::from(DownFacts::DATA.0));
            self.ping &= !line;
        } else if last == u64::from(b'"') {
            let text = is_text(recent) & !same(value, u64::from(b'"'));
            self.facts |= text.wrapping_mul(u64::from(DownFacts::TOKEN.0));
        } else if last == u64::from(b'g') {
            self.ping |= same(recent, PING);
        }
        self.recent = recent << 8 | value;
    }

    /// The next `count` bytes, the first ones of a big-endian word; none after all that is `wanted` was found.
    #[inline(always)]
    pub fn bytes(&mut self, word: u64, count: u32, wanted: DownFacts) {
        let mut rest = word;
        for index in 0..8 {
            if index >= count || self.facts().has(wanted) {
                return;
            }
            self.byte((rest >> 56) as u8);
            rest <<= 8;
        }
    }

    /// What was found.
    #[inline(always)]
    pub const fn facts(&self) -> DownFacts {
        DownFacts(self.facts as u16)
    }
}

/// 1 if `recent` ends with the beginning of a string that carries text.
#[inline(always)]
const fn is_text(recent: u64) -> u64 {
    same(recent, word(*b"ntent\":\""))
        | same(recent, word(*b"\"text\":\""))
        | same(recent, word(*b"nking\":\""))
        | same(recent, word(*b"oning\":\""))
        | same(recent, word(*b"ments\":\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (bool, bool) {
        let mut events = Events::new(0);
        for byte in text.bytes() {
            events.byte(byte);
        }
        let facts = events.facts();
        (facts.has(DownFacts::DATA), facts.has(DownFacts::TOKEN))
    }

    #[test]
    fn a_token_is_text_that_is_not_empty() {
        let serialisers = [
            "5f\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n\r\n",
            "5f\r\ndata: {\"choices\": [{\"delta\": {\"content\": \"Hi\"}}]}\n\n\r\n",
            "data:{\"choices\":[{\"text\":\" x\"}]}\n\n",
            "event: content_block_delta\ndata: {\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"so\"}}\n\n",
            "data: {\"delta\":{\"reasoning\":\"so\"}}\n\n",
            "data: {\"delta\":{\"reasoning_content\":\"so\"}}\n\n",
            "data: {\"delta\":{\"tool_calls\":[{\"function\":{\"arguments\":\"{\"}}]}}\n\n",
            "data: {\"delta\":{\"content\":\"\\\"\"}}\n\n",
        ];
        for text in serialisers {
            assert_eq!(read(text), (true, true), "{text}");
        }
    }

    #[test]
    fn a_role_prelude_is_data_without_a_token() {
        assert_eq!(
            read("data: {\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}\n\n"),
            (true, false)
        );
        assert_eq!(
            read("data: {\"delta\": {\"role\": \"assistant\", \"content\": null}}\n\n"),
            (true, false)
        );
    }

    #[test]
    fn heartbeats_and_end_marks_are_no_data() {
        for text in [
            "8\r\n: ping\n\n\r\n",
            ":\n\n",
            "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
            "event: ping\ndata: {\"type\": \"ping\"}\n\n",
            "",
        ] {
            assert_eq!(read(text), (false, false), "{text}");
        }
    }

    #[test]
    fn only_what_is_not_as_usual_is_told_after_the_first_token() {
        let (data, marker) = (DownFacts::DATA, DownFacts::MARKER);
        assert_eq!(goes_on(true, 0, true), DownFacts(0));
        assert_eq!(goes_on(true, marker.0, false), data);
        assert_eq!(goes_on(false, 0, false), marker);
        assert_eq!(goes_on(false, 0, true), marker.with(DownFacts::AFTER_DATA));
    }

    #[test]
    fn a_marker_that_waits_is_no_data() {
        let (data, marker, after) = (DownFacts::DATA, DownFacts::MARKER, DownFacts::AFTER_DATA);
        let unread = |pending: DownFacts, mark| is_data_unread(100, 150, pending.0, mark);
        assert!(!is_data_unread(150, 150, 0, 0));
        assert!(unread(DownFacts(0), 150));
        assert!(!unread(marker, 150) && unread(marker, 120));
        assert!(unread(marker.with(data), 150) && unread(marker.with(after), 150));
    }

    fn seen(text: &str) -> bool {
        let words = text.as_bytes()[..16].as_chunks().0;
        begins_with_data(u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]))
    }

    #[test]
    fn data_at_the_beginning_is_seen_at_once() {
        for text in [
            "5\r\ndata: {\"a\":1}\n\n",
            "10f\r\ndata: {\"id\":1",
            "1a2b\r\ndata: {\"id\"",
            "data: {\"id\":1}\n\n",
        ] {
            assert!(seen(text), "{text}");
        }
        for text in [
            "e\r\ndata: [DONE]\n",
            "8\r\n: ping\n\n\r\ndata: {",
            "event: message_delta",
        ] {
            assert!(!seen(text), "{text}");
        }
    }

    #[test]
    fn the_end_of_a_packet_tells_the_end_of_a_stream() {
        let last = |text: &str| {
            let words = text.as_bytes()[text.len() - TAIL as usize..].as_chunks().0;
            tail(u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]))
        };
        assert_eq!(last("{\"content\":\"a\"}\n\n\r\n"), DownFacts(0));
        assert_eq!(last("{\"content\":\"a\"}\n\n\r\n0\r\n\r\n"), DownFacts::END);
        assert_eq!(last("e\r\ndata: [DONE]\n\n\r\n"), DownFacts::DONE);
        assert_eq!(last("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"), DownFacts::END);
    }

    #[test]
    fn data_after_a_heartbeat_is_found() {
        assert_eq!(read(": ping\n\ndata: {\"content\":\"a\"}\n\n"), (true, true));
        assert_eq!(
            read("event: ping\ndata: {}\n\nevent: x\ndata: {\"text\":\"a\"}\n\n"),
            (true, true)
        );
    }
}
