// SPDX-License-Identifier: Apache-2.0
//! The meter against real clients and servers: what it counts is what they did, and what it times is what they timed. Each test runs
//! for both ways in which the meter sees bytes.

use nix::sys::signal::Signal;
use nodemesh_agent::api::{Traffic, Vantage};
use nodemesh_e2e::real::{Client, Exchange, H2Load, Nghttpd, Scene, Server, Truth, curl, h2load};
use serde_json::{Value, json};

/// How far the meter may be from the server's own clock, which is read beside the system call.
const TOLERANCE: f64 = 0.005;
const VANTAGES: [(Vantage, &str); 2] = [(Vantage::Client, "client"), (Vantage::Server, "server")];

/// A server of the mesh, and how it answers.
struct Stack {
    name: &'static str,
    flags: &'static [&'static str],
}

/// Long beside what a busy machine takes to send headers: under TLS the meter has nothing but gaps to tell them from a token.
const PREFILL: [&str; 2] = ["--prefill", "600"];

const STACKS: [Stack; 6] = [
    Stack {
        name: "h11",
        flags: &["--http", "h11"],
    },
    Stack {
        name: "httptools",
        flags: &["--http", "httptools"],
    },
    Stack {
        name: "role at once, Nagle's algorithm",
        flags: &["--http", "httptools", "--role", "--nagle"],
    },
    Stack {
        name: "heartbeats",
        flags: &["--http", "h11", "--heartbeat", "150"],
    },
    Stack {
        name: "role and heartbeats",
        flags: &["--http", "httptools", "--role", "--heartbeat", "150"],
    },
    Stack {
        name: "four tokens at a time",
        flags: &["--http", "h11", "--tokens", "40", "--tokens-per-write", "4"],
    },
];

impl Stack {
    fn flags(&self) -> Vec<&'static str> {
        [&PREFILL, self.flags].concat()
    }
}

macro_rules! on_path {
    ($path:ident: $($test:ident)*) => {
        mod $path {
            $(
                #[test]
                fn $test() {
                    super::$test(stringify!($path));
                }
            )*
        }
    };
}

macro_rules! on_both_paths {
    ($($test:ident)*) => {
        on_path!(tracepoint: $($test)*);
        on_path!(packet: $($test)*);
    };
}

on_both_paths! {
    streams_in_plaintext_are_told_as_the_server_tells_them
    streams_under_tls_are_told_as_the_server_tells_them
    requests_of_a_kept_connection_are_counted_one_by_one
    whole_answers_have_no_first_token
    open_requests_are_in_flight_until_the_client_gives_up
    curl_is_counted_twice_on_one_connection
    a_burst_of_requests_is_counted_exactly
    each_grpc_stream_is_a_request
}

/// The rows of `server` at both vantages, once `count` requests are over; checks that nothing is left, and nothing else was seen.
#[track_caller]
fn at_rest(
    scene: &Scene,
    address: std::net::SocketAddr,
    name: &str,
    outcomes: &[(&str, u64)],
) -> [Traffic; 2] {
    let count: u64 = outcomes.iter().map(|(_, count)| count).sum();
    VANTAGES.map(|(vantage, word)| {
        let over = |row: &Traffic| row.requests_in_flight == 0 && row.requests.values().sum::<u64>() >= count;
        let row = scene.traffic(address, vantage, over);
        let seen: Vec<(&str, u64)> = row
            .requests
            .iter()
            .filter(|(_, count)| **count > 0)
            .map(|(outcome, count)| (&**outcome, *count))
            .collect();
        assert_eq!(seen, outcomes, "{name}, {word}: {row:#?}");
        assert_eq!(
            (row.request_bytes_in_flight, row.ambiguous_sockets),
            (0, 0),
            "{name}, {word}: {row:#?}"
        );
        row
    })
}

