// SPDX-License-Identifier: Apache-2.0
//! Real sockets, in network namespaces of their own: these tests need root.

use std::{
    collections::HashSet,
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    process::{Child, Command},
};

use nix::{
    sched::{CloneFlags, unshare},
    sys::socket::{setsockopt, sockopt},
};
use nodemesh_abi::{Ip16, Port};
use socket2::SockRef;
use zerocopy::FromZeros as _;

use super::*;

/// A process that keeps a namespace findable.
struct Resident(Child);

impl Drop for Resident {
    fn drop(&mut self) {
        // It ends by itself in an hour.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `work` on a thread in a network namespace of its own, whose loopback device is up. It is given what ends sockets from
/// outside.
fn in_own_namespace<T: Send + 'static>(work: impl FnOnce(&Sockets) -> T + Send + 'static) -> T {
    let sockets = Sockets::start().expect("a thread");
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status();
        assert!(up.expect("run ip").success());
        let resident = Command::new("sleep").arg("3600").spawn();
        let _resident = Resident(resident.expect("run sleep"));
        work(&sockets)
    });
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// The socket behind a descriptor, of this process.
fn socket(protocol: Protocol, descriptor: &impl AsFd, local: SocketAddr, remote: SocketAddr) -> Socket {
    let canonical = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    Socket {
        protocol,
        local: canonical(local),
        remote: canonical(remote),
        cookie: SockRef::from(descriptor).cookie().expect("a cookie"),
        tgid: std::process::id(),
    }
}

fn tcp(stream: &TcpStream) -> Socket {
    let ends = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
    socket(Protocol::Tcp, stream, ends.0, ends.1)
}

/// Both ends of a connection to `address`.
fn connected(address: &str) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = TcpStream::connect((address, port)).unwrap();
    (client, listener.accept().unwrap().0)
}

fn assert_aborted(stream: &mut TcpStream) {
    let error = stream.read(&mut [0]).expect_err("the socket was ended");
    let kinds = [ErrorKind::ConnectionAborted, ErrorKind::ConnectionReset];
    assert!(kinds.contains(&error.kind()), "{error}");
}

/// Panics unless both ends still talk.
fn assert_talking((client, server): &mut (TcpStream, TcpStream)) {
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
}

const ADDRESSES: [&str; 3] = ["127.0.0.1", "::1", "::ffff:127.0.0.1"];

#[test]
fn the_tcp_socket_that_is_meant_is_ended_and_no_other() {
    in_own_namespace(|sockets| {
        for address in ADDRESSES {
            let mut pair = connected(address);
            let mut other = connected(address);
            let meant = tcp(&pair.0);
            let mistaken = Socket {
                cookie: meant.cookie + 1_000_000,
                ..meant
            };
            assert_eq!(
                sockets.end_now(vec![mistaken]),
                Ok(vec![Ending::NotFound]),
                "{address}"
            );
            assert_talking(&mut pair);
            assert_eq!(sockets.end_now(vec![meant]), Ok(vec![Ending::Ended]), "{address}");
            assert_aborted(&mut pair.0);
            assert_aborted(&mut pair.1);
            assert_talking(&mut other);
            let closed = sockets.end_now(vec![meant]);
            assert_eq!(
                closed,
                Ok(vec![Ending::NotFound]),
                "{address}: it is over already"
            );
        }
    });
}

#[test]
fn a_socket_of_which_no_process_is_known_is_found_in_any_namespace() {
    in_own_namespace(|sockets| {
        let mut pairs: Vec<_> = ADDRESSES.iter().map(|address| connected(address)).collect();
        // The ends that the servers have, as the record of a server's socket names them.
        let mut all: Vec<Socket> = pairs.iter().map(|pair| tcp(&pair.1)).collect();
        for socket in &mut all {
            socket.tgid = 0;
        }
        let ended = sockets.end_now(all).unwrap();
        assert_eq!(ended, [Ending::Ended; 3]);
        for (_, server) in &mut pairs {
            assert_aborted(server);
        }
    });
}

#[test]
fn udp_sockets_are_ended() {
    in_own_namespace(|sockets| {
        for address in ADDRESSES {
            let server = UdpSocket::bind((address, 0)).unwrap();
            let client = UdpSocket::bind((address, 0)).unwrap();
            client.connect(server.local_addr().unwrap()).unwrap();
            let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            let meant = socket(Protocol::Udp, &client, ends.0, ends.1);
            let unknown_end = Socket {
                local: SocketAddr::new(meant.local.ip(), 0),
                ..meant
            };
            let as_tcp = Socket {
                protocol: Protocol::Tcp,
                ..meant
            };
            let ended = sockets.end_now(vec![as_tcp, unknown_end]).unwrap();
            assert_eq!(ended, [Ending::NotFound, Ending::Ended], "{address}");
            let error = client.recv(&mut [0]).expect_err("the socket was ended");
            assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{address}");
        }
    });
}

