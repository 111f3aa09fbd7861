// SPDX-License-Identifier: Apache-2.0
//! Properties of how an application waits and reads.
//!
//! Invariant: a stall is found by a time limit on the socket, never by waiting for ever.

use std::{net::TcpStream, os::fd::AsFd as _, time::Duration};

use nix::{
    errno::Errno,
    fcntl::{SpliceFFlags, splice},
    sys::{
        epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
        socket::{MsgFlags, recv, send},
    },
    unistd::{pipe, read},
};
use std::os::fd::AsRawFd as _;

use super::{
    Lab,
    pair::{Pair, Path, pattern},
    patience::{STALL, is_readable, same, take, until, wait_for},
};
use crate::{datapath::netns::readable_bytes, shortcut::pause::pause};

fn errno(what: &'static str) -> impl Fn(Errno) -> String {
    move |error| match error {
        Errno::EAGAIN => format!("{what} stalled"),
        other => format!("{what}: {other}"),
    }
}

fn fionread(lab: &Lab, path: Path) -> Result<(), String> {
    let mut pair = Pair::on(lab, path)?;
    pair.up(&pattern(0, 1000))?;
    if !is_readable(&pair.server, STALL) {
        return Err("1000 bytes do not make the socket readable".into());
    }
    let right = until(|| readable_bytes(&pair.server).is_ok_and(|bytes| bytes == 1000));
    let found = readable_bytes(&pair.server).map_err(|error| error.to_string())?;
    if right {
        Ok(())
    } else {
        Err(format!("{found} of 1000 bytes"))
    }
}

pub(super) fn fionread_tcp(lab: &mut Lab) -> Result<(), String> {
    fionread(lab, Path::Enrolled)
}

pub(super) fn fionread_shortcut(lab: &mut Lab) -> Result<(), String> {
    fionread(lab, Path::Short)
}

/// Whether `epoll` has an event within `time`.
fn wakes(epoll: &Epoll, time: Duration) -> Result<bool, String> {
    let mut events = [EpollEvent::empty()];
    let timeout = EpollTimeout::try_from(time).unwrap_or(EpollTimeout::MAX);
    let count = epoll.wait(&mut events, timeout).map_err(errno("epoll"))?;
    Ok(count == 1)
}

fn watch(stream: &TcpStream, flags: EpollFlags) -> Result<Epoll, String> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(errno("epoll"))?;
    epoll
        .add(stream, EpollEvent::new(EpollFlags::EPOLLIN | flags, 0))
        .map_err(errno("epoll"))?;
    Ok(epoll)
}

const NOW: Duration = Duration::ZERO;

pub(super) fn epoll_level(lab: &mut Lab) -> Result<(), String> {
    for path in Path::BOTH {
        let mut pair = Pair::on(lab, path)?;
        let epoll = watch(&pair.server, EpollFlags::empty())?;
        same("an event before there is data", &wakes(&epoll, NOW)?, &false)?;
        pair.up(&pattern(0, 100))?;
        same("an event for data", &wakes(&epoll, STALL)?, &true)?;
        take(&mut pair.server, 40)?;
        same("an event for the rest", &wakes(&epoll, NOW)?, &true)?;
        take(&mut pair.server, 60)?;
        same("an event after all was read", &wakes(&epoll, NOW)?, &false)?;
    }
    Ok(())
}

pub(super) fn epoll_edge(lab: &mut Lab) -> Result<(), String> {
    for path in Path::BOTH {
        let mut pair = Pair::on(lab, path)?;
        let epoll = watch(&pair.server, EpollFlags::EPOLLET)?;
        for round in 0..20 {
            pair.up(&pattern(round, 100))?;
            same("an event for new data", &wakes(&epoll, STALL)?, &true)?;
            same("the data", &take(&mut pair.server, 100)?, &pattern(round, 100))?;
        }
    }
    Ok(())
}

/// `recv()` with flags.
fn receive(stream: &TcpStream, length: usize, flags: MsgFlags) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; length];
    let count = recv(stream.as_raw_fd(), &mut bytes, flags).map_err(errno("recv()"))?;
    bytes.truncate(count);
    Ok(bytes)
}

pub(super) fn peek(lab: &mut Lab) -> Result<(), String> {
    for path in Path::BOTH {
        let mut pair = Pair::on(lab, path)?;
        pair.up(&pattern(0, 100))?;
        for _ in 0..2 {
            let seen = receive(&pair.server, 64, MsgFlags::MSG_PEEK)?;
            same("what a peek shows", &seen, &pattern(0, 64))?;
        }
        same(
            "what is read after it",
            &take(&mut pair.server, 100)?,
            &pattern(0, 100),
        )?;
    }
    Ok(())
}