/// Pairs the access log at the server's vantage with the server's own log: per client connection, in order.
#[track_caller]
fn paired<'a>(scene: &Scene, server: &Server, truth: &'a Truth) -> Vec<(Value, &'a Exchange)> {
    let mut lines = scene.access(server.address, "server", truth.exchanges.len());
    let key = |line: &Value| (line["client"].to_string(), line["started_monotonic_ns"].as_u64());
    lines.sort_by_key(key);
    let mut exchanges: Vec<&Exchange> = truth.exchanges.iter().collect();
    exchanges.sort_by_key(|one| (json!(one.client).to_string(), one.requested_ns));
    lines.into_iter().zip(exchanges).collect()
}

/// Panics unless a line tells the times and chunks of a stream as the server does.
#[track_caller]
fn assert_told(name: &str, line: &Value, exchange: &Exchange) {
    assert_eq!(line["client"], json!(exchange.client), "{name}");
    assert_eq!(line["outcome"], "success", "{name}: {line:#}");
    // Under TLS, tickets may come before the first byte of the first response, and cannot be told from it.
    if line["protocol"] != "tls" || !line["time_to_first_byte_seconds"].is_null() {
        let first = exchange.time_to_first_byte_ns();
        assert_near(name, line, "time_to_first_byte_seconds", first, exchange);
    }
    let first = exchange.time_to_first_token_ns();
    assert_near(name, line, "time_to_first_token_seconds", first, exchange);
    let chunks = line["chunks"].as_u64().expect("a number of chunks");
    assert!(
        exchange.emissions().contains(&chunks),
        "{name}: {chunks} chunks, not {:?}: {line:#} {exchange:#?}",
        exchange.emissions()
    );
}

/// Panics unless a time is about the server's own. It may be longer, since Python learns of a request when it has a processor and packets
/// do not wait for that; but not longer than since the first byte.
#[track_caller]
fn assert_near(name: &str, line: &Value, key: &str, expected_ns: u64, exchange: &Exchange) {
    let started = line["started_monotonic_ns"].as_u64().expect("a time");
    let read = exchange.read_ns.expect("a server's log");
    let least = expected_ns as f64 / 1e9;
    let most = least + read.saturating_sub(started) as f64 / 1e9;
    let is_near = line[key]
        .as_f64()
        .is_some_and(|told| (least - TOLERANCE..=most + TOLERANCE).contains(&told));
    assert!(is_near, "{name}: {key} is not from {least} to {most}: {line:#}");
}

/// Has the openai SDK stream from each server, and compares.
fn assert_streams_are_told(scene: &mut Scene, servers: &[Server], names: &[&str]) {
    let addresses: Vec<_> = servers.iter().map(|server| server.address).collect();
    let services = scene.mesh(&addresses);
    let ask = |(server, service)| Client::openai(scene.client(), server, service, &["--requests", "4"]);
    let clients: Vec<Client> = servers.iter().zip(services).map(ask).collect();
    for ((client, server), name) in clients.into_iter().zip(servers).zip(names) {
        let (told, truth) = (client.leave(), server.truth_of(4));
        assert_eq!((told.ended_with("ok"), truth.ended_with("ok")), (4, 4), "{name}");
        let [_, at_server] = at_rest(scene, server.address, name, &[("success", 4)]);
        assert_eq!(
            at_server.connections_total as usize,
            truth.connections(),
            "{name}"
        );
        let observed: u64 = at_server.time_to_first_token.counts.iter().sum();
        assert_eq!(observed, 4, "{name}: {at_server:#?}");
        for (line, exchange) in paired(scene, server, &truth) {
            assert_told(name, &line, exchange);
        }
    }
}

fn streams_in_plaintext_are_told_as_the_server_tells_them(path: &'static str) {
    let mut scene = Scene::by(path);
    let serve =
        |(number, stack): (u16, &Stack)| Server::sse(&scene.server, scene.port(0) + number, stack.flags);
    let servers: Vec<Server> = (1..).zip(&STACKS).map(serve).collect();
    assert_streams_are_told(&mut scene, &servers, &STACKS.each_ref().map(|stack| stack.name));
}

