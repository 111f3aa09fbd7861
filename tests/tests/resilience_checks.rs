// SPDX-License-Identifier: Apache-2.0
//! Health checks by the agent: which of them take a replica out and bring it back, whose they are, and what they outrank.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{collections::BTreeSet, net::SocketAddr};

use nodemesh_agent::api::{Event, EventKind};
use nodemesh_e2e::{
    bed::{Bed, Family, HealthServer, ModelServer, Replica, connect, once},
    eventually::eventually,
    manifest::{AccessPolicy, Manifest, Policy, Service},
    process::Place,
    scrape::Scrape,
};
use serde_json::{Value, json};

const REFUSED: &str = "ECONNREFUSED";
/// Where the client's node is; its name is `a`.
const HERE: [&str; 2] = ["--locality", "eu/west"];

/// A service `name` at the `number`th address, checked as `check` says, in turn.
fn checked(name: &str, number: u8, backends: &[SocketAddr], check: &Value) -> [Value; 2] {
    let mut check = check.clone();
    for (field, default) in [("interval", json!("100ms")), ("unhealthyThreshold", json!(2))] {
        let fields = check.as_object_mut().unwrap();
        fields.entry(field).or_insert(default);
    }
    let service = Service::new(name, Family::V4.vip(number)).to(backends.iter().copied());
    let policy = Policy::of(name)
        .algorithm("round-robin")
        .set("healthChecks", check)
        .set(
            "outlierDetection",
            json!({"baseEjectionTime": "1h", "maxEjectionTime": "1h", "maxEjectionPercent": 100}),
        );
    [service.into(), policy.into()]
}

/// Waits until events of this kind and reason have come about so many services.
fn events_of(bed: &Bed, kind: EventKind, reason: Option<&str>, services: usize) -> Vec<Event> {
    let of_reason = || {
        let mut events = bed.events(kind);
        events.retain(|event| reason.is_none() || event.reason.as_deref() == reason);
        events
    };
    let names = |events: &Vec<Event>| {
        events
            .iter()
            .map(|event| event.service.clone())
            .collect::<BTreeSet<_>>()
    };
    eventually(kind.word(), of_reason, |events| names(events).len() >= services)
}

#[test]
fn a_check_of_each_kind_takes_a_replica_out_and_brings_it_back() {
    let mut bed = Bed::new();
    let pods = [bed.b.pod("failing").unwrap(), bed.b.pod("well").unwrap()];
    let replicas = ["failing", "well"].map(|name| {
        let pod = &pods[usize::from(name == "well")];
        Replica::start(pod, name, 9000)
    });
    let backends = replicas.each_ref().map(|replica| replica.at(Family::V4));
    let [failing, _well] = pods.each_ref().map(|pod| HealthServer::start(pod, 9100));
    let mut ports = pods
        .iter()
        .map(|pod| Replica::start(pod, "port", 9101))
        .collect::<Vec<_>>();
    let manifest = Manifest::of(
        [
            checked("tcp", 1, &backends, &json!({"kind": "tcp", "port": 9101})),
            checked(
                "http",
                2,
                &backends,
                &json!({"kind": "http", "port": 9100, "path": "/live"}),
            ),
            checked("grpc", 3, &backends, &json!({"kind": "grpc", "port": 9100})),
        ]
        .concat(),
    );
    bed.start(&manifest, &[]);
    let place = bed.client.place();
    let ask = |service: u8| connect(&place, Family::V4.vip(service), &["--count", "10"]);
    for service in 1..=3 {
        assert_eq!(ask(service).of("failing"), 5, "{service}");
    }
    failing.set(false);
    drop(ports.remove(0));
    let ejected = events_of(&bed, EventKind::Ejected, Some("health_check"), 3);
    assert_eq!(ejected.len(), 3, "{ejected:#?}");
    for event in &ejected {
        assert_eq!(event.backend, Some(backends[0].to_string()));
        assert!(event.ejected_seconds.unwrap() > 1.0, "{event:?}");
    }
    for service in 1..=3 {
        assert_eq!(ask(service).replicas, once("well", 10), "{service}");
    }
    failing.set(true);
    ports.push(Replica::start(&pods[0], "port", 9101));
    let readmitted = events_of(&bed, EventKind::Readmitted, None, 3);
    assert_eq!(readmitted.len(), 3, "{readmitted:#?}");
    for service in 1..=3 {
        assert_eq!(ask(service).of("failing"), 5, "{service}");
    }
    assert_eq!(
        bed.events(EventKind::Probed),
        [],
        "the agent knows, nobody has to try"
    );
    bed.assert_no_internal_error();
}

