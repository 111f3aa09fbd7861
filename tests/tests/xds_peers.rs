// SPDX-License-Identifier: Apache-2.0
//! The control plane and the agent against xDS peers that other people wrote.

use std::{collections::BTreeSet, net::SocketAddr};

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Report, connect},
    cgroup::Cgroup,
    eventually::eventually,
    manifest::{Policy, Service},
    process::Place,
    real::xds::{
        AdsVariant, Control, Envoy, ForeignServer, GrpcBackend, GrpcClient, Said, assignment, cluster,
        listener, weighted_listener,
    },
};

const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

#[test]
fn calls_of_grpc_clients_follow_the_endpoints() {
    let (bed, folder) = (Bed::new(), tempfile::tempdir().expect("a folder"));
    let control = Control::start(&bed.client, folder.path());
    let servers =
        [("r0", 9000), ("r1", 9001)].map(|(name, port)| GrpcBackend::start(&bed.server, name, port));
    let service = || Service::new("llama", Family::V4.vip(1));
    control.apply(service().to([servers[0].address]));

    let mut client = GrpcClient::start(&bed.client, "grpc-1", "llama.models:8000");
    let calls = client.call(10);
    assert!(calls.reached(&["r0"]), "{calls:?}");
    let acked: BTreeSet<(String, String, String)> = client
        .status()
        .into_iter()
        .map(|resource| (resource.r#type, resource.name, resource.status))
        .collect();
    let expected = [
        (LISTENER, "llama.models:8000"),
        (ROUTE, "models/llama/8000"),
        (CLUSTER, "models/llama/8000"),
        (ENDPOINTS, "models/llama/8000"),
    ];
    let expected = expected.map(|(of, name)| (of.to_owned(), name.to_owned(), "ACKED".to_owned()));
    assert_eq!(acked, BTreeSet::from(expected));

    control.apply(service().to(servers.iter().map(|server| server.address)));
    eventually(
        "calls to both",
        || client.call(8),
        |calls| calls.reached(&["r0", "r1"]),
    );
    control.apply(
        service()
            .in_state(servers[0].address, "draining")
            .to([servers[1].address]),
    );
    eventually(
        "calls to the other",
        || client.call(8),
        |calls| calls.reached(&["r1"]),
    );
    let calls = client.call(20);
    assert!(calls.reached(&["r1"]), "{calls:?}");
    let statuses = client.status();
    assert!(
        statuses.iter().all(|resource| resource.status == "ACKED"),
        "{statuses:?}"
    );

    let node = eventually("the node", || control.node("grpc-1"), Option::is_some).expect("it is connected");
    assert!(
        node.types.iter().all(|of_type| of_type.nack_message.is_empty()),
        "{node:?}"
    );
    assert!(node.version.starts_with("gRPC C-core"), "{node:?}");

    control.delete("Service", "llama");
    let gone = eventually(
        "no more calls",
        || client.call(2),
        |calls| calls.servers.is_empty(),
    );
    assert!(!gone.errors.is_empty(), "{gone:?}");
}

#[test]
fn envoy_takes_all_over_delta() {
    envoy_takes_all(AdsVariant::Delta);
}

#[test]
fn envoy_takes_all_over_state_of_the_world() {
    envoy_takes_all(AdsVariant::StateOfTheWorld);
}

/// The algorithms, each of a service of its own.
const ALGORITHMS: [&str; 4] = ["random", "round-robin", "least-request", "maglev"];

fn envoy_takes_all(variant: AdsVariant) {
    let (bed, folder) = (Bed::new(), tempfile::tempdir().expect("a folder"));
    let mut control = Control::start(&bed.client, folder.path());
    let replicas = bed.replicas(2);
    let both = || replicas.iter().map(|replica| replica.at(Family::V4));
    for (number, algorithm) in (1..).zip(ALGORITHMS) {
        let name = format!("m{number}");
        control.apply(Service::new(&name, Family::V4.vip(number)).to(both()));
        control.apply(Policy::of(&name).algorithm(algorithm));
    }
    control.apply(Service::new("m5", Family::V6.vip(5)).to([replicas[0].at(Family::V6)]));
    control.apply(
        Service::new("m6", Family::V4.vip(6))
            .udp()
            .to([replicas[0].at(Family::V4)]),
    );
    let local = |number| format!("addr add {}/32 dev lo", Family::V4.vip(number).ip());
    let mut addresses: Vec<String> = [1, 2, 3, 4, 6, 7].map(local).to_vec();
    addresses.push(format!("addr add {}/128 dev lo nodad", Family::V6.vip(5).ip()));
    bed.client.netns().configure(&addresses).expect("add addresses");

    let envoy = Envoy::start(&bed.client, folder.path(), "envoy-1", variant);
    let listening = names(&[
        "m1/8000/v4",
        "m2/8000/v4",
        "m3/8000/v4",
        "m4/8000/v4",
        "m5/8000/v6",
        "m6/8000/udp/v4",
    ]);
    let clusters = names(&[
        "m1/8000",
        "m2/8000",
        "m3/8000",
        "m4/8000",
        "m5/8000",
        "m6/8000/udp",
    ]);
    let in_use = eventually(
        "listeners",
        || envoy.in_use(),
        |in_use| in_use["listeners"] == listening,
    );
    assert_eq!(in_use["clusters"], clusters);
    assert_eq!(in_use["endpoints"], clusters);
    for number in 1..=4 {
        let report = connect(&bed.client.place(), Family::V4.vip(number), &["--count", "40"]);
        report.assert_all_ok(40);
        // One client is one key of Maglev.
        let expected = if number == 4 { 1 } else { 2 };
        assert_eq!(
            report.replicas.len(),
            expected,
            "{}: {report:?}",
            ALGORITHMS[usize::from(number) - 1]
        );
    }
    connect(&bed.client.place(), Family::V6.vip(5), &["--count", "3"]).assert_all_ok(3);

    control.apply(Service::new("m1", Family::V4.vip(1)).to([replicas[1].at(Family::V4)]));
    reaches(&bed, Family::V4.vip(1), "r1");
    control.delete("Service", "m2");
    eventually(
        "no listener",
        || envoy.in_use(),
        |in_use| {
            !in_use["listeners"].contains("models/m2/8000/v4")
                && !in_use["clusters"].contains("models/m2/8000")
        },
    );
    accepted(&envoy, &control);

    // It goes on while there is no control plane, and is told what it missed and nothing else.
    let before = envoy.stats();
    control.restart();
    control.apply(Service::new("m7", Family::V4.vip(7)).to([replicas[1].at(Family::V4)]));
    eventually(
        "the new listener",
        || envoy.in_use(),
        |in_use| in_use["listeners"].contains("models/m7/8000/v4"),
    );
    reaches(&bed, Family::V4.vip(7), "r1");
    let after = envoy.stats();
    if variant == AdsVariant::Delta {
        for endpoints in ["m1/8000", "m3/8000", "m4/8000", "m5/8000"] {
            let counter = format!("cluster.models/{endpoints}.update_success");
            assert_eq!(
                after[&counter], before[&counter],
                "{counter}: nothing was sent again"
            );
        }
    }
    accepted(&envoy, &control);
}

fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| format!("models/{name}")).collect()
}

