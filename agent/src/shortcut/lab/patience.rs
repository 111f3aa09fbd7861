// SPDX-License-Identifier: Apache-2.0
//! How long the self-test waits before it calls a silence a stall, and how it waits.
//!
//! Invariant: what is waited for on a working kernel comes within microseconds; the time is for machines that are busy.

use std::{
    io::{self, Read},
    net::TcpStream,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

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

/// Reads `length` bytes.
pub(super) fn take(stream: &mut TcpStream, length: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).map_err(said("a read"))?;
    Ok(bytes)
}

/// Reads until the end.
pub(super) fn rest(stream: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    stream
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