#[test]
fn backends_are_checked_by_their_own_node_or_by_every_one() {
    let mut bed = Bed::new();
    let near = bed.a.pod("near").unwrap();
    let servers = [
        HealthServer::start(&near, 9000),
        HealthServer::start(&bed.server, 9000),
    ];
    let [here, there] = [&near, &bed.server].map(|pod| SocketAddr::new(pod.v4(), 9000));
    let cases = [
        ("own", "backend-node", here, Some("eu/west/a"), true),
        ("other", "backend-node", there, Some("eu/west/b"), false),
        ("every", "every-node", there, Some("eu/west/b"), true),
        ("unplaced", "backend-node", there, None, true),
    ];
    let resources = (1..)
        .zip(cases)
        .flat_map(|(number, (name, from, backend, place, _))| {
            let service = Service::new(name, Family::V4.vip(number));
            let service = match place {
                Some(place) => service.located(backend, place),
                None => service.to([backend]),
            };
            let check =
                json!({"kind": "http", "path": format!("/{name}"), "interval": "100ms", "from": from});
            [
                Value::from(service),
                Policy::of(name).set("healthChecks", check).into(),
            ]
        });
    bed.start(&Manifest::of(resources.collect::<Vec<_>>()), &HERE);
    let asked = || {
        let asked = servers.each_ref().map(HealthServer::asked);
        cases.map(|(name, ..)| {
            asked
                .iter()
                .filter_map(|asked| asked.get(&format!("/{name}")))
                .sum::<u64>()
        })
    };
    let counts = eventually("checks", asked, |counts| {
        counts.iter().filter(|count| **count >= 10).count() == 3
    });
    for ((name, .., is_checked), count) in cases.iter().zip(counts) {
        assert_eq!(*is_checked, count > 0, "{name}: {counts:?}");
    }
}

#[test]
fn who_fails_its_health_checks_is_not_readmitted_by_what_it_answers() {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    let backends = [0, 1].map(|index: usize| replicas[index].at(Family::V4));
    let health = HealthServer::start(&bed.server, 9100);
    let check = json!({"kind": "http", "port": 9100});
    bed.start(&Manifest::of(checked("echo", 1, &backends, &check)), &[]);
    let (place, to) = (bed.client.place(), Family::V4.vip(1));
    connect(&place, to, &["--count", "4"]).assert_all_ok(4);
    drop(replicas);
    connect(&place, to, &["--count", "4"]).assert_all_failed(4, REFUSED);
    let ejected = bed.eventually_events(EventKind::Ejected, 2);
    assert!(
        ejected
            .iter()
            .all(|event| event.reason.as_deref() == Some("connect")),
        "{ejected:#?}"
    );
    health.set(false);
    let by_check = || bed.events(EventKind::Ejected);
    let ejected = eventually("the check is the reason", by_check, |events| events.len() >= 4);
    let of_check = ejected
        .iter()
        .filter(|event| event.reason.as_deref() == Some("health_check"));
    assert_eq!(
        of_check
            .map(|event| &event.backend)
            .collect::<BTreeSet<_>>()
            .len(),
        2,
        "{ejected:#?}"
    );
    // All are out, so all are used; that they answer proves nothing.
    let _back = bed.replicas(2);
    connect(&place, to, &["--count", "40"]).assert_all_ok(40);
    let checks = health.asked()["/health"];
    eventually(
        "more checks",
        || health.asked()["/health"],
        |now| *now > checks + 10,
    );
    assert_eq!(bed.events(EventKind::Readmitted), []);
    assert_eq!(bed.events(EventKind::Ejected).len(), 4, "no back and forth");
    let scrape = || Scrape::parse(&bed.agent.http(&bed.a, "/metrics").unwrap().1).unwrap();
    let counted =
        |scrape: &Scrape, reason| scrape.count("nodemesh_backend_ejections_total", &[("reason", reason)]);
    let seen = scrape();
    assert_eq!(
        ["connect", "health_check"].map(|reason| counted(&seen, reason)),
        [2, 2]
    );
    assert_eq!(seen.count("nodemesh_backend_ejected", &[("state", "waiting")]), 2);
    health.set(true);
    assert_eq!(bed.eventually_events(EventKind::Readmitted, 2).len(), 2);
    assert!(scrape().sum("nodemesh_backend_ejected", &[("state", "waiting")]) < 1.0);
    connect(&place, to, &["--count", "10"]).assert_all_ok(10);
    bed.assert_no_internal_error();
}