/// Waits until `replica` alone is reached at `service`.
fn reaches(bed: &Bed, service: SocketAddr, replica: &str) {
    let ask = || connect(&bed.client.place(), service, &["--count", "10"]);
    eventually("the replica", ask, |report| report.of(replica) == 10);
}

/// Neither end knows of anything that was rejected.
fn accepted(envoy: &Envoy<'_>, control: &Control<'_>) {
    let stats = envoy.stats();
    let rejected = |(name, count): &(&String, &u64)| name.ends_with("update_rejected") && **count > 0;
    let rejections: Vec<_> = stats.iter().filter(rejected).collect();
    assert!(rejections.is_empty(), "{rejections:?}: {:?}", envoy.log());
    assert!(
        stats["cluster_manager.cds.update_success"] > 0 && stats["listener_manager.lds.update_success"] > 0
    );
    let node = eventually("the node", || control.node("envoy-1"), Option::is_some).expect("it is connected");
    assert!(
        node.types.iter().all(|of_type| of_type.nack_message.is_empty()),
        "{node:?}"
    );
    assert_eq!(node.version, "envoy/1.40.0");
}

/// A foreign server on the loopback of node `a`, and the agent of that node.
struct Abroad {
    bed: Bed,
    server: ForeignServer,
    replicas: Vec<Replica>,
    folder: tempfile::TempDir,
    _cgroup: Cgroup,
}