#[test]
fn what_its_ends_do_not_find_is_found_by_its_cookie() {
    in_own_namespace(|sockets| {
        for address in ADDRESSES {
            let (bound, _server) = connected(address);
            setsockopt(&bound, sockopt::BindToDevice, &"lo".into()).unwrap();
            let (half_known, _server) = connected(address);
            let half_known_socket = Socket {
                local: SocketAddr::new(Ip16::UNSPECIFIED.into(), 0),
                ..tcp(&half_known)
            };
            let of_nobody = Socket {
                tgid: 0,
                ..tcp(&bound)
            };
            let ended = sockets.end_now(vec![of_nobody, half_known_socket]).unwrap();
            assert_eq!(ended, [Ending::Ended; 2], "{address}");
            for mut stream in [bound, half_known] {
                assert_aborted(&mut stream);
            }
        }
    });
}

#[test]
fn a_large_batch_is_done_as_a_whole() {
    in_own_namespace(|sockets| {
        let mut pairs: Vec<_> = (0..300).map(|_| connected("127.0.0.1")).collect();
        let batch: Vec<Socket> = pairs
            .iter()
            .map(|(client, _)| tcp(client))
            .enumerate()
            .map(|(place, socket)| {
                if place % 4 < 2 {
                    Socket { tgid: 0, ..socket }
                } else {
                    socket
                }
            })
            .collect();
        let ended = sockets.end_now(batch.clone()).unwrap();
        assert_eq!(ended, vec![Ending::Ended; 300]);
        for (client, _) in &mut pairs {
            assert_aborted(client);
        }
        assert_eq!(sockets.end_now(batch), Ok(vec![Ending::NotFound; 300]));
    });
}

#[test]
fn who_may_not_is_told_so() {
    let (mut client, mut server) = connected("127.0.0.1");
    let meant = tcp(&client);
    let endings = thread::spawn(move || {
        // SAFETY: takes numbers only. Called without the C library, which would change every thread of the process.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65_534, 65_534, 65_534) };
        assert_eq!(result, 0, "these tests need root");
        search::end(&[meant, Socket { tgid: 0, ..meant }])
    });
    assert_eq!(endings.join().unwrap(), [Ending::NotPermitted; 2]);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
}

#[test]
fn every_namespace_is_given_once() {
    in_own_namespace(|_| {
        use std::os::unix::fs::MetadataExt as _;
        let inode = |file: &std::fs::File| file.metadata().unwrap().ino();
        let own = inode(&std::fs::File::open("/proc/thread-self/ns/net").unwrap());
        for found in [
            namespaces::all().collect::<Vec<_>>(),
            namespaces::of_process(std::process::id()).collect(),
        ] {
            // A process that may not be looked at is none of ours.
            let inodes: Vec<u64> = found.iter().flatten().map(|found| inode(found.file())).collect();
            let distinct: HashSet<u64> = inodes.iter().copied().collect();
            assert!(inodes.contains(&own) && inodes.len() > 1);
            assert_eq!(inodes.len(), distinct.len(), "{inodes:?}");
        }
    });
    assert_eq!(namespaces::of_process(u32::MAX).count(), 0);
}

#[test]
fn a_thread_that_is_busy_takes_no_more_than_it_can_queue() {
    let sockets = Sockets::start().unwrap();
    let (go_on, wait) = mpsc::channel::<()>();
    let blocked = sockets.end(Vec::new(), move |ended| {
        assert!(ended.is_empty());
        wait.recv().unwrap();
    });
    assert_eq!(blocked, Ok(()));
    let mut taken = 0;
    while sockets.end(Vec::new(), drop) == Ok(()) {
        taken += 1;
        assert!(taken <= QUEUE + 1, "the queue has no end");
    }
    assert_eq!(sockets.end(Vec::new(), drop), Err(EndError::Busy));
    go_on.send(()).unwrap();
}

#[test]
fn each_error_has_its_ending() {
    for (error, ending) in [
        // A kernel without CONFIG_INET_DIAG_DESTROY.
        (Errno::EOPNOTSUPP, Ending::NotSupported),
        // A kernel without the modules.
        (Errno::EPROTONOSUPPORT, Ending::NotSupported),
        (Errno::EPERM, Ending::NotPermitted),
        (Errno::EACCES, Ending::NotPermitted),
        (Errno::ENOBUFS, Ending::Failed(Errno::ENOBUFS)),
    ] {
        assert_eq!(search::ending(error), ending, "{error}");
    }
}

#[test]
fn a_record_names_the_socket_at_its_own_end() {
    let mut record = Connection::new_zeroed();
    record.client_addr = IpAddr::from([10, 0, 0, 1]).into();
    record.client_port = Port::new(40_000);
    record.backend_addr = IpAddr::from([10, 0, 0, 2]).into();
    record.backend_port = Port::new(80);
    (record.cookie, record.tgid) = (7, 8);
    record.protocol = Protocol::Udp as u16;
    record.meter.vantage = Vantage::Client as _;
    let (client, backend) = ("10.0.0.1:40000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
    let expected = Socket {
        protocol: Protocol::Udp,
        local: client,
        remote: backend,
        cookie: 7,
        tgid: 8,
    };
    assert_eq!(Socket::of(&record), expected);
    record.meter.vantage = Vantage::Server as _;
    record.protocol = Protocol::Tcp as u16;
    let expected = Socket {
        protocol: Protocol::Tcp,
        local: backend,
        remote: client,
        ..expected
    };
    assert_eq!(Socket::of(&record), expected);
}