/// Sends 50 bytes, and 50 more when the reader waits for them; what the reader got.
fn wait_for_all(pair: &mut Pair) -> Result<usize, String> {
    pair.up(&pattern(0, 50))?;
    let reader = pair.server.try_clone().map_err(|error| error.to_string())?;
    let waiting = std::thread::spawn(move || receive(&reader, 100, MsgFlags::MSG_WAITALL));
    pause(Duration::from_millis(20));
    pair.up(&pattern(50, 50))?;
    let bytes = waiting.join().map_err(|_| "the reader panicked")??;
    same("what was read", &bytes, &pattern(0, bytes.len()))?;
    Ok(bytes.len())
}

/// An application that always waits for all.
pub(super) fn waitall(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::fresh(lab)?;
    for _ in 0..5 {
        same(
            "bytes of a read that waits for 100",
            &wait_for_all(&mut pair)?,
            &100,
        )?;
    }
    Ok(())
}

/// One that begins to after it has read otherwise.
pub(super) fn waitall_later(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::short(lab)?;
    same(
        "bytes of a read that waits for 100",
        &wait_for_all(&mut pair)?,
        &100,
    )
}

/// A read waits while its own application fills the way to the peer, and the peer makes room there: that is no reason to return.
fn wait_while_written(pair: &mut Pair) -> Result<(), String> {
    let message = pattern(0, 4096);
    while send(pair.client.as_raw_fd(), &message, MsgFlags::MSG_DONTWAIT).is_ok() {}
    let mut reader = pair.client.try_clone().map_err(|error| error.to_string())?;
    let waiting = std::thread::spawn(move || wait_for(&mut reader, 100));
    pause(Duration::from_millis(20));
    let mut bytes = vec![0; 64 << 10];
    while recv(pair.server.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT).is_ok() {
        pause(Duration::from_millis(1));
    }
    pair.down(&pattern(0, 100))?;
    let seen = waiting.join().map_err(|_| "the reader panicked")??;
    same("what was read", &seen, &pattern(0, 100))
}

/// An application that always waits inside of reads.
pub(super) fn waiting_read(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::fresh(lab)?;
    for _ in 0..10 {
        pair.up(b"ping")?;
        wait_for(&mut pair.server, 4)?;
        pair.down(b"pong")?;
        wait_for(&mut pair.client, 4)?;
    }
    wait_while_written(&mut pair)
}

/// One that begins to after it has read otherwise.
pub(super) fn waiting_read_later(lab: &mut Lab) -> Result<(), String> {
    wait_while_written(&mut Pair::short(lab)?)
}

/// Reads `length` bytes by `splice()`.
fn splice_some(stream: &TcpStream, length: usize) -> Result<Vec<u8>, String> {
    if !is_readable(stream, STALL) {
        return Err("the socket is not readable".into());
    }
    let (out, into) = pipe().map_err(errno("pipe()"))?;
    let mut bytes = Vec::new();
    while bytes.len() < length {
        let wanted = length - bytes.len();
        let count = splice(
            stream.as_fd(),
            None,
            &into,
            None,
            wanted,
            SpliceFFlags::SPLICE_F_NONBLOCK,
        )
        .map_err(errno("splice() from a readable socket"))?;
        let mut part = vec![0; count];
        let count = read(&out, &mut part).map_err(errno("read()"))?;
        part.truncate(count);
        bytes.extend(part);
        if count == 0 {
            break;
        }
    }
    Ok(bytes)
}

/// An application that always splices, as proxies do that look at nothing.
pub(super) fn splice_from(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::fresh(lab)?;
    for round in 0..50 {
        pair.up(&pattern(round, 1000))?;
        let seen = splice_some(&pair.server, 1000)?;
        same("what was spliced", &seen, &pattern(round, 1000))?;
        pair.down(b"pong")?;
        take(&mut pair.client, 4)?;
    }
    Ok(())
}

/// One that begins to after it has read otherwise.
pub(super) fn splice_from_later(lab: &mut Lab) -> Result<(), String> {
    let mut pair = Pair::short(lab)?;
    pair.up(&pattern(0, 1000))?;
    let seen = splice_some(&pair.server, 1000)?;
    same("what was spliced", &seen, &pattern(0, 1000))
}