impl Abroad {
    fn new() -> Self {
        let bed = Bed::new();
        let cgroup = Cgroup::create(bed.a.cgroup(), "control").expect("a cgroup");
        let place = Place {
            netns: bed.a.netns().path(),
            cgroup: cgroup.path().into(),
        };
        Self {
            server: ForeignServer::start(&place),
            replicas: bed.replicas(3),
            folder: tempfile::tempdir().expect("a folder"),
            _cgroup: cgroup,
            bed,
        }
    }

    fn start_agent(&mut self) {
        let control = format!("http://{}", ForeignServer::ADDRESS);
        let state = self.folder.path().display().to_string();
        let flags = [
            "--control",
            &control,
            "--state-dir",
            &state,
            "--node-name",
            "node-a",
        ];
        self.bed.agent.start(&flags).expect("start the agent");
    }

    fn endpoint(&self, replica: usize, health: &'static str) -> (std::net::IpAddr, u16, &'static str) {
        let at = self.replicas[replica].at(Family::V4);
        (at.ip(), at.port(), health)
    }

    fn connect(&self, number: u8, count: &str) -> Report {
        connect(
            &self.bed.client.place(),
            Family::V4.vip(number),
            &["--count", count],
        )
    }

    fn reaches(&self, number: u8, replica: &str) {
        reaches(&self.bed, Family::V4.vip(number), replica);
    }

    fn said(&self, what: &str, is_right: impl Fn(&Said) -> bool) -> Said {
        let look = || self.server.said().into_iter().rev().find(|said| is_right(said));
        eventually(what, look, Option::is_some).expect("it was found")
    }
}

