// SPDX-License-Identifier: Apache-2.0
//! Ends sockets of other processes: those whose policy changed, whose backend was removed, or that are idle while it drains.
//!
//! ```text
//! Sockets::end ─► queue ─► thread ─► one thread per batch: enters namespaces (setns) ─► SOCK_DESTROY ─► done(endings)
//!                          (stays in the agent's own namespace)
//! ```
//!
//! Whoever uses an ended socket is told ECONNABORTED, and the peer of a TCP connection gets a reset. Invariants: a socket is ended
//! only if its cookie says that it is the one that was meant; no namespace is held open between batches, so that one whose last
//! process ends can go.

mod diag;
mod namespaces;
mod search;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
};

use nix::errno::Errno;
use nodemesh_abi::{Connection, Protocol, Vantage};

/// Batches that may wait.
const QUEUE: usize = 16;

/// A socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Its own end; port 0 if that is not known.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Its cookie, as `bpf_get_socket_cookie` tells it.
    pub cookie: u64,
    /// A process that has it, by its id in the agent's pid namespace; 0 if none is known. Its namespaces are looked at first.
    pub tgid: u32,
}

impl Socket {
    /// The socket that has the record `connection`.
    pub fn of(connection: &Connection) -> Self {
        let end = |addr: nodemesh_abi::Ip16, port: nodemesh_abi::Port| {
            SocketAddr::new(IpAddr::from(addr).to_canonical(), port.get())
        };
        let client = end(connection.client_addr, connection.client_port);
        let backend = end(connection.backend_addr, connection.backend_port);
        let (local, remote) = match Vantage::from_raw(connection.meter.vantage) {
            Vantage::Client => (client, backend),
            Vantage::Server => (backend, client),
        };
        let is_udp = connection.protocol == Protocol::Udp as u16;
        Self {
            protocol: if is_udp { Protocol::Udp } else { Protocol::Tcp },
            local,
            remote,
            cookie: connection.cookie,
            tgid: connection.tgid,
        }
    }
}

/// What became of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was ended.
    Ended,
    /// No namespace has it: it was closed before.
    NotFound,
    /// The agent may not enter a namespace, or not end sockets there: it lacks `CAP_SYS_ADMIN` or `CAP_NET_ADMIN`.
    NotPermitted,
    /// The kernel cannot: it was built without `CONFIG_INET_DIAG_DESTROY`, or lacks the modules `inet_diag`, `tcp_diag`, `udp_diag`.
    NotSupported,
    /// The batch was too large to look for this one everywhere; ask again.
    GaveUp,
    /// The kernel refused for a reason of its own.
    Failed(Errno),
}

/// Why a batch was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndError {
    /// Too many wait.
    #[error("{QUEUE} batches of sockets wait to be ended; try again later")]
    Busy,
    /// The thread is gone.
    #[error("the thread that ends sockets has ended")]
    Gone,
}

/// A batch, and who wants to know.
struct Batch {
    sockets: Vec<Socket>,
    done: Box<dyn FnOnce(Vec<Ending>) + Send>,
}

/// The thread that ends sockets. Ends when this is dropped and what waits is done.
#[derive(Clone, Debug)]
pub struct Sockets {
    queue: SyncSender<Batch>,
}

impl Sockets {
    /// Starts the thread. It stays in the caller's network namespace.
    pub fn start() -> io::Result<Self> {
        let (queue, batches) = mpsc::sync_channel(QUEUE);
        thread::Builder::new()
            .name("sockets".into())
            .spawn(move || run(&batches))?;
        Ok(Self { queue })
    }

    /// Ends `sockets` soon; `done` is told what became of each, in the same order, and should not take long. Never waits.
    pub fn end(
        &self,
        sockets: Vec<Socket>,
        done: impl FnOnce(Vec<Ending>) + Send + 'static,
    ) -> Result<(), EndError> {
        let done = Box::new(done);
        self.queue
            .try_send(Batch { sockets, done })
            .map_err(|error| match error {
                mpsc::TrySendError::Full(_) => EndError::Busy,
                mpsc::TrySendError::Disconnected(_) => EndError::Gone,
            })
    }

    /// Ends `sockets` and waits for it; not for a thread of the runtime.
    pub fn end_now(&self, sockets: Vec<Socket>) -> Result<Vec<Ending>, EndError> {
        let (done, endings) = mpsc::channel();
        // Whoever waits below cannot be gone.
        self.end(sockets, move |ended| drop(done.send(ended)))?;
        endings.recv().map_err(|_| EndError::Gone)
    }
}

fn run(batches: &Receiver<Batch>) {
    while let Ok(Batch { sockets, done }) = batches.recv() {
        // A thread that entered a namespace keeps it alive, so each batch has a thread of its own.
        let ended = thread::scope(|scope| {
            let batch = thread::Builder::new().name("sockets-batch".into());
            let batch = batch.spawn_scoped(scope, || search::end(&sockets))?;
            Ok::<_, io::Error>(batch.join().unwrap_or_else(|panic| resume_unwind(panic)))
        });
        done(ended.unwrap_or_else(|error| {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN));
            vec![Ending::Failed(errno); sockets.len()]
        }));
    }
}

#[cfg(test)]
mod tests;