fn streams_under_tls_are_told_as_the_server_tells_them(path: &'static str) {
    let mut scene = Scene::by(path);
    let certificates = scene.certificates();
    let serve = |(number, stack): (u16, &Stack)| {
        Server::sse_tls(&scene.server, scene.port(number), &certificates, &stack.flags())
    };
    let servers: Vec<Server> = (1..).zip(&STACKS).map(serve).collect();
    assert_streams_are_told(&mut scene, &servers, &STACKS.each_ref().map(|stack| stack.name));
}

fn requests_of_a_kept_connection_are_counted_one_by_one(path: &'static str) {
    let mut scene = Scene::by(path);
    let certificates = scene.certificates();
    let servers = [
        Server::sse(&scene.server, scene.port(1), &STACKS[1].flags()),
        Server::sse_tls(&scene.server, scene.port(2), &certificates, &STACKS[0].flags()),
    ];
    let services = scene.mesh(&servers.each_ref().map(|server| server.address));
    let flags = ["--requests", "12", "--concurrency", "3"];
    let ask = |(server, service)| Client::httpx(scene.client(), server, service, &flags);
    let clients: Vec<Client> = servers.iter().zip(services).map(ask).collect();
    for ((client, server), name) in clients.iter().zip(&servers).zip(["plaintext", "TLS"]) {
        assert_eq!(client.done().ended_with("ok"), 12, "{name}");
        let truth = server.truth_of(12);
        for row in at_rest(&scene, server.address, name, &[("success", 12)]) {
            assert_eq!(
                (row.connections_total, row.open_connections),
                (3, 3),
                "{name}: {row:#?}"
            );
            assert_eq!(
                row.request_size.counts.iter().sum::<u64>(),
                12,
                "{name}: {row:#?}"
            );
        }
        for (line, exchange) in paired(&scene, server, &truth) {
            assert_told(name, &line, exchange);
        }
    }
}

fn whole_answers_have_no_first_token(path: &'static str) {
    let mut scene = Scene::by(path);
    let server = Server::sse(&scene.server, scene.port(1), &["--http", "h11"]);
    let services = scene.mesh(&[server.address]);
    let client = Client::openai(
        scene.client(),
        &server,
        services[0],
        &["--whole", "--requests", "3"],
    );
    assert_eq!(client.leave().ended_with("ok"), 3);
    let truth = server.truth_of(3);
    for row in at_rest(&scene, server.address, "whole", &[("success", 3)]) {
        assert_eq!((row.connections_total, row.chunks), (1, 0), "{row:#?}");
    }
    for (line, exchange) in paired(&scene, &server, &truth) {
        assert_near(
            "whole",
            &line,
            "time_to_first_byte_seconds",
            exchange.time_to_first_byte_ns(),
            exchange,
        );
        assert_eq!(line["time_to_first_token_seconds"], Value::Null, "{line:#}");
        assert_eq!(line["status"], "2xx", "{line:#}");
    }
}

fn open_requests_are_in_flight_until_the_client_gives_up(path: &'static str) {
    let mut scene = Scene::by(path);
    let server = Server::sse(
        &scene.server,
        scene.port(1),
        &["--prefill", "400", "--tokens", "500"],
    );
    let services = scene.mesh(&[server.address]);
    let ask = |flags: &[&str]| Client::httpx(scene.client(), &server, services[0], flags);
    let open = ask(&["--requests", "6", "--concurrency", "6", "--prompt-bytes", "30000"]);
    for (vantage, _) in VANTAGES {
        let all = |row: &Traffic| row.requests_in_flight == 6 && row.request_bytes_in_flight > 180_000;
        scene.traffic(server.address, vantage, all);
    }
    // Headers have come, and no token yet.
    let prefill = ask(&["--close-after", "100"]);
    assert_eq!(prefill.leave().ended_with("TimeoutError"), 1);
    let decode = ask(&["--close-after-chunks", "5"]);
    assert_eq!(decode.leave().ended_with("closed"), 1);
    open.wait_for("chunk");
    open.process.signal(Signal::SIGKILL).expect("a process");
    for row in at_rest(&scene, server.address, "given up", &[("canceled", 8)]) {
        assert_eq!(row.cancels.values().sum::<u64>(), 8, "{row:#?}");
        assert_eq!(row.open_connections, 0, "{row:#?}");
    }
}

