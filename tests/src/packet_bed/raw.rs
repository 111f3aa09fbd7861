// SPDX-License-Identifier: Apache-2.0
//! Datagrams of IPv4 without a checksum, written as raw packets: what no device has to complete.
//!
//! Invariant: what an end sends comes from the address that it listens at.

use std::{
    io,
    net::{IpAddr, SocketAddr, SocketAddrV4, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::flood::{IPPROTO_RAW, datagram};
use crate::topology::Pod;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often an echo looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);

/// An end.
#[derive(Debug)]
pub struct Raw {
    address: SocketAddrV4,
    inbox: UdpSocket,
    outbox: Socket,
}

/// An end that answers, until it is dropped.
#[derive(Debug)]
pub struct Echo(Arc<AtomicBool>);

impl Drop for Echo {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Raw {
    /// An end in a pod that has this address.
    pub fn new(pod: &Pod, address: SocketAddrV4) -> Self {
        let sockets = pod.netns().run(|| -> io::Result<_> {
            let outbox = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(IPPROTO_RAW)))?;
            Ok((UdpSocket::bind(address)?, outbox))
        });
        let (inbox, outbox) = sockets.expect("enter the pod").expect("sockets");
        Self {
            address,
            inbox,
            outbox,
        }
    }

    /// Sends back whatever comes to `address`, on a thread of its own.
    pub fn echo(pod: &Pod, address: SocketAddr) -> Echo {
        let end = Self::new(pod, v4(address).expect("an address of IPv4"));
        let ends = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&ends);
        end.inbox.set_read_timeout(Some(LOOK)).expect("a socket");
        thread::spawn(move || {
            let mut buffer = [0; 2_048];
            while !ended.load(Ordering::SeqCst) {
                if let Ok((length, peer)) = end.inbox.recv_from(&mut buffer) {
                    let sent = end.send(peer, &buffer[..length]);
                    sent.expect("answer");
                }
            }
        });
        Echo(ends)
    }

    fn send(&self, to: SocketAddr, data: &[u8]) -> Result<()> {
        let to = v4(to)?;
        let packet = datagram(self.address, to, data);
        self.outbox
            .send_to(&packet, &SockAddr::from(to))
            .context("send a raw packet")?;
        Ok(())
    }

    /// Sends `data` and gives what `to` answers.
    pub fn ask(&self, to: SocketAddr, data: &[u8]) -> Result<Vec<u8>> {
        self.send(to, data)?;
        self.inbox.set_read_timeout(Some(PATIENCE))?;
        let mut buffer = vec![0; 2_048];
        let (length, from) = self.inbox.recv_from(&mut buffer).context("no answer")?;
        ensure!(from == to, "the answer comes from {from}, not from {to}");
        buffer.truncate(length);
        Ok(buffer)
    }
}

fn v4(address: SocketAddr) -> Result<SocketAddrV4> {
    match address.ip() {
        IpAddr::V4(ip) => Ok(SocketAddrV4::new(ip, address.port())),
        IpAddr::V6(_) => anyhow::bail!("{address} is none of IPv4"),
    }
}
