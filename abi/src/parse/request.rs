// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The first bytes of a packet in request direction: what the connection carries, and where an HTTP/1.x request begins.
//!
//! Invariant: a packet from the middle of a body is taken for a beginning only if it starts with a method, a space and
//! the beginning of a request target.

use crate::meter::UpFacts;

/// How many bytes [`recognise`] wants.
pub const START: usize = 10;

/// What the first bytes of a packet are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The request line of an HTTP/1.x request (RFC 9112, section 3).
    Http1(UpFacts),
    /// The preface of an HTTP/2 connection (RFC 9113, section 3.4).
    Http2,
    /// A TLS record that holds a handshake message (RFC 8446, section 5.1).
    Tls,
    /// A TLS record that holds the application's data.
    TlsData,
    /// None of these.
    Other,
}

/// Recognises the first bytes of a packet; what is beyond its end is 0.
#[inline(always)]
pub fn recognise(bytes: &[u8; START]) -> Start {
    let [a, b, c, d, e, f, g, h, i, _] = *bytes;
    let plain = UpFacts::BEGIN;
    match [a, b, c, d] {
        [0x16, 0x03, _, _] => Start::Tls,
        [0x17, 0x03, 0x03, _] => Start::TlsData,
        [b'P', b'R', b'I', b' '] if e == b'*' => Start::Http2,
        [b'G', b'E', b'T', b' '] | [b'P', b'U', b'T', b' '] if is_target(e) => Start::Http1(plain),
        [b'P', b'O', b'S', b'T'] if e == b' ' && is_target(f) => Start::Http1(plain),
        [b'H', b'E', b'A', b'D'] if e == b' ' && is_target(f) => Start::Http1(plain.with(UpFacts::HEAD)),
        [b'P', b'A', b'T', b'C'] if e == b'H' && f == b' ' => Start::Http1(plain),
        [b'D', b'E', b'L', b'E'] if e == b'T' && f == b'E' && g == b' ' => Start::Http1(plain),
        [b'O', b'P', b'T', b'I'] if e == b'O' && f == b'N' && g == b'S' && h == b' ' => Start::Http1(plain),
        [b'C', b'O', b'N', b'N'] if e == b'E' && f == b'C' && g == b'T' && h == b' ' && i != 0 => {
            Start::Http1(plain.with(UpFacts::TUNNEL))
        }
        _ => Start::Other,
    }
}

/// Whether a request target may begin so: origin form or absolute form (RFC 9112, section 3.2).
#[inline(always)]
const fn is_target(byte: u8) -> bool {
    byte == b'/' || byte == b'h'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(text: &str) -> Start {
        let mut bytes = [0; START];
        for (place, byte) in bytes.iter_mut().zip(text.bytes()) {
            *place = byte;
        }
        recognise(&bytes)
    }

    #[test]
    fn methods_with_a_target_begin_a_request() {
        for line in [
            "GET / HTTP/1.1",
            "POST /v1/chat",
            "PUT /a",
            "DELETE /a",
            "PATCH /a",
            "OPTIONS *",
            "GET http://a/",
        ] {
            assert_eq!(start(line), Start::Http1(UpFacts::BEGIN), "{line}");
        }
        assert_eq!(
            start("HEAD /health"),
            Start::Http1(UpFacts::BEGIN.with(UpFacts::HEAD))
        );
        assert_eq!(
            start("CONNECT a:1"),
            Start::Http1(UpFacts::BEGIN.with(UpFacts::TUNNEL))
        );
    }

    #[test]
    fn text_that_mentions_a_method_does_not() {
        for text in [
            "POST it on",
            "GET up and",
            "GETTING /",
            "PUT 1",
            "{\"model\":",
            "",
            "P",
        ] {
            assert_eq!(start(text), Start::Other, "{text}");
        }
    }

    #[test]
    fn other_protocols_are_told_apart() {
        assert_eq!(start("PRI * HTTP/2.0"), Start::Http2);
        assert_eq!(recognise(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3]), Start::Tls);
        assert_eq!(recognise(&[0x17, 3, 3, 0, 35, 1, 0, 1, 0xfc, 3]), Start::TlsData);
    }
}
