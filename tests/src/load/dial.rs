// SPDX-License-Identifier: Apache-2.0
//! Opens TCP connections and says how that went in the words of the kernel.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use tokio::net::{TcpSocket, TcpStream};

use super::tally::Failure;

/// A new connection.
pub(super) struct Dialled {
    pub(super) stream: TcpStream,
    /// What was asked for.
    pub(super) address: SocketAddr,
    /// What `getpeername()` says.
    pub(super) peer: SocketAddr,
    pub(super) elapsed: Duration,
}

/// A connect that failed.
pub(super) struct DialError {
    pub(super) failure: Failure,
    /// Name of the errno, or `TIMEOUT` for the time limit of this client.
    pub(super) name: String,
}

/// Connects to `address` within `limit`, from `source` if given.
pub(super) async fn dial(
    address: SocketAddr,
    source: Option<IpAddr>,
    limit: Duration,
) -> Result<Dialled, DialError> {
    let socket = socket(address, source)?;
    let started = Instant::now();
    let stream = tokio::time::timeout(limit, socket.connect(address))
        .await
        .map_err(|_| DialError {
            failure: Failure::ConnectTimeout,
            name: "TIMEOUT".into(),
        })??;
    let elapsed = started.elapsed();
    stream.set_nodelay(true)?;
    Ok(Dialled {
        address,
        peer: stream.peer_addr()?,
        stream,
        elapsed,
    })
}

fn socket(address: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }?;
    if let Some(source) = source {
        // Leaves the choice of the port to connect(), which then needs only the 4-tuple to be free.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket)
}

impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        let errno = error.raw_os_error().map(Errno::from_raw);
        Self {
            failure: match errno {
                Some(Errno::ECONNREFUSED) => Failure::ConnectRefused,
                Some(Errno::ETIMEDOUT) => Failure::ConnectTimeout,
                _ => Failure::ConnectOther,
            },
            name: crate::errno::name(&error),
        }
    }
}
