// SPDX-License-Identifier: Apache-2.0
//! The far end of the packet path's tests: greets with its name and whom it sees, and echoes, over TCP and UDP of both families.
//!
//! Threads of the test in the pod's network namespace. Invariant: everything ends when it is dropped.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use super::TARGET;
use crate::{bed::Family, eventually::pause, netns::NetNs, topology::Pod};

/// How often a thread looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// A far end.
#[derive(Debug)]
pub struct FarEnd {
    ends: Arc<AtomicBool>,
}

impl FarEnd {
    /// Listens at [`TARGET`] of both addresses of `pod`.
    pub fn start(pod: &Pod, name: &str) -> Self {
        Self::at(pod.netns(), addresses(pod), name)
    }

    /// Listens at two addresses in any namespace.
    pub fn at(netns: &NetNs, addresses: [SocketAddr; 2], name: &str) -> Self {
        let end = Self::tcp_at(netns, addresses, name);
        for at in addresses {
            let socket = netns.run(|| UdpSocket::bind(at)).expect("enter the namespace");
            let (socket, name, ended) = (socket.expect("bind"), name.to_owned(), Arc::clone(&end.ends));
            thread::spawn(move || answer(&socket, &name, &ended));
        }
        end
    }

    /// The same, which answers no datagram.
    pub fn tcp(pod: &Pod, name: &str) -> Self {
        Self::tcp_at(pod.netns(), addresses(pod), name)
    }

    fn tcp_at(netns: &NetNs, addresses: [SocketAddr; 2], name: &str) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        for at in addresses {
            let listener = netns.run(|| TcpListener::bind(at)).expect("enter the namespace");
            let (listener, name, ended) = (listener.expect("listen"), name.to_owned(), Arc::clone(&ends));
            thread::spawn(move || accept(&listener, &name, &ended));
        }
        Self { ends }
    }
}

impl Drop for FarEnd {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::SeqCst);
    }
}

/// [`TARGET`] of both addresses of a pod.
fn addresses(pod: &Pod) -> [SocketAddr; 2] {
    Family::BOTH.map(|family| SocketAddr::new(family.of(pod), TARGET))
}

fn accept(listener: &TcpListener, name: &str, ended: &Arc<AtomicBool>) {
    listener.set_nonblocking(true).expect("a listener");
    while !ended.load(Ordering::SeqCst) {
        match listener.accept() {
            Ok((stream, peer)) => {
                let (greeting, ended) = (format!("{name} {peer}\n"), Arc::clone(ended));
                thread::spawn(move || echo(&stream, &greeting, &ended));
            }
            Err(_) => pause(Duration::from_millis(2)),
        }
    }
}

/// Ends with the connection, however that ends: the near end reports it.
fn echo(stream: &TcpStream, greeting: &str, ended: &AtomicBool) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    let mut stream = stream;
    stream.write_all(greeting.as_bytes())?;
    let mut buffer = vec![0; 65_536];
    while !ended.load(Ordering::SeqCst) {
        match io::Read::read(&mut stream, &mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => stream.write_all(&buffer[..length])?,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn answer(socket: &UdpSocket, name: &str, ended: &AtomicBool) {
    socket.set_read_timeout(Some(LOOK)).expect("a socket");
    let mut buffer = vec![0; 65_536];
    while !ended.load(Ordering::SeqCst) {
        // An error of an earlier answer (its client is gone) shows here and concerns nobody else.
        if let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let text = [format!("{name} {peer} ").as_bytes(), &buffer[..length]].concat();
            let _ = socket.send_to(&text, peer);
        }
    }
}