/// What a process in the network of the node, which is no workload, meets at `to`.
fn from_node(bed: &Bed, to: SocketAddr, flags: &[&str]) -> bool {
    let place = Place {
        netns: bed.a.netns().path(),
        ..bed.client.place()
    };
    connect(&place, to, &[&["--timeout", "400ms"], flags].concat()).ok == 1
}

#[test]
fn a_node_reaches_its_own_replicas_where_a_policy_denies_by_default() {
    let mut bed = Bed::new();
    let near = bed.a.pod("near").unwrap();
    let model = ModelServer::start(&near, 9000, &[]);
    let replica = Replica::start(&near, "r", 9001);
    let direct = replica.at(Family::V4);
    let service = Service::new("echo", Family::V4.vip(1));
    let service = service
        .located(model.address, "eu/west/a")
        .located(direct, "eu/west/a");
    let check = json!({"kind": "http", "port": 9000, "interval": "100ms", "unhealthyThreshold": 2});
    let with = |policy: AccessPolicy| {
        let detection = json!({"maxEjectionPercent": 100});
        let rules = Policy::of("echo")
            .set("healthChecks", check.clone())
            .set("outlierDetection", detection);
        Manifest::of([service.clone()]).and(rules).and(policy)
    };
    let closed = || AccessPolicy::of_all().default("deny");
    bed.start(&with(closed()), &HERE);
    let (mut looks, accepted) = (0, model.accepted(near.netns()));
    eventually(
        "health checks",
        || {
            looks += 1;
            model.accepted(near.netns()) - accepted - looks
        },
        |checks| *checks >= 10,
    );
    assert_eq!(bed.events(EventKind::Ejected), []);
    assert!(from_node(&bed, direct, &[]), "as a kubelet probes");
    let stranger = connect(&bed.client.place(), direct, &["--timeout", "400ms"]);
    stranger.assert_all_failed(1, "TIMEOUT");
    connect(&bed.client.place(), Family::V4.vip(1), &[]).assert_all_failed(1, "EACCES");

    let explain = |address: &str| {
        let output = bed
            .agent
            .cli(&["policy", "explain", address, "models/echo"])
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let by_rule = |text: &String| text.contains("AccessPolicy nodemesh-system/node, node");
    assert!(by_rule(&explain("10.1.0.1")), "{}", explain("10.1.0.1"));

    // An address that comes later, such as that of a bridge, and goes.
    let late = ["--bind", "10.1.0.200"];
    let address = |verb: &str| {
        bed.a
            .netns()
            .configure(&[format!("addr {verb} 10.1.0.200/32 dev br0")])
            .unwrap();
    };
    address("add");
    eventually("it is known", || from_node(&bed, direct, &late), |is_in| *is_in);
    address("del");
    eventually("it is forgotten", || explain("10.1.0.200"), |text| !by_rule(text));

    // What denies the node by name wins.
    let node = json!({"namespaces": ["nodemesh-system"], "workloads": ["node"]});
    bed.apply(&with(closed().rule("deny", [node])));
    assert!(!from_node(&bed, direct, &[]));
    events_of(&bed, EventKind::Ejected, Some("health_check"), 1);
    bed.assert_no_internal_error();
}
