// SPDX-License-Identifier: Apache-2.0
//! Real clients talk to real servers without the mesh: what the meter's tests take for granted of them holds.

use std::time::Duration;

use nix::sys::signal::Signal;
use nodemesh_e2e::{
    process::was_killed,
    real::{Client, H2Load, Kind, Nghttpd, Scene, Server, curl, h2load},
};

const PREFILL: &str = "150";
const MS: u64 = 1_000_000;

/// What a server runs on.
struct Stack {
    name: &'static str,
    flags: &'static [&'static str],
    tls: bool,
}

const STACKS: [Stack; 4] = [
    Stack {
        name: "h11",
        flags: &["--http", "h11"],
        tls: false,
    },
    Stack {
        name: "httptools",
        flags: &["--http", "httptools", "--role"],
        tls: false,
    },
    Stack {
        name: "httptools with Nagle's algorithm",
        flags: &["--http", "httptools", "--nagle"],
        tls: false,
    },
    Stack {
        name: "h11 under TLS",
        flags: &["--http", "h11", "--role"],
        tls: true,
    },
];

fn serve(scene: &Scene, number: u16, stack: &Stack) -> Server {
    let flags = [&["--prefill", PREFILL], stack.flags].concat();
    if stack.tls {
        Server::sse_tls(
            &scene.server,
            scene.port(0) + number,
            &scene.certificates(),
            &flags,
        )
    } else {
        Server::sse(&scene.server, scene.port(0) + number, &flags)
    }
}

#[test]
fn the_openai_sdk_streams_from_every_stack() {
    let scene = Scene::new();
    for (number, stack) in (1..).zip(&STACKS) {
        let server = serve(&scene, number, stack);
        let client = Client::openai(scene.client(), &server, server.address, &["--requests", "3"]);
        let (told, truth) = (client.leave(), server.truth_of(3));
        assert_eq!(
            (told.ended_with("ok"), truth.ended_with("ok")),
            (3, 3),
            "{}",
            stack.name
        );
        for (sent, received) in truth.exchanges.iter().zip(&told.exchanges) {
            assert_eq!((sent.tokens(), received.tokens()), (10, 10), "{}", stack.name);
            let headers_alone = sent.time_to_first_token_ns() - sent.time_to_first_byte_ns();
            assert!(headers_alone > 100 * MS, "{}: {sent:#?}", stack.name);
            assert!(
                received.first_token_ns() > sent.first_token_ns(),
                "{}: clocks agree",
                stack.name
            );
            let role = usize::from(stack.flags.contains(&"--role"));
            assert_eq!(sent.of(Kind::Role).count(), role, "{}", stack.name);
        }
    }
}

#[test]
fn the_openai_sdk_gets_whole_answers() {
    let scene = Scene::new();
    let server = serve(&scene, 1, &STACKS[0]);
    let client = Client::openai(
        scene.client(),
        &server,
        server.address,
        &["--whole", "--requests", "2"],
    );
    let (told, truth) = (client.leave(), server.truth_of(2));
    assert_eq!((told.ended_with("ok"), truth.ended_with("ok")), (2, 2));
    for exchange in &truth.exchanges {
        assert_eq!((exchange.tokens(), exchange.of(Kind::Body).count()), (0, 1));
        assert!(exchange.time_to_first_byte_ns() > 300 * MS, "{exchange:#?}");
    }
}

#[test]
fn httpx_shares_its_pool_and_gives_up() {
    let scene = Scene::new();
    for (number, stack) in (1..).zip([&STACKS[1], &STACKS[3]]) {
        let server = serve(&scene, number, stack);
        let ask = |flags: &[&str]| Client::httpx(scene.client(), &server, server.address, flags);
        let told = ask(&["--requests", "8", "--concurrency", "4"]).leave();
        let truth = server.truth_of(8);
        assert_eq!(
            (told.ended_with("ok"), truth.ended_with("ok")),
            (8, 8),
            "{}",
            stack.name
        );
        assert_eq!(
            (told.connections(), truth.connections()),
            (4, 4),
            "{}",
            stack.name
        );

        assert_eq!(
            ask(&["--close-after-chunks", "3"]).leave().ended_with("closed"),
            1
        );
        assert_eq!(
            ask(&["--close-after", "50"]).leave().ended_with("TimeoutError"),
            1
        );
        let mut killed = ask(&[]);
        killed.wait_for("chunk");
        killed.process.signal(Signal::SIGKILL).unwrap();
        assert!(was_killed(killed.process.wait().unwrap()));
        let truth = server.truth_of(11);
        assert_eq!(truth.ended_with("ok"), 8, "{}: {truth:#?}", stack.name);
        assert!(
            truth.exchanges[8..].iter().all(|one| one.disconnected),
            "{truth:#?}"
        );
    }
}

#[test]
fn curl_uses_its_connection_again() {
    let scene = Scene::new();
    let server = serve(&scene, 1, &STACKS[0]);
    let url = server.url(server.address) + "/v1/chat/completions";
    let body = ["--json", r#"{"model": "scripted", "stream": true}"#];
    let transfers = curl(scene.client(), &[&url, &url], &body);
    let connects: Vec<u32> = transfers.iter().map(|transfer| transfer.num_connects).collect();
    assert_eq!(connects, [1, 0], "{transfers:?}");
    assert!(
        transfers
            .iter()
            .all(|one| one.http_code == 200 && one.time_total > 0.3),
        "{transfers:?}"
    );
    let truth = server.truth_of(2);
    assert_eq!((truth.ended_with("ok"), truth.connections()), (2, 1));
}

#[test]
fn h2load_asks_nghttpd_and_uvicorn() {
    let scene = Scene::new();
    let all = H2Load {
        succeeded: 200,
        failed: 0,
    };
    let nghttpd = Nghttpd::start(&scene.server, scene.port(1), &scene.folder());
    let url = format!("http://{}/index.html", nghttpd.address);
    assert_eq!(
        h2load(scene.client(), &url, &["-n", "200", "-c", "2", "-m", "10"]),
        all
    );
    let server = serve(&scene, 2, &STACKS[1]);
    let url = server.url(server.address) + "/health";
    assert_eq!(
        h2load(scene.client(), &url, &["--h1", "-n", "200", "-c", "4"]),
        all
    );
    let truth = server.truth_of(200);
    assert_eq!((truth.ended_with("ok"), truth.connections()), (200, 4));
}

#[test]
fn grpc_streams_share_a_connection() {
    let scene = Scene::new();
    let server = Server::grpc(&scene.server, scene.port(1), &["--prefill", PREFILL]);
    let flags = ["--streams", "4", "--rounds", "2", "--cancel-first-after", "3"];
    let told = Client::grpc(scene.client(), &server, server.address, &flags).leave();
    let truth = server.truth_of(8);
    for one in [&told, &truth] {
        assert_eq!(
            (one.ended_with("ok"), one.ended_with("CANCELLED")),
            (7, 1),
            "{one:#?}"
        );
    }
    assert_eq!(truth.connections(), 1, "{truth:#?}");
    assert!(
        told.exchanges
            .iter()
            .all(|one| one.time_to_first_token_ns() > 140 * MS)
    );
    let spread = Duration::from_nanos(
        truth.exchanges[3]
            .requested_ns
            .abs_diff(truth.exchanges[0].requested_ns),
    );
    assert!(
        spread < Duration::from_millis(100),
        "the streams of a round are open together: {spread:?}"
    );
}
