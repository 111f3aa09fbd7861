// SPDX-License-Identifier: Apache-2.0
//! What two pods say to each other in case `shortcut`: a server that does what the first line of a connection asks for, and clients that
//! measure it. A thread per connection at both ends.
//!
//! Invariant: what is measured is what an application sees, between its calls.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use super::inside::{monotonic_ns, say};
use crate::eventually::pause;

/// Bytes of a streamed token.
const TOKEN: usize = 270;
/// How a stream of tokens begins.
const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
/// Bytes of a piece of bulk.
const PIECE: usize = 1 << 16;

/// What connections are used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Talk {
    /// Requests and responses of 1 KiB, HTTP.
    Exchange,
    /// 64 bytes each way, of no protocol that is known.
    Ping,
    /// A stream of tokens.
    Tokens,
    /// As many bytes as go.
    Bulk,
    /// The client writes 1 KiB at a time and the server does not read.
    Sleep,
}

impl Talk {
    fn word(self) -> String {
        clap::ValueEnum::to_possible_value(&self)
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// What a client measured.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Talked {
    /// Requests, tokens or bytes.
    pub(super) count: u64,
    /// Of these per second.
    pub(super) rate: f64,
    /// Median time of one, nanoseconds; 0 for bulk.
    pub(super) p50_ns: u64,
}

/// A message of HTTP of `length` bytes.
fn http(head: &str, length: usize) -> Vec<u8> {
    let head = |body: usize| format!("{head}\r\nHost: bench\r\nContent-Length: {body}\r\n\r\n");
    let body = length - head(length).len() - usize::from(head(length).len() < head(length - 100).len());
    let mut message = head(body).into_bytes();
    message.resize(length, b'x');
    message
}

/// Serves on `address` until it is ended.
pub(super) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    say(&format!("listening on {address}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // A client that ends in the middle ends its connection, nothing else.
        thread::spawn(move || answer(&stream).ok());
    }
    Ok(())
}

fn answer(stream: &TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut word = String::new();
    let mut reader = BufReader::new(stream);
    reader.read_line(&mut word)?;
    let mut word = word.trim_end().to_owned();
    if word.starts_with("GET ") {
        // The request that is HTTP throughout: the path says what is wanted.
        word = word.split(['/', ' ']).nth(2).unwrap_or_default().to_owned();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            if line == "\r\n" {
                break;
            }
        }
    }
    let mut stream = stream;
    match &*word {
        "exchange" => {
            stream.write_all(&http("HTTP/1.1 200 OK", 1024))?;
            repeat(stream, &http("HTTP/1.1 200 OK", 1024), 1024)
        }
        "ping" => {
            stream.write_all(&[b'x'; 64])?;
            repeat(stream, &[b'x'; 64], 64)
        }
        "tokens" => tokens(stream),
        "bulk" => {
            let piece = vec![b'x'; PIECE];
            loop {
                stream.write_all(&piece)?;
            }
        }
        "sleep" => {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0; 1024])?;
            stream.write_all(b"x")?;
            pause(Duration::from_secs(3600));
            Ok(())
        }
        other => bail!("nobody knows {other:?}"),
    }
}

/// Answers each message of `length` bytes.
fn repeat(mut stream: &TcpStream, response: &[u8], length: usize) -> Result<()> {
    let mut request = vec![0; length];
    loop {
        stream.read_exact(&mut request)?;
        stream.write_all(response)?;
    }
}

/// Tokens, each with the time at which it was written.
fn tokens(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(STREAM.as_bytes())?;
    loop {
        pause(Duration::from_millis(2));
        let mut event = format!("data: {{\"at\":{:020},\"content\":\"", monotonic_ns()?).into_bytes();
        event.resize(TOKEN - 5, b'x');
        event.extend(b"\"}\n\n\n");
        stream.write_all(&event)?;
    }
}

