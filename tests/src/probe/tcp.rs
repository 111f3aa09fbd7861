// SPDX-License-Identifier: Apache-2.0
//! One TCP connect in every form that a kernel program must handle: blocking or not, IPv4 or v4-mapped IPv6, bound or
//! not, once or several times on one socket.

use std::io::{self, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, SocketAddrV6, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

/// Name in reports of a time limit of the probe itself, unlike the kernel's ETIMEDOUT.
pub(super) const TIMEOUT: &str = "TIMEOUT";
const LONGEST_LINE: usize = 256;

/// How to connect.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dial {
    pub(super) bind: Option<IpAddr>,
    /// Connect an `AF_INET6` socket to `::ffff:a.b.c.d`.
    pub(super) mapped: bool,
    pub(super) nonblocking: bool,
    /// Further `connect()` calls on the same socket after one that failed.
    pub(super) retries: u32,
    pub(super) timeout: Duration,
}

/// What `connect()` said.
#[derive(Debug)]
pub(super) struct Attempt {
    /// Per `connect()` call, in order: `ok` or the name of the error.
    pub(super) outcomes: Vec<String>,
    pub(super) stream: Option<TcpStream>,
    /// Duration of the last call, up to the established connection.
    pub(super) elapsed: Duration,
}

/// How a connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Close {
    /// FIN.
    Fin,
    /// RST: leaves no `TIME_WAIT` behind.
    Rst,
    /// FIN, and the close after that of the far end, which then knows of it.
    Agreed,
}

impl Dial {
    /// Connects to `address`. An error means that there was no socket to connect.
    pub(super) fn connect(&self, address: SocketAddr) -> io::Result<Attempt> {
        let address = if self.mapped { mapped(address) } else { address };
        let socket = self.socket(address)?;
        let target = SockAddr::from(address);
        let mut outcomes = Vec::new();
        loop {
            let started = Instant::now();
            let result = self.connect_once(&socket, &target);
            let elapsed = started.elapsed();
            match result {
                Ok(()) => {
                    outcomes.push("ok".to_owned());
                    socket.set_nonblocking(false)?;
                    return Ok(Attempt {
                        outcomes,
                        stream: Some(socket.into()),
                        elapsed,
                    });
                }
                Err(name) => outcomes.push(name),
            }
            if outcomes.len() > self.retries as usize {
                return Ok(Attempt {
                    outcomes,
                    stream: None,
                    elapsed,
                });
            }
        }
    }

    fn socket(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if let Some(bind) = self.bind {
            let bind = SocketAddr::new(bind, 0);
            // Leaves the choice of the port to connect(), which then needs only the 4-tuple to be free.
            setsockopt(&socket, IpBindAddressNoPort, &true)?;
            socket.bind(&if self.mapped { mapped(bind) } else { bind }.into())?;
        }
        socket.set_tcp_nodelay(true)?;
        socket.set_nonblocking(self.nonblocking)?;
        socket.set_read_timeout(Some(self.timeout))?;
        // connect() of a blocking socket obeys the send timeout, and says EINPROGRESS when it is over.
        socket.set_write_timeout(Some(self.timeout))?;
        Ok(socket)
    }

    fn connect_once(&self, socket: &Socket, target: &SockAddr) -> Result<(), String> {
        let name = |error: io::Error| crate::errno::name(&error);
        let in_progress = |error: &io::Error| error.raw_os_error() == Some(Errno::EINPROGRESS as i32);
        match socket.connect(target) {
            Ok(()) => Ok(()),
            Err(error) if in_progress(&error) && self.nonblocking => {
                let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
                let limit = PollTimeout::try_from(self.timeout).unwrap_or(PollTimeout::MAX);
                match poll(&mut ready, limit) {
                    Ok(0) => Err(TIMEOUT.to_owned()),
                    Ok(_) => socket
                        .take_error()
                        .map_err(name)?
                        .map_or(Ok(()), |error| Err(name(error))),
                    Err(errno) => Err(format!("{errno:?}")),
                }
            }
            Err(error) if in_progress(&error) => Err(TIMEOUT.to_owned()),
            Err(error) => Err(name(error)),
        }
    }
}

fn mapped(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into(),
        SocketAddr::V6(_) => address,
    }
}

/// Reads the line that `serve` begins with, after which nothing comes unasked; an error is the name of what came
/// instead.
pub(super) fn read_name(mut stream: &TcpStream) -> Result<String, String> {
    let mut line = [0; LONGEST_LINE];
    let mut length = 0;
    while length < line.len() {
        match stream.read(&mut line[length..]) {
            Ok(0) => return Err("EOF".to_owned()),
            Ok(n) => length += n,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(TIMEOUT.to_owned()),
            Err(error) => return Err(crate::errno::name(&error)),
        }
        if let Some(name) = line[..length].strip_suffix(b"\n") {
            return Ok(String::from_utf8_lossy(name).into_owned());
        }
    }
    Err("NO_NAME".to_owned())
}

/// Closes the connection in the given way.
pub(super) fn close(mut stream: TcpStream, how: Close) -> io::Result<()> {
    match how {
        Close::Fin => (),
        Close::Rst => SockRef::from(&stream).set_linger(Some(Duration::ZERO))?,
        Close::Agreed => {
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())?;
        }
    }
    drop(stream);
    Ok(())
}

/// The wildcard address of the family of `address`.
pub(super) fn any(address: SocketAddr) -> SocketAddr {
    let ip = if address.is_ipv4() {
        IpAddr::from(Ipv4Addr::UNSPECIFIED)
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    SocketAddr::new(ip, 0)
}
