// SPDX-License-Identifier: Apache-2.0
//! The near ends against the far end over loopback.

use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;

use clap::Parser as _;
use socket2::{Domain, Socket, Type};

use super::{Command, Options, bench, connect, serve, udp};

/// A far end with a runtime of its own, stopped when dropped.
struct Serving {
    address: SocketAddr,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the far end ends in order");
        }
    }
}

fn serving(name: &str) -> Serving {
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let (bound, address) = std::sync::mpsc::channel();
    let args = ["serve", "--listen", "127.0.0.1:0", "--name", name];
    let Command::Serve(args) = command(&args) else {
        unreachable!("the subcommand is `serve`")
    };
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let server = serve::Server::bind(&args).expect("a free port");
            bound.send(server.addresses[0]).expect("the test waits");
            let _: Result<(), _> = stopped.await;
        });
    });
    Serving {
        address: address.recv().expect("bound"),
        stop: Some(stop),
        thread: Some(thread),
    }
}

fn command(args: &[&str]) -> Command {
    Options::parse_from(["socket-probe"].iter().chain(args)).command
}

fn connect(address: SocketAddr, flags: &[&str]) -> connect::Report {
    let address = address.to_string();
    let Command::Connect(args) = command(&[&["connect", &address], flags].concat()) else {
        unreachable!("the subcommand is `connect`")
    };
    connect::probe(&args).expect("a socket").0
}

fn udp(flags: &[&str]) -> udp::Report {
    let Command::Udp(args) = command(&[&["udp"], flags].concat()) else {
        unreachable!("the subcommand is `udp`")
    };
    udp::run(&args).expect("a socket")
}

/// A socket on a free port, which is bound for as long as it lives but takes nothing: TCP does not listen, and UDP is
/// connected to somebody else. So no other test can get the port.
fn deaf(kind: Type) -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, kind, None).expect("a socket");
    let any_port: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    socket.bind(&any_port.into()).expect("a free port");
    if kind == Type::DGRAM {
        let somebody: SocketAddr = "127.0.0.2:9".parse().expect("an address");
        socket.connect(&somebody.into()).expect("no packet is sent");
    }
    let address = socket.local_addr().expect("bound").as_socket().expect("IPv4");
    (socket, address)
}

#[test]
fn connects_are_counted_by_name_and_peer() {
    let far = serving("alpha");
    for flags in [
        &["--count", "50", "--concurrency", "4"][..],
        &["--count", "50", "--nonblocking"],
        &["--count", "50", "--close", "rst"],
        &["--count", "50", "--bind", "127.0.0.9"],
        &["--count", "50", "--hold"],
    ] {
        let report = connect(far.address, flags);
        assert_eq!(
            (report.ok, report.errors.total()),
            (50, 0),
            "{flags:?}: {report:?}"
        );
        assert_eq!(
            (report.replicas.get("alpha"), report.peers.get(&far.address)),
            (50, 50),
            "{flags:?}"
        );
    }
    let report = connect(far.address, &["--family", "v6-mapped", "--bind", "127.0.0.9"]);
    assert_eq!(report.ok, 1, "{report:?}");
    assert_eq!(
        report
            .peers
            .get(&format!("[::ffff:127.0.0.1]:{}", far.address.port())),
        1,
        "{report:?}"
    );
}

#[test]
fn held_connections_are_open_at_the_same_time() {
    let far = serving("alpha");
    let address = far.address.to_string();
    let Command::Connect(args) = command(&[
        "connect",
        &address,
        "--count",
        "200",
        "--concurrency",
        "4",
        "--hold",
    ]) else {
        unreachable!("the subcommand is `connect`")
    };
    let (report, held) = connect::probe(&args).expect("a socket");
    assert_eq!((report.ok, held.len()), (200, 200));
    let locals: std::collections::BTreeSet<_> =
        held.iter().map(|stream| stream.local_addr().unwrap()).collect();
    assert_eq!(locals.len(), 200);
}

#[test]
fn every_errno_of_a_socket_is_told() {
    let (_bound, address) = deaf(Type::STREAM);
    for (flag, attempts) in [
        ("--bind=127.0.0.1", "ECONNREFUSED,ECONNREFUSED,ECONNREFUSED"),
        // The first error was fetched with SO_ERROR; the kernel still has to tell the next connect() that it failed.
        ("--nonblocking", "ECONNREFUSED,ECONNABORTED,ECONNREFUSED"),
    ] {
        let report = connect(address, &["--retry-on-same-socket", "2", flag]);
        assert_eq!(
            (report.ok, report.errors.get("ECONNREFUSED")),
            (0, 1),
            "{report:?}"
        );
        assert_eq!(report.attempts.get(attempts), 1, "{report:?}");
    }
    let report = connect(
        "127.0.0.1:1".parse().unwrap(),
        &["--bind", "127.0.0.1", "--count", "3"],
    );
    assert_eq!(report.attempts.get("ECONNREFUSED"), 3, "{report:?}");
}

