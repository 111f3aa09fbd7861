// SPDX-License-Identifier: Apache-2.0
//! The far end: says its name on every connection and datagram. One task per connection, so that tens of thousands of
//! held ones cost little.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use std::time::Duration;

use anyhow::Context as _;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;

const BACKLOG: i32 = 4096;
const ACCEPT_RETRY: Duration = Duration::from_millis(200);
const FREE_PORT_TRIES: u32 = 16;
const MAX_DATAGRAM: usize = 65_536;

/// Flags of `serve`.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Args {
    /// Address to listen on; repeat it for several. Port 0 takes a free one.
    #[arg(long, required = true, value_name = "IP:PORT")]
    pub(super) listen: Vec<SocketAddr>,
    /// Name to answer with.
    #[arg(long)]
    pub(super) name: String,
    /// Only TCP [default: both].
    #[arg(long)]
    pub(super) tcp: bool,
    /// Only UDP [default: both].
    #[arg(long)]
    pub(super) udp: bool,
    /// Print each new maximum of open connections.
    #[arg(long)]
    pub(super) peaks: bool,
}

/// Serves until the process is killed; announces each address on standard output.
#[tokio::main]
pub(super) async fn run(args: &Args) -> anyhow::Result<()> {
    let mut server = Server::bind(args)?;
    let mut stdout = std::io::stdout().lock();
    for address in &server.addresses {
        writeln!(stdout, "listening on {address}")?;
    }
    stdout.flush()?;
    drop(stdout);
    while let Some(ended) = server.tasks.join_next().await {
        ended.context("a server task panicked")??;
    }
    Ok(())
}

/// A bound server; it serves from the moment it is bound until it is dropped.
pub(super) struct Server {
    pub(super) addresses: Vec<SocketAddr>,
    tasks: JoinSet<anyhow::Result<()>>,
}

impl Server {
    /// Must be called within a tokio runtime. With port 0, TCP and UDP get the same free port.
    pub(super) fn bind(args: &Args) -> anyhow::Result<Self> {
        let (tcp, udp) = if args.tcp || args.udp {
            (args.tcp, args.udp)
        } else {
            (true, true)
        };
        let open = Arc::new(Open::new(args.peaks));
        let mut server = Self {
            addresses: Vec::new(),
            tasks: JoinSet::new(),
        };
        for &asked in &args.listen {
            let (address, listener, socket) = bind(asked, tcp, udp)?;
            if let Some(listener) = listener {
                let greeting = format!("{}\n", args.name).into_bytes();
                let open = Arc::clone(&open);
                server.tasks.spawn(accept(listener, greeting.into(), open));
            }
            if let Some(socket) = socket {
                server.tasks.spawn(answer(socket, format!("{} ", args.name)));
            }
            server.addresses.push(address);
        }
        Ok(server)
    }
}

/// Binds the sockets of one address; a port that is free in TCP may be taken in UDP, and then the next one is tried.
fn bind(
    asked: SocketAddr,
    tcp: bool,
    udp: bool,
) -> anyhow::Result<(SocketAddr, Option<TcpListener>, Option<UdpSocket>)> {
    let mut tries = if asked.port() == 0 { FREE_PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let listener = if tcp {
            Some(TcpListener::from_std(socket(asked, Type::STREAM)?.into())?)
        } else {
            None
        };
        let address = listener.as_ref().map_or(Ok(asked), TcpListener::local_addr)?;
        if !udp {
            return Ok((address, listener, None));
        }
        match socket(address, Type::DGRAM) {
            Ok(socket) => {
                let socket = UdpSocket::from_std(socket.into())?;
                return Ok((socket.local_addr()?, listener, Some(socket)));
            }
            Err(error) if tries == 0 => return Err(error),
            Err(_) => (),
        }
    }
}

fn socket(address: SocketAddr, kind: Type) -> anyhow::Result<Socket> {
    let protocol = if kind == Type::STREAM {
        Protocol::TCP
    } else {
        Protocol::UDP
    };
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_nonblocking(true)?;
        if kind == Type::STREAM {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&address.into())?;
        if kind == Type::STREAM {
            socket.listen(BACKLOG)?;
        }
        std::io::Result::Ok(socket)
    };
    bind().with_context(|| format!("listen on {address}"))
}

/// How many connections are open.
struct Open {
    now: AtomicU64,
    most: AtomicU64,
    tells: bool,
}

impl Open {
    fn new(tells: bool) -> Self {
        Self {
            now: AtomicU64::new(0),
            most: AtomicU64::new(0),
            tells,
        }
    }

    /// Counts one more, until the guard is dropped.
    fn enter(self: Arc<Self>) -> Entered {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        if self.most.fetch_max(now, Ordering::SeqCst) < now && self.tells {
            println!("peak {now}");
        }
        Entered(self)
    }
}

struct Entered(Arc<Open>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, greeting: Arc<[u8]>, open: Arc<Open>) -> anyhow::Result<()> {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let entered = Arc::clone(&open).enter();
                drop(tokio::spawn(echo(stream, Arc::clone(&greeting), entered)));
            }
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

/// Ends with the connection, however that ends: the near end reports it.
async fn echo(mut stream: TcpStream, greeting: Arc<[u8]>, entered: Entered) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    stream.write_all(&greeting).await?;
    let mut buffer = [0; 2048];
    loop {
        let n = stream.read(&mut buffer).await?;
        if n == 0 {
            // Before the near end hears of it.
            drop(entered);
            return Ok(());
        }
        stream.write_all(&buffer[..n]).await?;
    }
}

async fn answer(socket: UdpSocket, prefix: String) -> anyhow::Result<()> {
    let mut buffer = vec![0; prefix.len() + MAX_DATAGRAM];
    buffer[..prefix.len()].copy_from_slice(prefix.as_bytes());
    loop {
        // An error of an earlier answer (its client is gone) shows here and concerns nobody else.
        if let Ok((n, client)) = socket.recv_from(&mut buffer[prefix.len()..]).await {
            let _ = socket.send_to(&buffer[..prefix.len() + n], client).await;
        }
    }
}
