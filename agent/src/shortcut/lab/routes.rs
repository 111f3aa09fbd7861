// SPDX-License-Identifier: Apache-2.0
//! Properties of what is sent, in which order it arrives, and how connections end.
//!
//! Invariant: what is received is compared byte by byte with what was sent.

use std::{
    fs::File,
    io::{self, Seek as _, Write as _},
    net::TcpStream,
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use nix::{
    fcntl::{SpliceFFlags, splice},
    unistd::pipe,
};
use socket2::{Domain, Socket, Type};

use super::{
    Lab, memory_file,
    pair::{Pair, pattern},
    patience::{STALL, is_readable, read, rest, said, same, take, until, wait_for},
};

use crate::shortcut::pause::pause;

/// Larger than what takes the shortcut.
const LARGE: usize = 40_000;

pub(super) fn engages(lab: &mut Lab) -> Result<(), String> {
    Pair::short(lab).map(drop)
}

pub(super) fn before_accept(lab: &mut Lab) -> Result<(), String> {
    let mut client = TcpStream::connect(lab.service).map_err(said("connect"))?;
    for part in 0..10 {
        client
            .write_all(&pattern(part * 100, 100))
            .map_err(said("a write before accept()"))?;
    }
    let (mut server, _) = lab.listener.accept().map_err(said("accept()"))?;
    server
        .set_read_timeout(Some(STALL))
        .map_err(said("set up a socket"))?;
    same(
        "what was sent before",
        &take(&mut server, 1000)?,
        &pattern(0, 1000),
    )
}

/// The client asks again and again whether it may send, and does at the first moment; the server sends first.
pub(super) fn before_established(lab: &mut Lab) -> Result<(), String> {
    for _ in 0..20 {
        let client = Socket::new(Domain::IPV4, Type::STREAM, None).map_err(said("a socket"))?;
        client.set_nonblocking(true).map_err(said("a socket"))?;
        match client.connect(&lab.service.into()) {
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            other => other.map_err(said("connect"))?,
        }
        // Refused until the connection is established, and not asked in between.
        if !until(|| client.send(&pattern(0, 100)).is_ok_and(|sent| sent == 100)) {
            return Err("the client may not send".into());
        }
        let (mut server, _) = lab.listener.accept().map_err(said("accept()"))?;
        server
            .set_read_timeout(Some(STALL))
            .map_err(said("set up a socket"))?;
        server.write_all(b"first").map_err(said("a write"))?;
        same(
            "what the client sent at once",
            &take(&mut server, 100)?,
            &pattern(0, 100),
        )?;
        client.set_nonblocking(false).map_err(said("a socket"))?;
        let mut client = TcpStream::from(client);
        client
            .set_read_timeout(Some(STALL))
            .map_err(said("set up a socket"))?;
        same(
            "what the server sent at once",
            &take(&mut client, 5)?,
            &b"first".to_vec(),
        )?;
    }
    Ok(())
}

pub(super) fn half_close(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::short(lab)?;
    pair.up(&pattern(0, 500))?;
    pair.client
        .shutdown(std::net::Shutdown::Write)
        .map_err(said("shutdown()"))?;
    same(
        "what came before the end",
        &rest(&mut pair.server)?,
        &pattern(0, 500),
    )?;
    for part in 0..10 {
        pair.down(&pattern(part * 100, 100))?;
    }
    drop(pair.server);
    same("what came after it", &rest(&mut pair.client)?, &pattern(0, 1000))
}

/// What waits at a client that has said its last word, when the server closes.
pub(super) fn close_queued(lab: &mut Lab) -> Result<(), String> {
    for early in [false, true] {
        let mut pair = Pair::short(lab)?;
        let shut = |pair: &Pair| {
            pair.client
                .shutdown(std::net::Shutdown::Write)
                .map_err(said("shutdown()"))
        };
        if early {
            shut(&pair)?;
            rest(&mut pair.server)?;
        }
        pair.down(&pattern(0, 3000))?;
        if !early {
            shut(&pair)?;
            rest(&mut pair.server)?;
        }
        drop(pair.server);
        pause(Duration::from_millis(5));
        same(
            "what waited at the client",
            &rest(&mut pair.client)?,
            &pattern(0, 3000),
        )?;
    }
    Ok(())
}

/// What waits at a client when the connection is reset.
pub(super) fn reset_queued(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::short(lab)?;
    pair.down(&pattern(0, 3000))?;
    reset(pair.server)?;
    pause(Duration::from_millis(5));
    same(
        "what waited at the client",
        &take(&mut pair.client, 3000)?,
        &pattern(0, 3000),
    )
}

fn reset(stream: TcpStream) -> Result<(), String> {
    let socket = Socket::from(stream);
    socket
        .set_linger(Some(Duration::ZERO))
        .map_err(said("set up a socket"))
}

/// A server that closes before it has read what was sent resets the connection, as TCP does.
pub(super) fn close_unread(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::short(lab)?;
    pair.up(&pattern(0, 500))?;
    drop(pair.server);
    is_readable(&pair.client, STALL);
    match read(&pair.client, &mut [0; 16]) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(()),
        other => Err(format!("the client reads {other:?} instead of a reset")),
    }
}

