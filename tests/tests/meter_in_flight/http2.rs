// SPDX-License-Identifier: Apache-2.0
//! HTTP/2 in plaintext: many requests of one connection end at once when it does.

use nix::sys::signal::Signal;
use nodemesh_agent::api::{Traffic, Vantage};
use nodemesh_e2e::{
    eventually::eventually,
    process::Process,
    real::{Client, Nghttpd, Scene, Server, tool},
};

use super::{mesh::VANTAGES, watch::Watch};

/// Streams of a client.
const STREAMS: u64 = 40;

/// Waits until both ends of the server's backend have `open` requests in flight.
#[track_caller]
fn wait_for(scene: &Scene, server: &Server, open: u64) -> [Traffic; 2] {
    VANTAGES.map(|vantage| scene.traffic(server.address, vantage, |row| row.requests_in_flight == open))
}

/// Ends the agent by `signal` and starts it again.
fn restart(scene: &mut Scene, signal: Signal) {
    let agent = scene.bed.agent.take_process();
    agent.signal(signal).expect("signal the agent");
    let (_, log) = agent.finish().expect("the agent ends");
    assert!(!log.contains("drifted"), "{log}");
    scene.bed.agent.start(&[]).expect("start the agent");
}

#[test]
fn streams_of_grpc_that_end_with_their_connection() {
    let mut scene = Scene::new();
    let slow = [
        "--workers",
        "200",
        "--prefill",
        "1000",
        "--inter-token",
        "500",
        "--tokens",
        "2000",
    ];
    let server = Server::grpc(&scene.server, scene.port(1), &slow);
    let services = scene.mesh(&[server.address]);
    let watch = Watch::start(&scene.bed.a.pins());
    let streams = STREAMS.to_string();
    let ask = |flags: &[&str]| {
        let flags = [&["--streams", &streams], flags].concat();
        Client::grpc(scene.client(), &server, services[0], &flags)
    };
    let mut clients = Vec::from([(); 4].map(|()| ask(&[])));
    let cancelling = ask(&["--cancel-first-after", "1"]);
    wait_for(&scene, &server, STREAMS * 5 - 1);
    // A process that is stopped neither closes nor resets.
    clients[0].process.signal(Signal::SIGSTOP).expect("stop a client");
    restart(&mut scene, Signal::SIGKILL);
    wait_for(&scene, &server, STREAMS * 5 - 1);
    drop(cancelling);
    wait_for(&scene, &server, STREAMS * 4);
    drop(clients.pop());
    restart(&mut scene, Signal::SIGTERM);
    let rows = wait_for(&scene, &server, STREAMS * 3);
    assert_eq!(rows.map(|row| row.open_connections), [3, 3]);
    drop(clients);
    let rows = wait_for(&scene, &server, 0);
    // The server may still have said how its streams ended, to a client that was not there any more.
    assert_eq!(rows[0].requests["canceled"], STREAMS * 5, "{:#?}", rows[0]);
    for row in rows {
        assert_eq!(row.requests.values().sum::<u64>(), STREAMS * 5, "{row:#?}");
        assert_eq!(row.request_bytes_in_flight, 0, "{row:#?}");
    }
    at_rest(&scene, watch);
}

#[test]
fn bursts_of_h2load_that_is_killed() {
    let mut scene = Scene::new();
    let server = Nghttpd::start(&scene.server, scene.port(1), &scene.folder());
    let services = scene.mesh(&[server.address]);
    let watch = Watch::start(&scene.bed.a.pins());
    let url = format!("http://{}/index.html", services[0]);
    let h2load = || {
        let flags = ["-n", "100000000", "-c", "8", "-m", "50", &url];
        let program = tool::system("h2load").to_string_lossy().into_owned();
        scene.client().spawn(&program, &flags).expect("start h2load")
    };
    for round in 1..=5 {
        let client: Process = h2load();
        let busy = |row: &Traffic| row.requests["success"] > round * 2_000 && row.open_connections == 8;
        scene.traffic(server.address, Vantage::Server, busy);
        client.signal(Signal::SIGKILL).expect("kill h2load");
        drop(client);
        for vantage in VANTAGES {
            let over = |row: &Traffic| row.open_connections == 0;
            let row = scene.traffic(server.address, vantage, over);
            assert_eq!(
                (row.requests_in_flight, row.request_bytes_in_flight),
                (0, 0),
                "{row:#?}"
            );
            assert_eq!(row.connections_total, round * 8, "{row:#?}");
        }
    }
    at_rest(&scene, watch);
}

/// Panics unless nothing is left, and nothing was ever wrong.
fn at_rest(scene: &Scene, watch: Watch) {
    eventually("nothing is left in the kernel", || watch.left(), Vec::is_empty);
    let datapath = scene.bed.agent.status().expect("a status").datapath;
    assert_eq!(datapath.meter.corrections, 0, "{:?}", datapath.meter);
    let mut errors = datapath.internal_errors;
    // At full speed, lines of the access log and streams that find no slot are left out, and counted.
    errors.retain(|name, count| *count > 0 && !["access_record", "stream_record"].contains(&&**name));
    assert!(errors.is_empty(), "{errors:?}");
    let seen = watch.stop();
    assert!(seen.negative.is_empty() && seen.most_in_flight > 0, "{seen:#?}");
}
