// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The head of an HTTP/1.x response: its status, where it ends, and what its headers say of the body (RFC 9112).
//!
//! Invariant: header names are matched from the beginning of their line, in any case.

use super::{same, within, word};
use crate::meter::DownFacts;

/// Longest body whose end is followed: sequence numbers cannot tell larger distances.
const LONGEST_BODY: u64 = 1 << 30;

/// The status of a response that begins with the eight bytes `first` and the eight `second` (big-endian), if one does.
#[inline(always)]
pub const fn status(first: u64, second: u64) -> Option<u16> {
    let is_http = same(first | 1, word(*b"HTTP/1.1")) & same(second >> 56, b' ' as u64);
    let [_, a, b, c, ..] = second.to_be_bytes();
    let digits = within(a, b'1', b'5') & within(b, b'0', b'9') & within(c, b'0', b'9');
    if is_http & digits == 0 {
        return None;
    }
    Some((a - b'0') as u16 * 100 + (b - b'0') as u16 * 10 + (c - b'0') as u16)
}

/// A head that is read in parts of any size. Without padding, because the verifier wants all of it to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// The latest eight bytes, in lower case.
    recent: u64,
    /// The eight before them.
    before: u64,
    /// `Content-Length` as read so far.
    length: u64,
    /// 1 while the value of `Content-Length` is read.
    in_length: u64,
    /// Bytes of the head so far.
    pub length_so_far: u32,
    /// What was found: bits of [`DownFacts`].
    facts: u32,
}

impl Head {
    /// A head of which nothing was read. `zero` is 0: a number that the verifier does not know makes it walk the reader once for all
    /// states instead of once for each.
    #[inline(always)]
    pub fn new(zero: u64) -> Self {
        Self {
            recent: zero,
            before: zero,
            length: zero,
            in_length: zero,
            length_so_far: zero as u32,
            facts: zero as u32,
        }
    }

    /// The next eight bytes, big-endian, if they hold nothing of interest, as most do; else nothing is read, and they are to be read by
    /// [`Self::bytes`].
    #[inline(always)]
    pub const fn skip(&mut self, word: u64) -> bool {
        let lower = to_lower(word);
        if self.in_length & 1 | of_interest(lower) != 0 {
            return false;
        }
        self.length_so_far += 8;
        self.before = self.recent;
        self.recent = lower;
        true
    }

    /// The next `count` bytes, the first ones of a big-endian word; what follows the end of the head is left out.
    #[inline(always)]
    pub fn bytes(&mut self, word: u64, count: u32) {
        let mut rest = word;
        for index in 0..8 {
            if index >= count || self.is_complete() {
                return;
            }
            self.byte((rest >> 56) as u8);
            rest <<= 8;
        }
    }

    /// The next byte.
    #[inline(always)]
    pub fn byte(&mut self, byte: u8) {
        self.length_so_far += 1;
        if self.in_length & 1 != 0 {
            self.digit(byte);
        }
        let lower = u64::from(byte) | within(byte, b'A', b'Z') << 5;
        self.before = self.before << 8 | self.recent >> 56;
        self.recent = self.recent << 8 | lower;
        let (recent, before) = (self.recent, self.before);
        if same(lower, u64::from(b'\n')) != 0 {
            let end = same(recent & 0xffff_ffff, u64::from(u32::from_be_bytes(*b"\r\n\r\n")));
            self.facts |= fact_if(end, DownFacts::HEADERS);
        } else if same(lower, u64::from(b':')) != 0 {
            self.in_length = same(recent, word(*b"-length:")) & same(before, word(*b"\ncontent"));
        } else if same(lower, u64::from(b'd')) != 0 {
            let chunked = same(recent, word(*b" chunked")) | same(recent, word(*b":chunked"));
            self.facts |= fact_if(chunked, DownFacts::CHUNKED);
        } else if same(lower, u64::from(b'm')) != 0 {
            let events = same(recent, word(*b"t-stream")) & same(before, word(*b"ext/even"));
            self.facts |= fact_if(events, DownFacts::EVENTS);
        }
    }