/// A file of 4 MiB.
fn file() -> Result<File, String> {
    let mut file = memory_file("shortcut-test").map_err(said("a file"))?;
    file.write_all(&pattern(0, 4 << 20)).map_err(said("a file"))?;
    file.rewind().map_err(said("a file"))?;
    Ok(file)
}

pub(super) fn sendfile(lab: &mut Lab) -> Result<(), String> {
    let (mut pair, file) = (Pair::short(lab)?, file()?);
    let server = pair.server;
    let sending = thread::spawn(move || {
        let mut left = 4 << 20;
        while left > 0 {
            // Pieces of both sizes, one after the other.
            let piece = if left % 3 == 0 { LARGE } else { 4_001 };
            let sent = nix::sys::sendfile::sendfile(&server, &file, None, piece.min(left))
                .map_err(|error| format!("sendfile(): {error}"))?;
            left -= sent;
        }
        Ok::<_, String>(())
    });
    let received = rest(&mut pair.client)?;
    sending.join().map_err(|_| "the sender panicked")??;
    compare(&received, 4 << 20)
}

/// An error that names the first place at which `received` differs from the pattern.
fn compare(received: &[u8], length: usize) -> Result<(), String> {
    let expected = pattern(0, length);
    match received.iter().zip(&expected).position(|(a, b)| a != b) {
        Some(at) => Err(format!("byte {at} of {length} differs")),
        None => same("bytes received", &received.len(), &length),
    }
}

pub(super) fn splice_to(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::short(lab)?;
    let (out, into) = pipe().map_err(|error| error.to_string())?;
    for (position, length) in [(0, 100), (100, 4000), (4100, 60_000), (64_100, 100)] {
        nix::unistd::write(&into, &pattern(position, length)).map_err(|error| error.to_string())?;
        let mut left = length;
        while left > 0 {
            left -= splice(&out, None, pair.client.as_fd(), None, left, SpliceFFlags::empty())
                .map_err(|error| format!("splice() to a socket: {error}"))?;
        }
        let received = take(&mut pair.server, length)?;
        same(
            "what was spliced",
            &(received == pattern(position, length)),
            &true,
        )?;
    }
    Ok(())
}

/// Writes `length` bytes in messages of all sizes against a reader that pauses.
fn transfer(lab: &Lab, length: usize) -> Result<(), String> {
    let pair = Pair::short(lab)?;
    let server = pair.server;
    let sending = thread::spawn(move || -> Result<(), String> {
        let mut server = server;
        let (mut at, mut round) = (0, 0_usize);
        while at < length {
            // Runs of small messages, a large one in between.
            let size = if round % 29 == 28 {
                3 * LARGE
            } else {
                1 + (round * 7_919) % 15_000
            };
            let size = size.min(length - at);
            server.write_all(&pattern(at, size)).map_err(said("a write"))?;
            (at, round) = (at + size, round + 1);
        }
        Ok(())
    });
    let (mut at, mut round) = (0, 0_usize);
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = read(&pair.client, &mut bytes).map_err(said("a read"))?;
        if count == 0 {
            break;
        }
        if bytes[..count] != pattern(at, count) {
            return Err(format!("what arrives at byte {at} of {length} is something else"));
        }
        (at, round) = (at + count, round + 1);
        if round.is_multiple_of(256) {
            pause(Duration::from_millis(2));
        }
    }
    sending.join().map_err(|_| "the sender panicked")??;
    same("bytes received", &at, &length)
}

