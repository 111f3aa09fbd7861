// SPDX-License-Identifier: Apache-2.0
//! Connections that are older than the agent: metered from its start on at the server's end, if their server is in the mesh.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
};

use nodemesh_agent::api::{Connection, Vantage};
use nodemesh_e2e::{
    bed::{Bed, Family},
    cgroup::Cgroup,
    eventually::eventually,
    manifest::{Manifest, Service},
    process::{Place, Process, binary},
    scrape::Scrape,
    topology::Pod,
};

/// A connection to a model server that stays open between requests.
struct Client(TcpStream);

impl Client {
    /// Connects from `pod` and has one request answered, so that the server has accepted.
    fn connect(pod: &Pod, server: SocketAddr) -> Self {
        let stream = pod.netns().run(|| TcpStream::connect(server));
        let mut client = Self(stream.expect("a network namespace").expect("a connection"));
        client.request();
        client
    }

    /// A request that is answered by a stream of tokens.
    fn request(&mut self) {
        let body = r#"{"prompt": "x", "stream": true, "max_tokens": 5}"#;
        let head = "POST /v1/completions HTTP/1.1\r\nHost: m\r\nContent-Type: application/json";
        write!(self.0, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).expect("send a request");
        let mut answer = Vec::new();
        while !answer.ends_with(b"0\r\n\r\n") {
            let mut part = [0; 4_096];
            let read = self.0.read(&mut part).expect("read the response");
            let so_far = String::from_utf8_lossy(&answer);
            assert!(read > 0, "the response breaks off: {so_far}");
            answer.extend_from_slice(&part[..read]);
        }
        assert!(answer.starts_with(b"HTTP/1.1 200 "));
    }
}

fn serve(place: &Place, address: SocketAddr) -> Process {
    let address = address.to_string();
    let flags = ["--listen", &address, "--prefill", "20ms", "--inter-token", "5ms"];
    let server = Process::spawn(place, &binary("model-server"), &flags).expect("start a model server");
    server
        .wait_for_line(|line| line.starts_with("listening on"))
        .expect("a model server that listens");
    server
}

/// Connections at the server's end.
fn accepted(bed: &Bed) -> Vec<Connection> {
    let output = bed
        .agent
        .cli(&["connections", "--vantage", "server", "-o", "json"])
        .expect("nodemesh connections");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn adopted(bed: &Bed) -> u64 {
    bed.agent
        .status()
        .expect("nodemesh status")
        .datapath
        .meter
        .adopted
}

fn scrape(bed: &Bed) -> Scrape {
    let (code, text) = bed.agent.http(&bed.a, "/metrics").expect("a scrape");
    assert_eq!(code, 200, "{text}");
    Scrape::parse(&text).expect("a scrape")
}

/// Waits until the backend has this many finished requests at the server's end; how many of them were timed.
fn timed(bed: &Bed, backend: SocketAddr, requests: u64) -> u64 {
    let backend = backend.to_string();
    let labels = [("backend", &*backend), ("vantage", "server")];
    let success = [labels[0], labels[1], ("outcome", "success")];
    let scrape = eventually(
        "the ends of the requests",
        || scrape(bed),
        |scrape| scrape.sum("nodemesh_requests_total", &success) >= requests as f64,
    );
    assert_eq!(scrape.count("nodemesh_requests_total", &success), requests);
    let timed = [
        "time_to_first_byte_seconds_count",
        "time_to_first_token_seconds_count",
        "stream_duration_seconds_count",
    ]
    .map(|family| scrape.count(&format!("nodemesh_{family}"), &labels));
    assert!(timed.iter().all(|count| *count == timed[0]), "{timed:?}");
    timed[0]
}

#[test]
fn connections_older_than_the_agent_are_metered_if_their_server_is_in_its_cgroup() {
    let mut bed = Bed::new();
    let pod = bed.a.pod("models").expect("a pod");
    let (_container, inner) = bed.nested(&pod, "container");
    let beside = bed.a.cgroup().parent().expect("the cgroup of the topology");
    let outside = Cgroup::create(beside, "outside").expect("a cgroup");
    let elsewhere = Place {
        cgroup: outside.path().into(),
        ..pod.place()
    };
    let at = |port| SocketAddr::new(pod.v4(), port);
    let (mine, nested, other) = (at(9_001), at(9_002), at(9_003));
    let _servers = [(&pod.place(), mine), (&inner, nested), (&elsewhere, other)]
        .map(|(place, address)| serve(place, address));
    let [mut client, _idle, mut stranger] = [mine, nested, other].map(|to| Client::connect(&bed.client, to));

    let services = (1..)
        .zip([mine, nested, other])
        .map(|(number, backend)| Service::new(&format!("m{number}"), Family::V4.vip(number)).to([backend]));
    bed.start(&Manifest::of(services), &[]);
    let mut found = accepted(&bed);
    found.sort_by(|one, other| one.backend.cmp(&other.backend));
    let backends: Vec<&str> = found.iter().map(|one| &*one.backend).collect();
    assert_eq!(backends, [mine, nested].map(|one| one.to_string()), "{found:?}");
    for one in &found {
        assert!(one.adopted && one.vantage == Vantage::Server, "{one:?}");
        assert_eq!((one.requests_total, &*one.state), (0, "established"), "{one:?}");
    }
    assert_eq!(adopted(&bed), 2);
    assert_eq!(scrape(&bed).count("nodemesh_adopted_connections", &[]), 2);

    stranger.request();
    client.request();
    assert_eq!(timed(&bed, mine, 1), 0, "the first request is not timed");
    client.request();
    assert_eq!(timed(&bed, mine, 2), 1);
    let strange = [("backend", &*other.to_string())];
    let metered = scrape(&bed).sum("nodemesh_metered_connections_total", &strange);
    assert!(
        metered.abs() < f64::EPSILON,
        "{metered} connections of a stranger"
    );

    // Who has a record keeps it.
    assert!(bed.agent.stop().expect("stop the agent").success());
    bed.agent.start(&[]).expect("start the agent again");
    assert_eq!((adopted(&bed), accepted(&bed).len()), (0, 2));
    client.request();
    assert_eq!(timed(&bed, mine, 3), 2);
}