#[test]
fn a_foreign_server_steers_the_agent() {
    let mut abroad = Abroad::new();
    let leads = |to: &str| listener("front", Family::V4.vip(1), to);
    let one = cluster("one", "ROUND_ROBIN");
    let of_one = |abroad: &Abroad, replica| assignment("one", &[abroad.endpoint(replica, "HEALTHY")]);
    abroad
        .server
        .publish(&[leads("one"), one.clone(), of_one(&abroad, 0)]);
    abroad.start_agent();
    abroad.reaches(1, "r0");
    let first = abroad.said("the first request", |said| {
        said.event == "request" && !said.node.is_empty()
    });
    assert_eq!((first.variant.as_str(), first.node.as_str()), ("delta", "node-a"));
    let by_name = abroad.said("endpoints by name", |said| {
        said.r#type == ENDPOINTS && !said.subscribe.is_empty()
    });
    assert_eq!(by_name.subscribe, ["one"]);
    for of_type in [LISTENER, CLUSTER, ENDPOINTS] {
        abroad.said("an answer", |said| said.event == "ack" && said.r#type == of_type);
    }

    // Another endpoint.
    abroad
        .server
        .publish(&[leads("one"), one.clone(), of_one(&abroad, 1)]);
    abroad.reaches(1, "r1");
    // One that drains, and one that is not well.
    let health = [
        abroad.endpoint(0, "HEALTHY"),
        abroad.endpoint(1, "DRAINING"),
        abroad.endpoint(2, "UNHEALTHY"),
    ];
    abroad
        .server
        .publish(&[leads("one"), one.clone(), assignment("one", &health)]);
    abroad.reaches(1, "r0");
    // Another cluster.
    let other = [
        cluster("other", "RANDOM"),
        assignment("other", &[abroad.endpoint(2, "HEALTHY")]),
    ];
    abroad
        .server
        .publish(&[&[leads("other"), one.clone(), of_one(&abroad, 0)], &other[..]].concat());
    abroad.reaches(1, "r2");
    // Both, by weight.
    let weighted = weighted_listener("front", Family::V4.vip(1), &[("one", 1), ("other", 1)]);
    abroad
        .server
        .publish(&[&[weighted, one, of_one(&abroad, 0)], &other[..]].concat());
    eventually(
        "both clusters",
        || abroad.connect(1, "40"),
        |report| report.ok == 40 && report.of("r0") > 5 && report.of("r2") > 5,
    );
    // Nothing.
    abroad.server.publish(&[]);
    eventually("no service", || abroad.connect(1, "1"), |report| report.ok == 0);
    assert!(abroad.server.said().iter().all(|said| said.event != "nack"));
}

#[test]
fn a_bad_resource_of_a_foreign_server_is_refused_alone() {
    let mut abroad = Abroad::new();
    let resources = |abroad: &Abroad, port: u16| {
        let (ip, ..) = abroad.endpoint(0, "HEALTHY");
        [
            listener("good", Family::V4.vip(1), "good"),
            cluster("good", "ROUND_ROBIN"),
            assignment("good", &[abroad.endpoint(usize::from(port == 0), "HEALTHY")]),
            listener("bad", Family::V4.vip(2), "bad"),
            cluster("bad", "ROUND_ROBIN"),
            assignment("bad", &[(ip, port, "HEALTHY")]),
        ]
    };
    let port = abroad.endpoint(0, "HEALTHY").1;
    let valid = resources(&abroad, port);
    abroad.server.publish(&valid);
    abroad.start_agent();
    abroad.reaches(1, "r0");
    abroad.reaches(2, "r0");
    let invalid = resources(&abroad, 0);
    abroad.server.publish(&invalid);
    let nack = abroad.said("a rejection", |said| said.event == "nack");
    assert_eq!(nack.r#type, ENDPOINTS);
    assert!(
        nack.error.contains("bad") && nack.error.contains("port"),
        "{nack:?}"
    );
    // What came with it is taken, and the bad one stays as it was.
    abroad.reaches(1, "r1");
    abroad.reaches(2, "r0");
}

#[test]
fn an_agent_that_comes_back_to_a_foreign_server_has_what_it_had() {
    let mut abroad = Abroad::new();
    let service = |number: u8, abroad: &Abroad, replica: usize| {
        let name = format!("s{number}");
        [
            listener(&name, Family::V4.vip(number), &name),
            cluster(&name, "ROUND_ROBIN"),
            assignment(&name, &[abroad.endpoint(replica, "HEALTHY")]),
        ]
    };
    let two = [service(1, &abroad, 0), service(2, &abroad, 1)].concat();
    abroad.server.publish(&two);
    abroad.start_agent();
    abroad.reaches(1, "r0");
    abroad.reaches(2, "r1");
    abroad.server.end_streams();
    let back = abroad.said("what it has", |said| {
        said.r#type == CLUSTER && !said.initial.is_empty()
    });
    assert_eq!(back.initial.keys().collect::<Vec<_>>(), ["s1", "s2"]);
    abroad.connect(1, "5").assert_all_ok(5);
    let one = service(1, &abroad, 2).to_vec();
    abroad.server.publish(&one);
    abroad.reaches(1, "r2");
    eventually(
        "the other is gone",
        || abroad.connect(2, "1"),
        |report| report.ok == 0,
    );
}
