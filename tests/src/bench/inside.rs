// SPDX-License-Identifier: Apache-2.0
//! What the benchmark runs in a pod: the binary starts itself there with one of these verbs.
//!
//! Invariant: each prints JSON on its last line, or a word when it is ready, and nothing is retried.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{
    listing,
    short_talk::{self, Talk},
};

/// What a request on an established connection sends and gets back.
const REQUEST: [u8; 64] = [b'x'; 64];

/// Verbs for pods.
#[derive(Clone, Debug, clap::Subcommand)]
#[command(hide = true)]
pub(super) enum Inside {
    /// Connect again and again until the server has another name.
    Watch {
        /// The service.
        address: SocketAddr,
        /// The name to wait for.
        name: String,
    },
    /// Send requests on one connection per address, in turns, once a line was read.
    Ping {
        /// Requests per address.
        #[arg(long)]
        count: usize,
        /// Requests on one connection before the next has its turn.
        #[arg(long)]
        round: usize,
        /// Where to connect to.
        addresses: Vec<SocketAddr>,
    },
    /// Serve what case `shortcut` asks for.
    ShortServe {
        /// Where to listen.
        address: SocketAddr,
    },
    /// Measure it.
    ShortTalk {
        /// Where to connect to.
        address: SocketAddr,
        /// What for.
        talk: Talk,
        /// How often.
        #[arg(long)]
        connections: usize,
        /// For how long, milliseconds.
        #[arg(long)]
        millis: u64,
        /// Say the rate every half second.
        #[arg(long)]
        tell: bool,
    },
    /// Connect UDP sockets and keep them until standard input ends.
    Hold {
        /// Where to connect to.
        address: SocketAddr,
        /// How many.
        count: u64,
    },
}

/// Result of [`Inside::Watch`].
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Seen {
    /// [`monotonic_ns`] before the `connect()` that led to the named server.
    pub(super) connected_ns: u64,
    /// Connections that led elsewhere.
    pub(super) earlier: u64,
}

/// Result of [`Inside::Ping`], per address.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Pinged {
    /// Requests per second.
    pub(super) rate: f64,
    /// Median time of a request, nanoseconds.
    pub(super) p50_ns: u64,
}

impl Inside {
    /// Runs the verb.
    pub(super) fn run(&self) -> Result<()> {
        match self {
            Self::Watch { address, name } => print(&watch(*address, name)?),
            Self::Ping {
                count,
                round,
                addresses,
            } => ping(addresses, *count, *round),
            Self::ShortServe { address } => short_talk::serve(*address),
            Self::ShortTalk {
                address,
                talk,
                connections,
                millis,
                tell,
            } => print(&short_talk::talk(
                *address,
                *talk,
                *connections,
                Duration::from_millis(*millis),
                *tell,
            )?),
            Self::Hold { address, count } => listing::hold(*address, *count),
        }
    }
}

/// The clock that all processes of the host share.
pub(super) fn monotonic_ns() -> Result<u64> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec().cast_unsigned() * 1_000_000_000 + now.tv_nsec().cast_unsigned())
}

fn print(value: &impl Serialize) -> Result<()> {
    let mut stdout = io::stdout().lock();
    serde_json::to_writer(&mut stdout, value)?;
    writeln!(stdout)?;
    Ok(stdout.flush()?)
}

pub(super) fn say(word: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{word}")?;
    Ok(stdout.flush()?)
}

/// Connects and reads the line with which `socket-probe serve` begins.
fn open(address: SocketAddr) -> Result<(TcpStream, String)> {
    let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
    stream.set_nodelay(true)?;
    let mut name = String::new();
    // Nothing comes unasked after the line, so the reader takes nothing that belongs to an answer.
    BufReader::new(&stream).read_line(&mut name)?;
    Ok((stream, name.trim_end().to_owned()))
}

fn watch(address: SocketAddr, wanted: &str) -> Result<Seen> {
    let mut earlier = 0;
    loop {
        let connected_ns = monotonic_ns()?;
        let (stream, name) = open(address)?;
        if name == wanted {
            return Ok(Seen {
                connected_ns,
                earlier,
            });
        }
        // No TIME_WAIT: ports would run out.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        if earlier == 0 {
            say("watching")?;
        }
        earlier += 1;
    }
}

fn ping(addresses: &[SocketAddr], count: usize, round: usize) -> Result<()> {
    let streams = addresses
        .iter()
        .map(|address| Ok(open(*address)?.0))
        .collect::<Result<Vec<_>>>()?;
    for stream in &streams {
        exchange(stream)?;
    }
    say("connected")?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    ensure!(!line.is_empty(), "nobody said go");
    let mut spent: Vec<Vec<u64>> = vec![Vec::with_capacity(count); streams.len()];
    let mut order: Vec<usize> = (0..streams.len()).collect();
    while spent.iter().any(|times| times.len() < count) {
        for &index in &order {
            for _ in 0..round.min(count - spent[index].len()) {
                let started = Instant::now();
                exchange(&streams[index])?;
                spent[index].push(started.elapsed().as_nanos() as u64);
            }
        }
        order.reverse();
    }
    let results: Vec<Pinged> = spent.into_iter().map(pinged).collect();
    print(&results)?;
    // The connections stay until the other side has looked at the counters.
    io::stdin().lock().read_line(&mut String::new())?;
    Ok(())
}

fn exchange(mut stream: &TcpStream) -> Result<()> {
    stream.write_all(&REQUEST)?;
    stream.read_exact(&mut [0; REQUEST.len()])?;
    Ok(())
}

fn pinged(mut times: Vec<u64>) -> Pinged {
    let total: u64 = times.iter().sum();
    let rate = times.len() as f64 / (total as f64 / 1e9);
    times.sort_unstable();
    Pinged {
        rate,
        p50_ns: times.get(times.len() / 2).copied().unwrap_or_default(),
    }
}
