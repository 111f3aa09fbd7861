// SPDX-License-Identifier: Apache-2.0
//! Connections whose requests cannot be told apart: they are counted as such, and nothing is said of their times.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
};

use nodemesh_agent::api::{Traffic, Vantage};
use nodemesh_e2e::{
    bed::Family,
    eventually::eventually,
    manifest::{Manifest, Service},
    process::Process,
    real::{H2Load, Scene, curl, h2load, tool},
};

use crate::{
    lab::{Lab, Spot, Wire},
    line::Line,
};

const UPGRADE: &str = include_str!("upgrade.py");
const VANTAGES: [Vantage; 2] = [Vantage::Client, Vantage::Server];

/// Panics unless all `sockets` of a row are ambiguous and nothing was timed or counted of their requests.
#[track_caller]
fn assert_silent(what: &str, row: &Traffic, sockets: u64) {
    let timed = [
        &row.time_to_first_byte,
        &row.time_to_first_token,
        &row.inter_token_latency,
        &row.stream_duration,
    ];
    let timed: u64 = timed.iter().flat_map(|histogram| &histogram.counts).sum();
    let requests: u64 = row.requests.values().sum();
    assert_eq!(
        (
            row.ambiguous_sockets,
            row.connections_total,
            timed,
            requests,
            row.chunks,
            row.requests_in_flight
        ),
        (sockets, sockets, 0, 0, 0, 0),
        "{what}: {row:#?}"
    );
    assert!(
        row.response_bytes_total > 1_000,
        "bytes are counted: {what}: {row:#?}"
    );
}

/// Clients send two requests at once.
pub fn pipelined(path: &'static str) {
    let lab = Lab::new(path, &["--prefill 40ms --inter-token 10ms".to_owned()]);
    let spot = Spot {
        server: 0,
        wire: Wire::Plain,
    };
    let line = "--mode keep-alive --pipeline 2 --requests 24 --concurrency 4 --max-tokens 6";
    let (report, _) = lab.client(spot, line).ended();
    assert_eq!(report["requests"]["ok"], 24, "{report:#}");
    for vantage in VANTAGES {
        let row = lab.row(spot, vantage, |row| {
            row.open_connections == 0 && row.connections_total > 0
        });
        assert_silent(&format!("{path}, pipelined, {vantage:?}"), &row, 4);
    }
    assert!(
        lab.lines().iter().all(|line| !line.is_request()),
        "no line of a request"
    );
    lab.assert_nothing_was_lost();
}

/// A server changes the protocol, and another one speaks HTTP/2 under TLS.
pub fn other_protocols(path: &'static str) {
    let mut scene = Scene::new();
    let [upgrades, http2] = [1, 2].map(|number| SocketAddr::new(scene.server.v4(), scene.port(number)));
    let _echo = start_echo(&scene, upgrades);
    let _nghttpd = start_nghttpd(&scene, http2);
    let services = [(1, upgrades), (2, http2)]
        .map(|(number, backend)| Service::new(&format!("m{number}"), Family::V4.vip(number)).to([backend]));
    let flags = ["--access-log", "json", "--meter-path", path];
    scene.bed.start(&Manifest::of(services), &flags);

    talk(&scene, Family::V4.vip(1));
    let url = format!("https://{}/index.html", Family::V4.vip(2));
    let transfers = curl(scene.client(), &[&*url; 4], &["--http2", "--insecure"]);
    assert_eq!(
        transfers.iter().map(|one| one.num_connects).sum::<u32>(),
        1,
        "{transfers:?}"
    );
    // Its requests come together with its settings, and so do the answers.
    let all = H2Load {
        succeeded: 60,
        failed: 0,
    };
    assert_eq!(
        h2load(scene.client(), &url, &["-n", "60", "-c", "3", "-m", "5"]),
        all
    );
    for (backend, sockets, protocol) in [(upgrades, 1, "other"), (http2, 4, "tls_http2")] {
        for vantage in VANTAGES {
            let what = format!("{path}, {protocol}, {vantage:?}");
            let over = |row: &Traffic| row.open_connections == 0 && row.connections_total == sockets;
            assert_silent(&what, &scene.traffic(backend, vantage, over), sockets);
            let look = || -> Vec<Line> {
                let lines = scene.bed.agent.process().stdout();
                let lines = lines.iter().map(|line| Line::parse(line));
                lines
                    .filter(|line| line.backend == backend && line.vantage == vantage)
                    .collect()
            };
            let lines = eventually("lines of connections", look, |lines| {
                lines.len() as u64 >= sockets
            });
            let told = lines
                .iter()
                .all(|line| !line.is_request() && line.protocol == protocol);
            assert!(told && lines.len() as u64 == sockets, "{what}: {lines:#?}");
        }
    }
    scene.bed.assert_no_internal_error();
}

fn start_echo(scene: &Scene, at: SocketAddr) -> Process {
    let python = tool::python().display().to_string();
    let (ip, port) = (at.ip().to_string(), at.port().to_string());
    let server = scene.server.serve(&python, &["-c", UPGRADE, "serve", &ip, &port]);
    server.expect("start a server")
}

fn talk(scene: &Scene, to: SocketAddr) {
    let python = tool::python().display().to_string();
    let (ip, port) = (to.ip().to_string(), to.port().to_string());
    let client = scene
        .client()
        .spawn(&python, &["-c", UPGRADE, "talk", &ip, &port]);
    let (status, said) = client.and_then(Process::finish).expect("a client that ends");
    assert!(status.success(), "{said}");
}

/// nghttpd with TLS, which offers nothing but HTTP/2 by ALPN.
fn start_nghttpd(scene: &Scene, at: SocketAddr) -> Process {
    let (certificates, folder) = (scene.certificates(), scene.folder());
    fs::write(folder.join("index.html"), [b'x'; 1000]).expect("write a page");
    let [ip, folder, port] =
        [&at.ip() as &dyn ToString, &folder.display(), &at.port()].map(ToString::to_string);
    let [cert, key] = [certificates.cert, certificates.key].map(|file| file.display().to_string());
    let program = tool::system("nghttpd").display().to_string();
    let arguments = ["--address", &ip, "--htdocs", &folder, &port, &key, &cert];
    let server = scene.server.spawn(&program, &arguments).expect("start nghttpd");
    let answers = || {
        scene
            .server
            .netns()
            .run(|| TcpStream::connect(at).is_ok())
            .expect("a namespace")
    };
    eventually("nghttpd listens", answers, |answers| *answers);
    server
}