/// Opens `connections` to `address`, waits for a word on standard input and measures for `time`.
///
/// With `tell`, says its rate every half second.
pub(super) fn talk(
    address: SocketAddr,
    talk: Talk,
    connections: usize,
    time: Duration,
    tell: bool,
) -> Result<Talked> {
    let streams = (0..connections)
        .map(|_| open(address, talk))
        .collect::<Result<Vec<_>>>()?;
    say("connected")?;
    io::stdin().lock().read_line(&mut String::new())?;
    if talk == Talk::Sleep {
        return accepted(&streams[0]);
    }
    if tell {
        thread::spawn(tell_rates);
    }
    let started = Instant::now();
    let threads: Vec<_> = streams
        .into_iter()
        .map(|stream| thread::spawn(move || measure(&stream, talk, time, tell)))
        .collect();
    let mut times = Vec::new();
    let mut count = 0;
    for thread in threads {
        let (one, own) = thread.join().map_err(|_| anyhow!("a client panicked"))??;
        count += one;
        times.extend(own);
    }
    let rate = count as f64 / started.elapsed().as_secs_f64();
    times.sort_unstable();
    let p50_ns = times.get(times.len() / 2).copied().unwrap_or_default();
    Ok(Talked { count, rate, p50_ns })
}

/// Exchanges of all connections, where the rate is told.
static EXCHANGES: AtomicU64 = AtomicU64::new(0);

/// Says the rate of each half second, until nobody listens.
fn tell_rates() {
    let (mut at, mut count) = (Instant::now(), 0);
    loop {
        pause(Duration::from_millis(500));
        let (now, next) = (Instant::now(), EXCHANGES.load(Ordering::Relaxed));
        let rate = (next - count) as f64 / (now - at).as_secs_f64();
        if say(&format!("rate {rate:.0}")).is_err() {
            return;
        }
        (at, count) = (now, next);
    }
}

fn open(address: SocketAddr, talk: Talk) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let word = talk.word();
    let first = match talk {
        Talk::Exchange | Talk::Tokens => format!("GET /{word} HTTP/1.1\r\nHost: bench\r\n\r\n"),
        _ => format!("{word}\n"),
    };
    (&stream).write_all(first.as_bytes())?;
    match talk {
        Talk::Exchange => (&stream).read_exact(&mut [0; 1024])?,
        Talk::Ping => (&stream).read_exact(&mut [0; 64])?,
        Talk::Sleep => {
            (&stream).read_exact(&mut [0])?;
            (&stream).write_all(&[b'x'; 1024])?;
            (&stream).read_exact(&mut [0])?;
        }
        Talk::Tokens => {
            // The head, and the first tokens, which come by TCP.
            (&stream).read_exact(&mut vec![0; STREAM.len() + 3 * TOKEN])?;
        }
        Talk::Bulk => (&stream).read_exact(&mut vec![0; PIECE])?,
    }
    Ok(stream)
}

/// What was counted, and how long each took.
fn measure(mut stream: &TcpStream, talk: Talk, time: Duration, tell: bool) -> Result<(u64, Vec<u64>)> {
    let (started, mut times) = (Instant::now(), Vec::new());
    match talk {
        Talk::Exchange | Talk::Ping => {
            let (request, length) = if talk == Talk::Exchange {
                (http("POST /exchange HTTP/1.1", 1024), 1024)
            } else {
                (vec![b'x'; 64], 64)
            };
            let mut response = vec![0; length];
            while started.elapsed() < time {
                let one = Instant::now();
                stream.write_all(&request)?;
                stream.read_exact(&mut response)?;
                times.push(one.elapsed().as_nanos() as u64);
                if tell {
                    EXCHANGES.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok((times.len() as u64, times))
        }
        Talk::Tokens => {
            let mut token = vec![0; TOKEN];
            while started.elapsed() < time {
                stream.read_exact(&mut token)?;
                let now = monotonic_ns()?;
                let at = std::str::from_utf8(&token[12..32])?.parse::<u64>();
                times.push(now.saturating_sub(at.context("a token without its time")?));
            }
            Ok((times.len() as u64, times))
        }
        Talk::Bulk => {
            let (mut bytes, mut buffer) = (0, vec![0; PIECE]);
            while started.elapsed() < time {
                bytes += stream.read(&mut buffer)? as u64;
            }
            Ok((bytes, times))
        }
        Talk::Sleep => bail!("that is measured elsewhere"),
    }
}

/// Bytes that are taken from a client whose server does not read.
fn accepted(mut stream: &TcpStream) -> Result<Talked> {
    stream.set_nonblocking(true)?;
    let mut count = 0;
    for _ in 0..5 {
        loop {
            match stream.write(&[b'x'; 1024]) {
                Ok(bytes) => count += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if count > 1 << 28 {
                return Ok(Talked {
                    count,
                    ..Talked::default()
                });
            }
        }
        // What is on its way may make room.
        pause(Duration::from_millis(50));
    }
    Ok(Talked {
        count,
        ..Talked::default()
    })
}
