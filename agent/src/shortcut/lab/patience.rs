// SPDX-License-Identifier: Apache-2.0
//! How long the self-test waits before it calls a silence a stall, and how it waits.
//!
//! Invariant: what is waited for on a working kernel comes within microseconds; the time is for machines that are busy.

use std::{
    io::{self, Read},
    net::TcpStream,
    os::fd::{AsFd, AsRawFd as _},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{MsgFlags, recv},
};

use crate::shortcut::pause::pause;

/// When a silence is a stall.
pub(super) const STALL: Duration = Duration::from_secs(3);

/// An error in words.
pub(super) fn said(what: &str) -> impl Fn(io::Error) -> String {
    move |error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => format!("{what} stalled"),
        _ => format!("{what}: {error}"),
    }
}

/// An application that waits by `poll()` and reads without waiting.
struct Polled<'a>(&'a TcpStream);

impl Read for Polled<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let deadline = Instant::now() + STALL;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !is_readable(self.0, left) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match recv(self.0.as_raw_fd(), to, MsgFlags::MSG_DONTWAIT) {
                Err(Errno::EAGAIN) => {}
                result => return Ok(result?),
            }
        }
    }
}

/// Reads some bytes, as soon as there are any.
pub(super) fn read(stream: &TcpStream, to: &mut [u8]) -> io::Result<usize> {
    Polled(stream).read(to)
}

/// Reads `length` bytes.
pub(super) fn take(stream: &mut TcpStream, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length];
    Polled(stream).read_exact(&mut bytes).map_err(said("a read"))?;
    Ok(bytes)
}

/// The same by reads that wait.
pub(super) fn wait_for(stream: &mut TcpStream, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(said("a read that waits"))?;
    Ok(bytes)
}

/// Reads until the end.
pub(super) fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    Polled(stream)
        .read_to_end(&mut bytes)
        .map_err(said("a read to the end"))?;
    Ok(bytes)
}

/// Whether `socket` is readable within `time`.
pub(super) fn is_readable(socket: &impl AsFd, time: Duration) -> bool {
    let mut set = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::MAX);
    matches!(poll(&mut set, timeout), Ok(1..))
}

/// Waits until `condition` holds, as long as a stall takes.
pub(super) fn until(condition: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + STALL;
    while !condition() {
        if Instant::now() > deadline {
            return false;
        }
        pause(Duration::from_millis(1));
    }
    true
}

/// An error unless `found` is `expected`.
pub(super) fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &T,
    expected: &T,
) -> Result<(), String> {
    if found == expected {
        Ok(())
    } else {
        Err(format!("{what}: {found:?} instead of {expected:?}"))
    }
}