#[test]
fn a_peer_without_a_name_is_an_error() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let report = connect(silent.local_addr().unwrap(), &["--timeout", "50"]);
    assert_eq!(
        (report.errors.get("TIMEOUT"), report.connect_ns.median() > 0),
        (1, true),
        "{report:?}"
    );
    let address = silent.local_addr().unwrap();
    let closing = std::thread::spawn(move || drop(silent.accept()));
    let report = connect(address, &[]);
    closing.join().unwrap();
    assert_eq!((report.ok, report.errors.total()), (0, 1), "{report:?}");
}

#[test]
fn datagrams_are_counted_by_name_and_source() {
    let far = serving("beta");
    let address = far.address.to_string();
    let report = udp(&[&address, "--count", "20", "--sockets", "3", "--interval", "1"]);
    assert_eq!(
        (report.ok, report.sent, report.errors.total()),
        (20, 20, 0),
        "{report:?}"
    );
    assert_eq!(
        (report.replicas.get("beta"), report.sources.get(&far.address)),
        (20, 20)
    );
    assert_eq!(
        (report.peers.total(), report.foreign_sources, report.stale),
        (0, 0, 0)
    );
    let report = udp(&[&address, "--count", "4", "--sockets", "2", "--connected"]);
    assert_eq!((report.ok, report.peers.get(&far.address)), (4, 2), "{report:?}");
}

#[test]
fn one_socket_talks_to_several_destinations() {
    let (first, second) = (serving("beta"), serving("gamma"));
    let report = udp(&[
        "--targets",
        &format!("{},{}", first.address, second.address),
        "--count",
        "10",
    ]);
    assert_eq!(
        (
            report.ok,
            report.replicas.get("beta"),
            report.replicas.get("gamma")
        ),
        (10, 5, 5),
        "{report:?}"
    );
    assert_eq!(report.targets[&second.address].sources.get(&second.address), 5);
}

#[test]
fn a_connected_socket_hears_that_nobody_listens() {
    let (_bound, address) = deaf(Type::DGRAM);
    let deaf = address.to_string();
    let report = udp(&[&deaf, "--connected", "--count", "2", "--timeout", "200ms"]);
    assert_eq!(
        (report.ok, report.errors.get("ECONNREFUSED")),
        (0, 2),
        "{report:?}"
    );
    let report = udp(&[&deaf, "--timeout", "20"]);
    assert_eq!(
        (report.errors.get("TIMEOUT"), report.failed_calls.get("recv")),
        (1, 1),
        "{report:?}"
    );
}

#[test]
fn every_address_is_measured_as_often() {
    let (first, second) = (serving("alpha"), serving("beta"));
    let (a, b) = (first.address.to_string(), second.address.to_string());
    for flags in [&["--udp"][..], &["--udp", "--fresh"], &["--exchange"], &[]] {
        let args = [
            &["bench-connect", &a, &b, "--count", "55", "--round", "10"],
            flags,
        ]
        .concat();
        let Command::BenchConnect(args) = command(&args) else {
            unreachable!("the subcommand is `bench-connect`")
        };
        let report = bench::run(&args).unwrap();
        assert_eq!(report.targets.len(), 2);
        for target in &report.targets {
            assert_eq!(
                (target.ok, target.errors.total()),
                (55, 0),
                "{flags:?}: {report:?}"
            );
            assert!(
                target.ns.median() > 0 && target.cpu_ns_per_op > 0.0,
                "{flags:?}: {report:?}"
            );
        }
    }
}

#[test]
fn the_command_line_refuses_what_makes_no_sense() {
    for args in [
        &["udp"][..],
        &["udp", "127.0.0.1:1", "--targets", "127.0.0.1:2"],
        &["udp", "--targets", "127.0.0.1:1,127.0.0.1:2", "--connected"],
        &["connect", "127.0.0.1:1", "--timeout", "0"],
        &["bench-connect", "--udp"],
        &["bench-connect", "127.0.0.1:1", "--udp", "--exchange"],
    ] {
        assert!(
            Options::try_parse_from(["socket-probe"].iter().chain(args)).is_err(),
            "{args:?}"
        );
    }
}
