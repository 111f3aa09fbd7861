// SPDX-License-Identifier: Apache-2.0
//! A TCP stream whose system calls are watched: what is below TLS is what the kernel counts.
//!
//! Wraps the socket of each connection of [`crate::model_server`] and [`crate::load`]. Invariant: the stamp of a write was
//! taken right before the system call that wrote its first byte.

use std::io::{self, IoSlice};
use std::os::fd::AsFd as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::monotonic::now_ns;

/// `POLLRDHUP` of `poll(2)`, for which nix has no name.
const PEER_SHUT_DOWN: PollFlags = PollFlags::from_bits_retain(0x2000);

/// What a tap tells of.
pub(crate) trait Watcher: Send + Sync {
    /// A read returned `bytes`, at least one, at `now_ns`.
    fn read(&self, bytes: &[u8], now_ns: u64);

    /// Something is to be written to `stream`.
    fn writing(&self, _stream: &TcpStream) {}

    /// A write that began at `before_ns` took `bytes`, more than 0.
    fn wrote(&self, bytes: usize, before_ns: u64);

    /// All that was given to the stream is in the socket.
    fn flushed(&self) {}

    /// The peer has closed: a read returned 0, or the error that is given.
    fn left(&self, _error: Option<&io::Error>) {}
}

/// The watched stream.
pub(crate) struct Tap<W> {
    stream: TcpStream,
    watcher: Arc<W>,
}

impl<W: Watcher> Tap<W> {
    pub(crate) fn new(stream: TcpStream, watcher: Arc<W>) -> Self {
        Self { stream, watcher }
    }

    pub(crate) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub(crate) fn watcher(&self) -> &W {
        &self.watcher
    }

    fn write_with(
        &mut self,
        write: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.watcher.writing(&self.stream);
        let before = now_ns();
        let result = ready!(write(Pin::new(&mut self.stream)));
        match &result {
            Ok(0) => (),
            Ok(bytes) => self.watcher.wrote(*bytes, before),
            Err(error) => self.watcher.left(Some(error)),
        }
        Poll::Ready(result)
    }
}

/// Whether the peer of `stream` has sent a FIN or a RST, read or not.
pub(crate) fn peer_left(stream: &TcpStream) -> bool {
    happened(stream, PEER_SHUT_DOWN)
}

/// Whether the peer of `stream` has sent a FIN, read or not, and no RST.
pub(crate) fn peer_finished(stream: &TcpStream) -> bool {
    // Errors and hang-ups are told unasked.
    peer_left(stream) && !happened(stream, PollFlags::empty())
}

fn happened(stream: &TcpStream, asked: PollFlags) -> bool {
    let mut polled = [PollFd::new(stream.as_fd(), asked)];
    // Flags that nix does not know, such as the one asked for, make `any` say `None`.
    poll(&mut polled, PollTimeout::ZERO).is_ok() && polled[0].any() != Some(false)
}

impl<W: Watcher> AsyncRead for Tap<W> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        match (&result, &buffer.filled()[before..]) {
            (Ok(()), []) => self.watcher.left(None),
            (Ok(()), bytes) => self.watcher.read(bytes, now_ns()),
            (Err(error), _) => self.watcher.left(Some(error)),
        }
        Poll::Ready(result)
    }
}

impl<W: Watcher> AsyncWrite for Tap<W> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write_with(|stream| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write_with(|stream| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = ready!(Pin::new(&mut self.stream).poll_flush(context));
        if result.is_ok() {
            self.watcher.flushed();
        }
        Poll::Ready(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