fn curl_is_counted_twice_on_one_connection(path: &'static str) {
    let mut scene = Scene::by(path);
    let server = Server::sse(&scene.server, scene.port(1), &["--http", "httptools", "--role"]);
    let services = scene.mesh(&[server.address]);
    let url = server.url(services[0]) + "/v1/chat/completions";
    let body = ["--json", r#"{"model": "scripted", "stream": true}"#];
    let transfers = curl(scene.client(), &[&url, &url], &body);
    assert_eq!(
        transfers.iter().map(|one| one.num_connects).sum::<u32>(),
        1,
        "{transfers:?}"
    );
    let truth = server.truth_of(2);
    for row in at_rest(&scene, server.address, "curl", &[("success", 2)]) {
        assert_eq!(row.connections_total, 1, "{row:#?}");
    }
    for (line, exchange) in paired(&scene, &server, &truth) {
        assert_told("curl", &line, exchange);
    }
}

fn a_burst_of_requests_is_counted_exactly(path: &'static str) {
    let mut scene = Scene::by(path);
    let uvicorn = Server::sse(&scene.server, scene.port(1), &["--http", "httptools"]);
    let nghttpd = Nghttpd::start(&scene.server, scene.port(2), &scene.folder());
    let services = scene.mesh(&[uvicorn.address, nghttpd.address]);
    let all = H2Load {
        succeeded: 400,
        failed: 0,
    };
    let url = |index: usize, path| format!("http://{}{path}", services[index]);
    let http1 = ["--h1", "-n", "400", "-c", "4"];
    assert_eq!(h2load(scene.client(), &url(0, "/health"), &http1), all);
    let http2 = ["-n", "400", "-c", "2", "-m", "10"];
    assert_eq!(h2load(scene.client(), &url(1, "/index.html"), &http2), all);
    for (address, name, connections) in [(uvicorn.address, "http/1.1", 4), (nghttpd.address, "http/2", 2)] {
        for row in at_rest(&scene, address, name, &[("success", 400)]) {
            assert_eq!(row.connections_total, connections, "{name}: {row:#?}");
        }
    }
}

fn each_grpc_stream_is_a_request(path: &'static str) {
    let mut scene = Scene::by(path);
    let server = Server::grpc(&scene.server, scene.port(1), &[]);
    let services = scene.mesh(&[server.address]);
    let flags = ["--streams", "4", "--rounds", "2", "--cancel-first-after", "3"];
    let client = Client::grpc(scene.client(), &server, services[0], &flags);
    for (vantage, _) in VANTAGES {
        scene.traffic(server.address, vantage, |row| row.requests_in_flight == 4);
    }
    let told = client.done();
    assert_eq!((told.ended_with("ok"), told.ended_with("CANCELLED")), (7, 1));
    let truth = server.truth_of(8);
    for row in at_rest(&scene, server.address, "grpc", &[("canceled", 1), ("success", 7)]) {
        assert_eq!((row.connections_total, row.open_connections), (1, 1), "{row:#?}");
    }
    for line in scene.access(server.address, "server", 8) {
        // Streams of a round begin together, and are alike but for the one that was cancelled.
        let outcome = if line["outcome"] == "canceled" {
            "CANCELLED"
        } else {
            "ok"
        };
        let started = line["started_monotonic_ns"].as_u64().expect("a time");
        let alike = truth
            .exchanges
            .iter()
            .filter(|one| one.outcome() == Some(outcome));
        let told = line["time_to_first_token_seconds"].as_f64().expect("a time");
        let wrong = |one: &Exchange| {
            let first_token = one.first_token_ns().expect("a token");
            (told - (first_token as f64 - started as f64) / 1e9).abs()
        };
        let exchange = alike.min_by(|one, other| wrong(one).total_cmp(&wrong(other)));
        let exchange = exchange.expect("one of this outcome");
        assert!(wrong(exchange) <= TOLERANCE, "{line:#} {exchange:#?}");
        let chunks = line["chunks"].as_u64().expect("a number of chunks");
        assert!(exchange.emissions().contains(&chunks), "{line:#} {exchange:#?}");
    }
}
