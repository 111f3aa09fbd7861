// SPDX-License-Identifier: Apache-2.0
//! Parsing of responses, and what is drawn for a request, on their own.

use std::time::Duration;

use bytes::BytesMut;

use super::options;
use crate::load::cancel::{Fate, How, When};
use crate::load::range::Spans;
use crate::load::response::{Head, Malformed, take_head};

/// Feeds `pieces` one by one and gives the head and the content.
fn parse(pieces: &[&[u8]]) -> Result<(Head, String, bool), Malformed> {
    let (mut buffer, mut head, mut content) = (BytesMut::new(), None, Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        if head.is_none() {
            head = take_head(&mut buffer)?;
        }
        if let Some(Head { body, .. }) = &mut head {
            while let Some(piece) = body.take(&mut buffer)? {
                content.extend_from_slice(&piece);
            }
        }
    }
    let head = head.expect("a whole head");
    let done = head.body.is_done();
    Ok((head, String::from_utf8(content).expect("ASCII"), done))
}

#[test]
fn responses_are_read_wherever_the_bytes_are_split() {
    let chunked = b"HTTP/1.1 200 OK\r\nX-Replica: a\r\nContent-Type: text/event-stream\r\n\
        Transfer-Encoding: chunked\r\n\r\n6;x=y\r\nhello \r\n00005\r\nworld\r\n0\r\nx-sum: 1\r\n\r\n";
    let known = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 11\r\n\r\nhello world";
    for response in [&chunked[..], known] {
        for split in 0..=response.len() {
            let (head, content, done) = parse(&[&response[..split], &response[split..]]).expect("HTTP");
            assert_eq!(
                (head.status, content.as_str(), done),
                (200, "hello world", true),
                "split at {split}"
            );
            assert_eq!(head.replica.is_some(), head.streamed);
            assert_eq!(head.closes, response == known);
        }
    }
}

#[test]
fn a_body_without_a_length_ends_with_the_connection() {
    let (head, content, done) = parse(&[b"HTTP/1.0 200 OK\r\n\r\nhello", b" world"]).expect("HTTP");
    assert_eq!(
        (content.as_str(), done, head.closes),
        ("hello world", false, true)
    );
}

#[test]
fn an_interim_response_leaves_the_next_one() {
    let mut buffer = BytesMut::from(&b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"[..]);
    for status in [100, 204] {
        let head = take_head(&mut buffer).expect("HTTP").expect("whole");
        assert_eq!(
            (head.status, head.body.is_done(), head.closes),
            (status, true, false)
        );
    }
    assert!(buffer.is_empty());
}

#[test]
fn what_is_no_http_is_refused() {
    for wrong in [
        &b"SSH-2.0-x\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n",
    ] {
        assert_eq!(
            parse(&[wrong]),
            Err(Malformed),
            "{}",
            String::from_utf8_lossy(wrong)
        );
    }
}

#[test]
fn what_is_in_store_follows_from_the_seed() {
    let drawn = |more: &[&str]| {
        let options = options(&[&["--url", "http://127.0.0.1:1"], more].concat());
        (0..1000)
            .map(|number| Fate::of(number, &options))
            .collect::<Vec<_>>()
    };
    assert!(drawn(&[]).iter().all(Option::is_none), "none without --cancel");
    let mix = [
        "--cancel",
        "mix",
        "--cancel-share",
        "0.25",
        "--cancel-after",
        "5ms..9ms",
    ];
    let fates = drawn(&mix);
    assert_eq!(fates, drawn(&mix));
    assert_ne!(fates, drawn(&[&mix[..], &["--seed", "1"]].concat()));
    let given_up: Vec<_> = fates.into_iter().flatten().collect();
    assert!((200..300).contains(&given_up.len()), "{} of 1000", given_up.len());
    for how in [How::Fin, How::Rst, How::HalfClose, How::Kill] {
        assert!(given_up.iter().any(|fate| fate.how == how), "{how:?}");
    }
    for fate in given_up {
        match fate.when {
            When::Prefill(after) => assert!((5..=9).contains(&after.as_millis()), "{after:?}"),
            When::Decode(after) => assert!((1..=8).contains(&after), "{after}"),
        }
    }
}

#[test]
fn a_range_has_two_ends_in_order() {
    let mut random = fastrand::Rng::with_seed(1);
    let one: Spans = "7ms".parse().expect("a span");
    assert_eq!(one.draw(&mut random), Duration::from_millis(7));
    for wrong in ["2s..1s", "..", "1", "1s...2s"] {
        assert!(wrong.parse::<Spans>().is_err(), "{wrong}");
    }
}