    #[inline(always)]
    fn digit(&mut self, byte: u8) {
        let value = u64::from(byte);
        let digit = within(byte, b'0', b'9');
        self.length = self
            .length
            .wrapping_mul(1 + 9 * digit)
            .wrapping_add(value.wrapping_sub(u64::from(b'0')).wrapping_mul(digit));
        self.facts |= fact_if(digit, DownFacts::LENGTH);
        self.in_length = digit | same(value, u64::from(b' ')) | same(value, u64::from(b'\t'));
    }

    /// Whether the end of the head was read.
    #[inline(always)]
    pub const fn is_complete(&self) -> bool {
        self.facts & DownFacts::HEADERS.0 as u32 != 0
    }

    /// What the head says, for a response with `status`; and the length of its body, if it is among the facts.
    #[inline(always)]
    pub fn says(&self, status: u16) -> (DownFacts, u32) {
        if status == 101 {
            return (DownFacts::UPGRADED, 0);
        }
        if status < 200 {
            return (DownFacts::INFORMATIONAL, 0);
        }
        let facts = DownFacts(self.facts as u16).with(DownFacts::STATUS);
        if status == 204 || status == 304 {
            return (facts.with(DownFacts::LENGTH), 0);
        }
        // RFC 9112, section 6.3: a transfer coding overrides the length.
        if facts.has(DownFacts::CHUNKED) || self.length > LONGEST_BODY {
            return (DownFacts(facts.0 & !DownFacts::LENGTH.0), 0);
        }
        (facts, self.length as u32)
    }
}

/// `fact` if `condition` is 1, nothing if it is 0.
#[inline(always)]
const fn fact_if(condition: u64, fact: DownFacts) -> u32 {
    (condition as u32).wrapping_mul(fact.0 as u32)
}

/// The lowest bit, and the highest, of each byte.
const LOWEST: u64 = 0x0101_0101_0101_0101;
const HIGHEST: u64 = 0x8080_8080_8080_8080;

/// `word` with its capital letters in lower case.
#[inline(always)]
const fn to_lower(word: u64) -> u64 {
    let seven = word & !HIGHEST;
    let from_a = seven + LOWEST * (0x80 - b'A' as u64);
    let after_z = seven + LOWEST * (0x7f - b'Z' as u64);
    word | (((from_a ^ after_z) & !word & HIGHEST) >> 2)
}

/// The highest bit of each byte of `word` that is `byte`.
#[inline(always)]
const fn places(word: u64, byte: u8) -> u64 {
    let other = word ^ (LOWEST * byte as u64);
    !(((other & !HIGHEST) + !HIGHEST) | other) & HIGHEST
}

/// The same of `byte` where the one before it is `before`, or lies in the word before.
#[inline(always)]
const fn pairs(word: u64, before: u8, byte: u8) -> u64 {
    places(word, byte) & (places(word, before) >> 8 | 0x80 << 56)
}

