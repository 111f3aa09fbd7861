// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The client's side of a TLS handshake: where its application's data begins (RFC 8446, RFC 5246).
//!
//! From then on records are not looked at. TLS 1.3 hides which record is the client's `Finished`, but not its size, which follows from
//! the hash of the cipher suite. Invariant: what cannot be told leaves the connection in its handshake, where it is not
//! metered.

use crate::meter::MeterFlags;

/// Bytes of a record's header, and the first one of its content.
pub const HEADER: usize = 6;
/// Bytes of a record's header.
pub const RECORD: u32 = 5;
/// ALPN, an extension of `ClientHello` (RFC 7301).
pub const ALPN: u16 = 16;

const CHANGE_CIPHER_SPEC: u8 = 20;
/// Type of alerts, under TLS 1.2.
pub const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
/// Type of the records that hold the application's data.
pub const APPLICATION: u8 = 23;
const CLIENT_HELLO: u8 = 1;
/// Shorter handshake records are no `ClientHello`, and longer ones no encrypted `Finished` of TLS 1.2.
const SHORTEST_HELLO: u16 = 96;
/// Sizes of a TLS 1.3 `Finished` under SHA-256 and SHA-384: header, hash, content type and tag.
const FINISHED: [u16; 2] = [4 + 32 + 1 + 16, 4 + 48 + 1 + 16];

/// What a record of the client means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The handshake goes on.
    Handshake,
    /// The handshake goes on, and is one of TLS 1.2 or older.
    Tls12,
    /// It is the first of the application (TLS 1.2).
    Application,
    /// It is the last of the handshake (TLS 1.3).
    Finished,
    /// No TLS.
    Other,
}

/// Length of a record's content, from its header.
#[inline(always)]
pub const fn length(header: &[u8; HEADER]) -> u16 {
    u16::from_be_bytes([header[3], header[4]])
}

/// What the record with this header and first byte means on a connection with `flags` (bits of [`MeterFlags`]).
#[inline(always)]
pub fn record(header: &[u8; HEADER], flags: u32) -> Record {
    let [kind, major, _, _, _, first] = *header;
    if major != 3 {
        return Record::Other;
    }
    match kind {
        // The second one of TLS 1.3, after a retry, is a hello again; those of TLS 1.2 are not.
        // Nor is the encrypted `Finished` of a resumed one, whose first byte is any: no hello is so short.
        HANDSHAKE if first != CLIENT_HELLO || length(header) <= SHORTEST_HELLO => Record::Tls12,
        APPLICATION if flags & MeterFlags::TLS12 != 0 => Record::Application,
        APPLICATION if FINISHED.contains(&length(header)) => Record::Finished,
        // Of the last, the client's certificate.
        HANDSHAKE | CHANGE_CIPHER_SPEC | ALERT | APPLICATION => Record::Handshake,
        _ => Record::Other,
    }
}

/// Among how many of the server's first records after the handshake the settings of an HTTP/2 server are: after two session tickets at
/// most, which only TLS 1.3 has there.
#[inline(always)]
pub const fn records_before_answer(flags: u32) -> u32 {
    if flags & MeterFlags::TLS12 != 0 { 1 } else { 3 }
}

/// Whether a record of `bytes`, its header included, may be the settings of an HTTP/2 server, with their acknowledgement and a window
/// update: the head of a response is larger.
#[inline(always)]
pub const fn may_be_settings(bytes: u16) -> bool {
    bytes >= 31 && bytes <= 96
}

/// Whether an ALPN list that begins with `names` (after its own length) offers HTTP/2 first or second.
#[inline(always)]
pub const fn offers_http2(names: &[u8; 12]) -> bool {
    let [a, b, c, _, _, _, _, _, _, j, k, l] = *names;
    matches!([a, b, c], [2, b'h', b'2']) || a == 8 && matches!([j, k, l], [2, b'h', b'2'])
}

#[cfg(test)]
mod tests {
    use super::*;

    const TLS12: u32 = MeterFlags::TLS12;

    #[test]
    fn a_handshake_of_tls_1_3_ends_with_a_record_of_finished_size() {
        assert_eq!(record(&[22, 3, 1, 2, 0, 1], 0), Record::Handshake);
        assert_eq!(record(&[20, 3, 3, 0, 1, 1], 0), Record::Handshake);
        assert_eq!(record(&[23, 3, 3, 0, 53, 9], 0), Record::Finished);
        assert_eq!(record(&[23, 3, 3, 0, 69, 9], 0), Record::Finished);
        assert_eq!(record(&[23, 3, 3, 3, 69, 9], 0), Record::Handshake);
    }

    #[test]
    fn a_handshake_of_tls_1_2_ends_before_the_first_application_record() {
        assert_eq!(record(&[22, 3, 3, 0, 37, 16], 0), Record::Tls12);
        assert_eq!(record(&[22, 3, 3, 0, 40, 1], 0), Record::Tls12, "a resumed one");
        assert_eq!(record(&[23, 3, 3, 0, 53, 0], TLS12), Record::Application);
    }

    #[test]
    fn what_is_no_record_is_no_tls() {
        assert_eq!(record(b"GET / ", 0), Record::Other);
        assert_eq!(record(&[99, 3, 3, 0, 1, 0], 0), Record::Other);
    }

    #[test]
    fn http2_is_offered_first_or_after_http1() {
        assert!(offers_http2(b"\x02h2\x08http/1.1"));
        assert!(offers_http2(b"\x08http/1.1\x02h2"));
        assert!(!offers_http2(b"\x08http/1.1\0\0\0"));
    }
}
