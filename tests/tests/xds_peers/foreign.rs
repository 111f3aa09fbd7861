// SPDX-License-Identifier: Apache-2.0
//! The agent under a control plane of somebody else's: its listeners, clusters and endpoints steer real connections.

use std::net::IpAddr;

use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Report, connect},
    cgroup::Cgroup,
    eventually::eventually,
    process::Place,
    real::xds::{ForeignServer, Said, assignment, cluster, listener, weighted_listener},
};

use crate::{CLUSTER, ENDPOINTS, LISTENER, reaches};

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

    fn endpoint(&self, replica: usize, health: &'static str) -> (IpAddr, u16, &'static str) {
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
