// SPDX-License-Identifier: Apache-2.0
//! Speaks `sock_diag(7)` with the kernel, in one network namespace. Called by `search`.
//!
//! Invariant: a netlink socket stays in the namespace in which it was created, wherever its thread goes.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::{
    AF_INET, AF_INET6, SockDiagDestroy, SockDiagMessage,
    inet::{ExtensionFlags, InetRequest, SocketId, StateFlags},
};
use netlink_sys::{Socket as Netlink, SocketAddr as NetlinkAddr, protocols::NETLINK_SOCK_DIAG};
use nix::{
    errno::Errno,
    sched::{CloneFlags, setns},
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};

use super::{Socket, namespaces::Namespace};

/// The kernel sends no more than this at once.
const LONGEST_DATAGRAM: usize = 32 * 1024;
/// The kernel answers within the call that asks; this only keeps a fault from becoming a wait without end.
const PATIENCE: TimeVal = TimeVal::new(2, 0);

/// What became of a socket, with its place among those that were asked for.
pub(super) type Found = (usize, Result<(), Errno>);

/// The sockets of a namespace.
pub(super) struct Diag {
    netlink: Netlink,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Diag {
    /// Moves the calling thread into `namespace` and opens it.
    pub(super) fn open(namespace: &Namespace) -> Result<Self, Errno> {
        setns(namespace.file(), CloneFlags::CLONE_NEWNET)?;
        let netlink = Netlink::new(NETLINK_SOCK_DIAG).map_err(|error| errno(&error))?;
        netlink
            .connect(&NetlinkAddr::new(0, 0))
            .map_err(|error| errno(&error))?;
        setsockopt(&netlink, ReceiveTimeout, &PATIENCE)?;
        Ok(Self {
            netlink,
            sequence: 0,
            buffer: Vec::with_capacity(LONGEST_DATAGRAM),
        })
    }

    /// Ends the socket with the ends and the cookie of `socket`, one that is bound to no device; ENOENT if there is none.
    pub(super) fn end(&mut self, socket: &Socket) -> Result<(), Errno> {
        let (local, remote) = (socket.local, socket.remote);
        let family = match local.ip() {
            IpAddr::V4(_) => AF_INET,
            IpAddr::V6(_) => AF_INET6,
        };
        let id = SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: 0,
            cookie: cookie(socket),
        };
        self.destroy(socket, family, id)
    }

    /// The same by looking at the kernel's whole table, for all of `sockets`, which have one protocol: finds those that are bound to
    /// a device, too, and those whose own end is not known. What became of each that was found, by its index.
    pub(super) fn find_and_end(&mut self, sockets: &[&Socket]) -> Result<Vec<Found>, Errno> {
        let mut ended = Vec::new();
        // A socket for IPv6 may speak IPv4.
        for family in [AF_INET, AF_INET6] {
            for (index, id) in self.find(sockets, family)? {
                ended.push((index, self.destroy(sockets[index], family, id)));
            }
        }
        Ok(ended)
    }

    fn destroy(&mut self, socket: &Socket, family: u8, id: SocketId) -> Result<(), Errno> {
        let request = SockDiagDestroy::new(request(socket, family, id));
        self.send(NLM_F_REQUEST | NLM_F_ACK, request)?;
        loop {
            for answer in self.receive()? {
                if let NetlinkPayload::Error(answer) = answer {
                    return answer.code.map_or(Ok(()), |code| Err(from_code(code.get())));
                }
            }
        }
    }

    /// What the kernel calls those of `sockets` that it has. EPROTONOSUPPORT if it cannot look.
    fn find(&mut self, sockets: &[&Socket], family: u8) -> Result<Vec<(usize, SocketId)>, Errno> {
        let Some(first) = sockets.first() else {
            return Ok(Vec::new());
        };
        let cookies: HashMap<[u8; 8], usize> = sockets.iter().map(|socket| cookie(socket)).zip(0..).collect();
        // The kernel looks at all, but tells only of those with these ports.
        let common = |port: fn(&Socket) -> u16| {
            let port_of_first = port(first);
            let is_common = sockets.iter().all(|socket| port(socket) == port_of_first);
            if is_common { port_of_first } else { 0 }
        };
        let any = IpAddr::V6(Ipv6Addr::UNSPECIFIED);
        let ports = SocketId {
            source_port: common(|socket| socket.local.port()),
            destination_port: common(|socket| socket.remote.port()),
            source_address: any,
            destination_address: any,
            interface_id: 0,
            cookie: [0xff; 8],
        };
        self.send(NLM_F_REQUEST | NLM_F_DUMP, request(first, family, ports))?;
        let mut found = Vec::new();
        loop {
            for answer in self.receive()? {
                let code = match answer {
                    NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(one)) => {
                        let id = one.header.socket_id;
                        found.extend(cookies.get(&id.cookie).map(|index| (*index, id)));
                        continue;
                    }
                    NetlinkPayload::Error(answer) => answer.raw_code(),
                    NetlinkPayload::Done(answer) => answer.code,
                    _ => continue,
                };
                return match code {
                    // Only sockets can be missing, which is no error: here the kernel has nobody to ask for them.
                    code if code == -libc::ENOENT => Err(Errno::EPROTONOSUPPORT),
                    code if code < 0 => Err(from_code(code)),
                    _ => Ok(found),
                };
            }
        }
    }

    fn send<M: NetlinkSerializable>(&mut self, flags: u16, message: M) -> Result<(), Errno> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.netlink.send(&bytes, 0).map_err(|error| errno(&error))?;
        Ok(())
    }

    /// The answers of one datagram to the last request.
    fn receive(&mut self) -> Result<Vec<NetlinkPayload<SockDiagMessage>>, Errno> {
        self.buffer.clear();
        self.netlink
            .recv(&mut self.buffer, 0)
            .map_err(|error| errno(&error))?;
        let mut answers = Vec::new();
        let mut rest = &self.buffer[..];
        while !rest.is_empty() {
            let answer: NetlinkMessage<SockDiagMessage> =
                NetlinkMessage::deserialize(rest).map_err(|_| Errno::EBADMSG)?;
            let length = (answer.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
            if answer.header.sequence_number == self.sequence {
                answers.push(answer.payload);
            }
        }
        Ok(answers)
    }
}

fn request(socket: &Socket, family: u8, socket_id: SocketId) -> SockDiagMessage {
    SockDiagMessage::InetRequest(InetRequest {
        family,
        protocol: socket.protocol as u8,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    })
}

/// Two words of the kernel's `inet_diag_sockid`, the lower half first.
fn cookie(socket: &Socket) -> [u8; 8] {
    let [low, high] = [socket.cookie as u32, (socket.cookie >> 32) as u32].map(u32::to_ne_bytes);
    let mut words = [0; 8];
    words[..4].copy_from_slice(&low);
    words[4..].copy_from_slice(&high);
    words
}

/// The error of an answer, which the kernel gives as its negative.
fn from_code(code: i32) -> Errno {
    Errno::from_raw(code.saturating_neg())
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