/// Not 0 if one of the eight bytes, in lower case, may end something that [`Head::byte`] looks for: an empty line, `-length:`, `chunked`,
/// `event-stream`.
#[inline(always)]
const fn of_interest(lower: u64) -> u64 {
    let lines = places(lower, b'\n');
    lines & (lines >> 16 | 0x8080 << 48)
        | pairs(lower, b'h', b':')
        | pairs(lower, b'e', b'd')
        | pairs(lower, b'a', b'm')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As [`read`], by words.
    fn read_by_words(text: &str) -> Head {
        let mut head = Head::new(0);
        for chunk in text.as_bytes().chunks(8) {
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_be_bytes(bytes);
            if chunk.len() < 8 || head.is_complete() || !head.skip(word) {
                head.bytes(word, chunk.len() as u32);
            }
        }
        head
    }

    #[test]
    fn capitals_and_only_these_become_lower_case() {
        for byte in 0..=u8::MAX {
            let word = u64::from_be_bytes([byte, 0, byte, 0xff, byte, b'Z', b'@', byte]);
            let lower = word.to_be_bytes().map(|byte| byte.to_ascii_lowercase());
            assert_eq!(to_lower(word), u64::from_be_bytes(lower), "{byte}");
            assert_eq!(places(word, byte) >> 63, 1, "{byte}");
            assert_eq!(places(word, byte) & 0x80, 0x80, "{byte}");
        }
        assert_eq!(places(word(*b"a:b::c\0\x3b"), b':'), 0x0080_0080_8000_0000);
    }

    #[test]
    fn by_words_it_says_what_it_says_by_bytes_wherever_it_begins() {
        let heads = [
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nDATE: Mon, 01 Jan 2024\r\nContent-Length:   1234  \r\n\r\n{\"a\":1}",
            "HTTP/1.1 200 OK\r\nX-Content-Length: 9\r\nContent-LENGTH:\t70\r\nserver: uvicorn\r\n\r\n",
            "HTTP/1.1 204 No Content\nHash: no end of a head\n\n",
            "HTTP/1.1 200 OK\r\nTRANSFER-ENCODING:CHUNKED\r\nx: team ed am h:\r\n\r\n",
        ];
        for head in heads {
            for shift in 0..16 {
                let mut moved = [b'x'; 160];
                moved[shift..shift + head.len()].copy_from_slice(head.as_bytes());
                for end in 0..=shift + head.len() {
                    let text = str::from_utf8(&moved[..end]).expect("all of it is ASCII");
                    assert_eq!(read_by_words(text), read(text), "{text:?}");
                }
            }
        }
    }

    fn read(text: &str) -> Head {
        let mut head = Head::new(0);
        for byte in text.bytes() {
            if !head.is_complete() {
                head.byte(byte);
            }
        }
        head
    }

    fn status_of(text: &str) -> Option<u16> {
        let words = text.as_bytes()[..16].as_chunks().0;
        status(u64::from_be_bytes(words[0]), u64::from_be_bytes(words[1]))
    }

    #[test]
    fn a_status_line_has_a_status() {
        assert_eq!(status_of("HTTP/1.1 200 OK\r\n"), Some(200));
        assert_eq!(status_of("HTTP/1.0 503 Busy"), Some(503));
        assert_eq!(status_of("HTTP/2.0 200 OK\r\n"), None);
        assert_eq!(status_of("HTTP/1.1 2x0 OK\r\n"), None);
        assert_eq!(status_of("data: HTTP/1.1 200"), None);
    }

    #[test]
    fn a_stream_of_events_in_chunks() {
        let text = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello";
        let head = read(text);
        let (facts, _) = head.says(200);
        assert!(facts.has(DownFacts::STATUS) && facts.has(DownFacts::HEADERS));
        assert!(
            facts.has(DownFacts::EVENTS) && facts.has(DownFacts::CHUNKED) && !facts.has(DownFacts::LENGTH)
        );
        assert_eq!(
            head.length_so_far as usize,
            text.find("5\r\nhello").expect("the body")
        );
    }

    #[test]
    fn a_length_counts_only_at_the_beginning_of_its_line() {
        assert_eq!(
            read("HTTP/1.1 200 OK\r\ncontent-LENGTH:  1234\r\n\r\n")
                .says(200)
                .1,
            1234
        );
        let (facts, _) = read("HTTP/1.1 200 OK\r\nX-Content-Length: 9\r\n\r\n").says(200);
        assert!(!facts.has(DownFacts::LENGTH));
    }

    #[test]
    fn chunks_override_a_length_and_some_statuses_have_no_body() {
        let both = read("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n");
        assert!(!both.says(200).0.has(DownFacts::LENGTH));
        let (facts, length) = read("HTTP/1.1 204 No Content\r\n\r\n").says(204);
        assert!(facts.has(DownFacts::LENGTH) && length == 0);
    }

    #[test]
    fn interim_responses_are_not_the_response() {
        assert_eq!(
            read("HTTP/1.1 100 Continue\r\n\r\n").says(100).0,
            DownFacts::INFORMATIONAL
        );
        assert_eq!(
            read("HTTP/1.1 101 Switching Protocols\r\n\r\n").says(101).0,
            DownFacts::UPGRADED
        );
    }

    #[test]
    fn a_length_that_no_sequence_number_can_reach_is_left_out() {
        let (facts, _) = read("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").says(200);
        assert!(!facts.has(DownFacts::LENGTH));
    }
}
