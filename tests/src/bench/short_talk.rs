// SPDX-License-Identifier: Apache-2.0
//! What two pods say to each other in case `shortcut`: a server that does what the first line of a connection asks for, and clients that
//! measure it. Both wait for readiness and read without waiting, as servers of models and their clients do: a loop of events for each of
//! half of the CPUs, at both ends, where messages are answered.
//!
//! Invariant: what is measured is what an application sees, between its calls.

mod ends;

use std::{
    io::{self, BufRead as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde::{Deserialize, Serialize};

use self::ends::{Answerer, Asker};
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

/// How many loops of events each end has.
fn loops() -> Result<usize> {
    Ok(thread::available_parallelism()?.get().div_ceil(2))
}

/// Serves on `address` until it is ended.
pub(super) fn serve(address: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let answerers: Vec<_> = (0..loops()?).map(|_| Answerer::start()).collect::<Result<_>>()?;
    say(&format!("listening on {address}"))?;
    for (stream, answerer) in listener.incoming().zip(answerers.iter().cycle()) {
        let (stream, answerer) = (stream?, answerer.clone());
        // A client that ends in the middle ends its connection, nothing else.
        thread::spawn(move || answer(stream, &answerer).ok());
    }
    Ok(())
}

fn answer(stream: TcpStream, answerer: &Answerer) -> Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let first = ends::read_until(&stream, |text| {
        text.ends_with(if text.starts_with(b"GET ") {
            b"\r\n\r\n"
        } else {
            b"\n"
        })
    })?;
    // The path of the request that is HTTP throughout, or the whole.
    let first = String::from_utf8(first)?;
    let word = match first.strip_prefix("GET /") {
        Some(path) => path.split(' ').next(),
        None => first.lines().next(),
    };
    match word.context("nothing is asked for")? {
        "exchange" => answerer.answer(stream, http("HTTP/1.1 200 OK", 1024)),
        "ping" => answerer.answer(stream, vec![b'x'; 64]),
        "tokens" => tokens(&stream),
        "bulk" => {
            let piece = vec![b'x'; PIECE];
            loop {
                ends::write_all(&stream, &piece)?;
            }
        }
        "sleep" => {
            ends::write_all(&stream, b"x")?;
            ends::read_exact(&stream, 1024)?;
            ends::write_all(&stream, b"x")?;
            pause(Duration::from_secs(3600));
            Ok(())
        }
        other => bail!("nobody knows {other:?}"),
    }
}

/// Tokens, each with the time at which it was written.
fn tokens(stream: &TcpStream) -> Result<()> {
    ends::write_all(stream, STREAM.as_bytes())?;
    loop {
        pause(Duration::from_millis(2));
        let mut event = format!("data: {{\"at\":{:020},\"content\":\"", monotonic_ns()?).into_bytes();
        event.resize(TOKEN - 5, b'x');
        event.extend(b"\"}\n\n\n");
        ends::write_all(stream, &event)?;
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
    let mut shares: Vec<Vec<TcpStream>> = (0..loops()?).map(|_| Vec::new()).collect();
    let each = shares.len();
    for (index, stream) in streams.into_iter().enumerate() {
        shares[index % each].push(stream);
    }
    let started = Instant::now();
    let threads: Vec<_> = shares
        .into_iter()
        .map(|share| thread::spawn(move || measure(share, talk, started + time)))
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

/// Exchanges of all connections.
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
    stream.set_nonblocking(true)?;
    let word = talk.word();
    let first = match talk {
        Talk::Exchange | Talk::Tokens => format!("GET /{word} HTTP/1.1\r\nHost: bench\r\n\r\n"),
        _ => format!("{word}\n"),
    };
    ends::write_all(&stream, first.as_bytes())?;
    let answer = match talk {
        Talk::Exchange => 1024,
        Talk::Ping => 64,
        Talk::Sleep => 1,
        // The head, and the first tokens, which come by TCP.
        Talk::Tokens => STREAM.len() + 3 * TOKEN,
        Talk::Bulk => PIECE,
    };
    ends::read_exact(&stream, answer)?;
    if talk == Talk::Sleep {
        ends::write_all(&stream, &[b'x'; 1024])?;
        ends::read_exact(&stream, 1)?;
    }
    Ok(stream)
}

/// What was counted until `end`, and how long each took.
fn measure(streams: Vec<TcpStream>, talk: Talk, end: Instant) -> Result<(u64, Vec<u64>)> {
    let mut times = Vec::new();
    let mut bytes = 0;
    if streams.is_empty() {
        return Ok((0, times));
    }
    let mut asker = Asker::new(streams)?;
    match talk {
        Talk::Exchange | Talk::Ping => {
            let request = match talk {
                Talk::Exchange => http("POST /exchange HTTP/1.1", 1024),
                _ => vec![b'x'; 64],
            };
            let mut begun = vec![Instant::now(); asker.len()];
            asker.write_to_all(&request)?;
            asker.each_message(end, request.len(), |index, stream, _| {
                let now = Instant::now();
                times.push((now - begun[index]).as_nanos() as u64);
                EXCHANGES.fetch_add(1, Ordering::Relaxed);
                begun[index] = now;
                ends::write_all(stream, &request)
            })?;
        }
        Talk::Tokens => asker.each_message(end, TOKEN, |_, _, token| {
            let at = std::str::from_utf8(&token[12..32])?.parse::<u64>();
            times.push(monotonic_ns()?.saturating_sub(at.context("a token without its time")?));
            Ok(())
        })?,
        Talk::Bulk => asker.each_piece(end, PIECE, |_, _, piece| {
            bytes += piece.len() as u64;
            Ok(())
        })?,
        Talk::Sleep => bail!("that is measured elsewhere"),
    }
    Ok((bytes + times.len() as u64, times))
}

/// Bytes that are taken from a client whose server does not read.
fn accepted(mut stream: &TcpStream) -> Result<Talked> {
    let mut count = 0;
    for _ in 0..5 {
        loop {
            match stream.write(&[b'x'; 1024]) {
                Ok(bytes) => count += bytes as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
            if count > 1 << 28 {
                break;
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