pub(super) fn transfer_4m(lab: &mut Lab) -> Result<(), String> {
    transfer(lab, 4 << 20)
}

pub(super) fn transfer_100m(lab: &mut Lab) -> Result<(), String> {
    transfer(lab, 100 << 20)
}

/// Bytes that are taken from a sender whose reader sleeps.
fn accepted(pair: &mut Pair) -> Result<usize, String> {
    pair.client
        .set_nonblocking(true)
        .map_err(said("set up a socket"))?;
    let message = pattern(0, 1_000);
    let (mut sent, most) = (0, 64 << 20);
    while sent < most {
        match pair.client.write(&message) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                // What is on its way may make room.
                pause(Duration::from_millis(20));
                match pair.client.write(&message) {
                    Ok(count) => sent += count,
                    Err(_) => return Ok(sent),
                }
            }
            Err(error) => return Err(said("a write")(error)),
        }
    }
    Err(format!(
        "more than {most} bytes were taken from a sender whose reader sleeps"
    ))
}

pub(super) fn sleeping_reader(lab: &mut Lab) -> Result<(), String> {
    let mut plain = Pair::plain(lab)?;
    plain.exchange()?;
    let (by_tcp, by_shortcut) = (accepted(&mut plain)?, accepted(&mut Pair::short(lab)?)?);
    if 2 * by_shortcut > 3 * by_tcp {
        return Err(format!("{by_shortcut} bytes were taken where TCP takes {by_tcp}"));
    }
    Ok(())
}

/// What looks like TLS, which is left to TCP: a kernel that decrypts (kTLS) takes what is handed over for plaintext.
pub(super) fn tls(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::fresh(lab)?;
    let mut hello = vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
    hello.resize(205, 0);
    let record = [&[23, 3, 3, 1, 0][..], &pattern(0, 256)].concat();
    let before = lab.handed_over();
    for message in [&hello, &record, &record, &record] {
        pair.up(message)?;
        same("a record", &take(&mut pair.server, message.len())?, message)?;
        pair.down(&record)?;
        same("a record", &take(&mut pair.client, record.len())?, &record)?;
    }
    same("records handed over", &(lab.handed_over() - before), &0)
}

/// The shortcut is switched off while data waits, and while a read waits; then the sockets leave.
pub(super) fn leave_queued(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::short(lab)?;
    pair.down(&pattern(0, 3000))?;
    let result = leave(lab, &mut pair);
    lab.switch(true)?;
    result
}

fn leave(lab: &mut Lab, pair: &mut Pair) -> Result<(), String> {
    lab.switch(false)?;
    let enrolled = lab.ends.enrolled();
    pair.down(&pattern(3000, 3000))?;
    same(
        "what waited, and what came after",
        &take(&mut pair.client, 6000)?,
        &pattern(0, 6000),
    )?;
    let mut reader = pair.client.try_clone().map_err(said("a socket"))?;
    let waiting = thread::spawn(move || wait_for(&mut reader, 1000));
    for cookie in enrolled {
        lab.ends.take_out(cookie).map_err(|error| error.to_string())?;
    }
    same("sockets that are still enrolled", &lab.ends.enrolled().len(), &0)?;
    pair.down(&pattern(6000, 1000))?;
    let read = waiting.join().map_err(|_| "the reader panicked")??;
    same("what came while a read waited", &read, &pattern(6000, 1000))?;
    pair.exchange()
}
