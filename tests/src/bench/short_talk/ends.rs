// SPDX-License-Identifier: Apache-2.0
//! The two ends of case `shortcut`, which never wait inside of a read: whole reads and writes for the beginning of a connection, and
//! loops of events (`epoll`, edge-triggered) for what is measured.
//!
//! Invariant: a socket is read when it is ready and again only if the buffer came back full, so that an exchange takes one read, one write
//! and a share of an `epoll_wait()` at each end, whatever carries it.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use mio::{Events, Interest, Poll, Token, Waker, unix::SourceFd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::PIECE;

/// The token of the waker; sockets are counted from 0.
const WAKER: Token = Token(usize::MAX);
/// Events that are taken at once.
const EVENTS: usize = 128;

/// Calls until it is not refused for lack of bytes or room, and waits for `readiness` between.
fn until_ready<T>(
    stream: &TcpStream,
    readiness: PollFlags,
    mut call: impl FnMut(&TcpStream) -> io::Result<T>,
) -> Result<T> {
    loop {
        match call(stream) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                poll(&mut [PollFd::new(stream.as_fd(), readiness)], PollTimeout::NONE)?;
            }
            result => return Ok(result?),
        }
    }
}

/// Writes all of `bytes` to a non-blocking socket.
pub(super) fn write_all(stream: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let written = until_ready(stream, PollFlags::POLLOUT, |mut stream| stream.write(bytes))?;
        bytes = &bytes[written..];
    }
    Ok(())
}

/// Reads and drops `length` bytes.
pub(super) fn read_exact(stream: &TcpStream, length: usize) -> Result<()> {
    let mut bytes = vec![0; length];
    let mut got = 0;
    while got < length {
        got += read(stream, &mut bytes[got..])?;
    }
    Ok(())
}

/// Reads until what was read `is_whole`.
pub(super) fn read_until(stream: &TcpStream, is_whole: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
    let (mut text, mut buffer) = (Vec::new(), [0; 1024]);
    while !is_whole(&text) {
        let length = read(stream, &mut buffer)?;
        text.extend(&buffer[..length]);
    }
    Ok(text)
}

fn read(stream: &TcpStream, buffer: &mut [u8]) -> Result<usize> {
    let length = until_ready(stream, PollFlags::POLLIN, |mut stream| stream.read(buffer))?;
    if length == 0 {
        bail!("the other side has closed");
    }
    Ok(length)
}

/// A socket whose messages are answered.
struct Answered {
    stream: TcpStream,
    answer: Vec<u8>,
    got: usize,
}

/// A thread that answers each message with one of the same length.
#[derive(Clone)]
pub(super) struct Answerer {
    waker: Arc<Waker>,
    new: Arc<Mutex<Vec<Answered>>>,
}

impl Answerer {
    pub(super) fn start() -> Result<Self> {
        let poll = Poll::new()?;
        let answerer = Self {
            waker: Arc::new(Waker::new(poll.registry(), WAKER)?),
            new: Arc::default(),
        };
        let own = answerer.clone();
        thread::spawn(move || own.run(poll));
        Ok(answerer)
    }

    /// Writes `answer`, and again after each as many bytes that come.
    pub(super) fn answer(&self, stream: TcpStream, answer: Vec<u8>) -> Result<()> {
        write_all(&stream, &answer)?;
        let answered = Answered {
            stream,
            answer,
            got: 0,
        };
        self.new
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(answered);
        Ok(self.waker.wake()?)
    }

    fn run(&self, mut poll: Poll) -> Result<()> {
        let (mut sockets, mut buffer) = (Vec::new(), vec![0; PIECE]);
        let mut events = Events::with_capacity(EVENTS);
        loop {
            wait(&mut poll, &mut events, None)?;
            for event in &events {
                if event.token() == WAKER {
                    let mut new = self.new.lock().unwrap_or_else(PoisonError::into_inner);
                    for answered in new.drain(..) {
                        register(&poll, &answered.stream, sockets.len())?;
                        sockets.push(Some(answered));
                    }
                    continue;
                }
                let socket = &mut sockets[event.token().0];
                // Its client has ended, in the middle of a message as likely as not.
                if socket
                    .as_mut()
                    .is_some_and(|open| open.go_on(&mut buffer).is_err())
                {
                    *socket = None;
                }
            }
        }
    }
}

impl Answered {
    fn go_on(&mut self, buffer: &mut [u8]) -> Result<()> {
        each_read(&self.stream, buffer, None, |bytes| {
            self.got += bytes.len();
            while self.got >= self.answer.len() {
                self.got -= self.answer.len();
                write_all(&self.stream, &self.answer)?;
            }
            Ok(())
        })
    }
}

/// Sockets of one loop of events that measures.
pub(super) struct Asker {
    poll: Poll,
    streams: Vec<TcpStream>,
}

impl Asker {
    pub(super) fn new(streams: Vec<TcpStream>) -> Result<Self> {
        let poll = Poll::new()?;
        for (index, stream) in streams.iter().enumerate() {
            register(&poll, stream, index)?;
        }
        Ok(Self { poll, streams })
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn write_to_all(&self, bytes: &[u8]) -> Result<()> {
        self.streams
            .iter()
            .try_for_each(|stream| write_all(stream, bytes))
    }

    /// Tells of each message of `length` bytes until `end`, with its socket.
    pub(super) fn each_message(
        &mut self,
        end: Instant,
        length: usize,
        mut told: impl FnMut(usize, &TcpStream, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let mut parts = vec![Vec::with_capacity(2 * length); self.streams.len()];
        self.each_piece(end, 4 * length, |index, stream, bytes| {
            let part = &mut parts[index];
            part.extend_from_slice(bytes);
            while part.len() >= length {
                told(index, stream, &part[..length])?;
                part.drain(..length);
            }
            Ok(())
        })
    }

    /// Tells of what is read until `end`, at most `most` bytes at once.
    pub(super) fn each_piece(
        &mut self,
        end: Instant,
        most: usize,
        mut told: impl FnMut(usize, &TcpStream, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (mut events, mut buffer) = (Events::with_capacity(EVENTS), vec![0; most]);
        while Instant::now() < end {
            wait(&mut self.poll, &mut events, Some(end))?;
            for event in &events {
                let index = event.token().0;
                let stream = &self.streams[index];
                each_read(stream, &mut buffer, Some(end), |bytes| told(index, stream, bytes))?;
            }
        }
        Ok(())
    }
}

/// Reads until `end` or until there is nothing more, which a read of less than the buffer shows.
fn each_read(
    mut stream: &TcpStream,
    buffer: &mut [u8],
    end: Option<Instant>,
    mut told: impl FnMut(&[u8]) -> Result<()>,
) -> Result<()> {
    loop {
        match stream.read(buffer) {
            Ok(0) => bail!("the other side has closed"),
            Ok(length) => {
                told(&buffer[..length])?;
                if length < buffer.len() || end.is_some_and(|end| Instant::now() >= end) {
                    return Ok(());
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

fn register(poll: &Poll, stream: &TcpStream, index: usize) -> Result<()> {
    poll.registry()
        .register(
            &mut SourceFd(&stream.as_raw_fd()),
            Token(index),
            Interest::READABLE,
        )
        .context("wait for a socket")
}

fn wait(poll: &mut Poll, events: &mut Events, end: Option<Instant>) -> Result<()> {
    let left = end.map(|end| end.saturating_duration_since(Instant::now()));
    match poll.poll(events, left) {
        Err(error) if error.kind() != ErrorKind::Interrupted => Err(error.into()),
        _ => Ok(()),
    }
}
