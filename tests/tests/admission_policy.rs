// SPDX-License-Identifier: Apache-2.0
//! Who may connect: at `connect()` on the client's node, and at the server's node whatever the client's node does.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    fs,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use nodemesh_e2e::{
    agent::Agent,
    bed::{Bed, Family, Replica, Report, connect, once, udp},
    eventually::eventually,
    manifest::{AccessPolicy, Manifest, Service, workload},
    process::Place,
    scrape::Scrape,
    topology::{Node, Pod},
};
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

/// Long enough for an answer, short for a SYN that nobody answers.
const SHORT: [&str; 2] = ["--timeout", "400ms"];
/// What a client meets.
const IN: &str = "ok";
const DENIED: &str = "EACCES";
const SILENCE: &str = "TIMEOUT";

/// Clients of three kinds, an agent on either node, and a replica.
struct Scene {
    bed: Bed,
    other: Agent,
    batch: Pod,
    stranger: Pod,
    replicas: Vec<Replica>,
}

impl Scene {
    /// The agents do not run yet.
    fn new() -> Self {
        let bed = Bed::new();
        Self {
            other: bed.b.agent().unwrap(),
            batch: bed.a.pod("batch").unwrap(),
            stranger: bed.a.pod("stranger").unwrap(),
            replicas: bed.replicas(1),
            bed,
        }
    }

    /// The workloads of the clients; the stranger is none.
    fn workloads(&self) -> Manifest {
        let addresses = |pod: &Pod| json!([pod.v4(), pod.v6()]);
        let chat = json!({
            "cgroup": "client", "addresses": addresses(&self.bed.client),
            "identity": "spiffe://example.org/ns/apps/sa/chat",
        });
        let batch = json!({"cgroup": "batch", "addresses": addresses(&self.batch)});
        let mut batch = workload("apps", "batch-1", &batch);
        batch["metadata"]["labels"] = json!({"app": "batch"});
        Manifest::of([workload("apps", "chat", &chat), batch])
    }

    /// The service `name` at the `number`th addresses of both families.
    fn service(&self, name: &str, number: u8) -> Service {
        let service = Service::new(name, Family::V4.vip(number)).also_at(Family::V6.vip(number).ip());
        let backends = self
            .replicas
            .iter()
            .flat_map(|replica| Family::BOTH.map(|family| replica.at(family)));
        service.to(backends)
    }

    fn start(&mut self, manifest: &Manifest) {
        self.start_other(manifest);
        self.bed.start(manifest, &[]);
    }

    fn start_other(&mut self, manifest: &Manifest) {
        self.other.configure(&manifest.to_string()).unwrap();
        self.other.start(&[]).unwrap();
    }

    fn apply(&self, manifest: &Manifest) {
        self.other.reconfigure(&manifest.to_string()).unwrap();
        self.bed.apply(manifest);
    }

    /// What chat, batch and the stranger meet at `to`.
    fn outcomes(&self, to: SocketAddr) -> [String; 3] {
        [&self.bed.client, &self.batch, &self.stranger].map(|pod| outcome(&pod.place(), to))
    }
}

/// The one outcome of a connection: [`IN`] or the name of an error.
fn outcome(place: &Place, to: SocketAddr) -> String {
    let report = connect(place, to, &SHORT);
    if report.ok == 1 {
        return IN.into();
    }
    report.errors.into_keys().next().unwrap()
}

fn scrape(agent: &Agent, node: &Node) -> Scrape {
    let (code, body) = agent.http(node, "/metrics").unwrap();
    assert_eq!(code, 200, "{body}");
    Scrape::parse(&body).unwrap()
}

/// `{cidrs: [...]}` of the addresses of a pod.
fn addresses(pod: &Pod) -> Value {
    json!({"cidrs": [format!("{}/32", pod.v4()), format!("{}/128", pod.v6())]})
}

/// A service's policy, and what chat, batch and the stranger meet where the default denies.
type Case = (&'static str, AccessPolicy, [&'static str; 3]);

fn allows(name: &'static str, from: Value, expected: [&'static str; 3]) -> Case {
    (name, AccessPolicy::of(name).rule("allow", [from]), expected)
}

/// A rule about one field each.
fn sources(scene: &Scene) -> Vec<Case> {
    let identity = json!({"identities": ["spiffe://example.org/ns/apps/*"]});
    let both = json!({"workloads": ["chat"], "labels": {"app": "batch"}});
    vec![
        allows("name", json!({"workloads": ["chat"]}), [IN, DENIED, DENIED]),
        allows("namespace", json!({"namespaces": ["app*"]}), [IN, IN, DENIED]),
        allows("identity", identity, [IN, DENIED, DENIED]),
        allows("label", json!({"labels": {"app": "batch"}}), [DENIED, IN, DENIED]),
        allows("all-of-an-entry", both, [DENIED; 3]),
        allows("unknown", json!({"unknown": true}), [DENIED, DENIED, IN]),
        allows(
            "range-of-chat",
            addresses(&scene.bed.client),
            [IN, DENIED, SILENCE],
        ),
        allows(
            "range-of-stranger",
            addresses(&scene.stranger),
            [DENIED, DENIED, IN],
        ),
    ]
}

/// Rules about everybody.
fn actions() -> Vec<Case> {
    let policy = AccessPolicy::of;
    let deny_wins = policy("deny-wins").rule("deny", [json!({"workloads": ["batch-*"]})]);
    let other_port = policy("other-port").rule_for("allow", [], &[9]);
    vec![
        ("nobody", policy("nobody").rule("deny", []), [DENIED; 3]),
        ("deny-wins", deny_wins.rule("allow", []), [IN, DENIED, IN]),
        ("audit", policy("audit").rule("audit", []), [IN; 3]),
        ("other-port", other_port, [DENIED; 3]),
        ("port", policy("port").rule_for("allow", [], &[8000]), [IN; 3]),
    ]
}

#[test]
fn each_kind_of_source_is_told_apart() {
    let mut scene = Scene::new();
    let cases = [sources(&scene), actions()].concat();
    let mut manifest = scene.workloads().and(AccessPolicy::of_all().default("deny"));
    // An endpoint that several services name demands what all of them demand: each has a replica of its own.
    scene.replicas.clear();
    scene.replicas = scene.bed.replicas(cases.len() as u16);
    for (number, (name, policy, _)) in (1..).zip(&cases) {
        let replica = &scene.replicas[usize::from(number) - 1];
        let service = Service::new(name, Family::V4.vip(number)).also_at(Family::V6.vip(number).ip());
        let service = service.to(Family::BOTH.map(|family| replica.at(family)));
        manifest = manifest.and(service).and(policy.clone());
    }
    scene.start(&manifest);
    for family in Family::BOTH {
        for (number, (name, _, expected)) in (1..).zip(&cases) {
            let outcomes = scene.outcomes(family.vip(number));
            assert_eq!(outcomes, expected.map(str::to_owned), "{name} {family:?}");
        }
    }
    scene.bed.assert_no_internal_error();
    let (other, b) = (&scene.other, &scene.bed.b);
    let dropped = eventually(
        "the dropped SYNs",
        || scrape(other, b).count("nodemesh_events_total", &[("kind", "dropped")]),
        |count| *count >= 2,
    );
    assert!(dropped < 8, "one per family, and what was sent again: {dropped}");
}

#[test]
fn defaults_of_mesh_and_namespace_hold_where_no_rule_matches() {
    let mut scene = Scene::new();
    let base = scene.workloads().and(scene.service("echo", 1));
    scene.start(&base);
    let to = Family::V4.vip(1);
    assert_eq!(scene.outcomes(to), [IN; 3].map(str::to_owned));

    let mesh = AccessPolicy::of_mesh().default("deny");
    scene.apply(&base.clone().and(mesh.clone()));
    assert_eq!(scene.outcomes(to), [DENIED; 3].map(str::to_owned), "mesh");

    let namespace = AccessPolicy::of_all().default("allow");
    scene.apply(&base.clone().and(mesh.clone()).and(namespace.clone()));
    assert_eq!(scene.outcomes(to), [IN; 3].map(str::to_owned), "namespace");

    let no_batch = AccessPolicy::of_mesh()
        .default("deny")
        .rule("deny", [json!({"labels": {"app": "batch"}})]);
    scene.apply(&base.clone().and(no_batch).and(namespace));
    assert_eq!(
        scene.outcomes(to),
        [IN, DENIED, IN].map(str::to_owned),
        "rule of the mesh"
    );

    // A rule that allows one does not deny the others.
    let one = AccessPolicy::of("echo").rule("allow", [json!({"workloads": ["chat"]})]);
    scene.apply(&base.and(one));
    assert_eq!(scene.outcomes(to), [IN; 3].map(str::to_owned), "no default");
}

#[test]
fn every_way_to_connect_is_denied_alike() {
    let mut scene = Scene::new();
    let datagrams = Service::new("datagrams", Family::V4.vip(2)).udp();
    let datagrams = datagrams.to([scene.replicas[0].at(Family::V4)]);
    let manifest = Manifest::of([AccessPolicy::of_all().default("deny")]);
    scene.start(&manifest.and(scene.service("echo", 1)).and(datagrams));
    let place = scene.bed.client.place();
    for family in Family::BOTH {
        for flags in [&[][..], &["--nonblocking"]] {
            let report = connect(&place, family.vip(1), &[&["--count", "3"], flags].concat());
            report.assert_all_failed(3, DENIED);
        }
    }
    let mapped = connect(&place, Family::V4.vip(1), &["--family", "v6-mapped"]);
    mapped.assert_all_failed(1, DENIED);
    for (flags, call) in [(&["--connected"][..], "connect"), (&[], "send")] {
        let report = udp(&place, Family::V4.vip(2), flags);
        assert_eq!((report.ok, report.errors), (0, once(DENIED, 1)), "{flags:?}");
        assert_eq!(report.failed_calls, once(call, 1));
    }
    let services = scene.bed.agent.services().unwrap();
    let refused: u64 = services.iter().map(|service| service.refused["policy"]).sum();
    assert_eq!(refused, 2 * 6 + 1 + 2);
    assert_eq!(scene.bed.counted().opened, 0, "nothing was picked");
}

#[test]
fn a_client_without_an_agent_gains_nothing() {
    let mut scene = Scene::new();
    let neighbour = scene.bed.b.pod("neighbour").unwrap();
    // With an identity of its own: refusals of one identity within a second are told together, without an address.
    let identified = json!({
        "addresses": [neighbour.v4(), neighbour.v6()], "identity": "spiffe://example.org/ns/apps/sa/neighbour",
    });
    let base = scene
        .workloads()
        .and(workload("apps", "neighbour", &identified))
        .and(scene.service("echo", 1));
    let closed = base.clone().and(AccessPolicy::of_all().default("deny"));
    scene.start_other(&closed);
    let (client, stranger) = (scene.bed.client.place(), scene.stranger.place());
    let direct = |family| scene.replicas[0].at(family);
    let meets = |place: &Place, expected: &str| {
        for family in Family::BOTH {
            assert_eq!(outcome(place, direct(family)), expected, "{family:?} {place:?}");
        }
    };
    meets(&client, SILENCE);
    meets(&stranger, SILENCE);
    meets(&neighbour.place(), SILENCE);
    let events = || {
        let output = scene
            .other
            .cli(&["monitor", "--follow=false", "--kind", "dropped", "-o", "json"])
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let told = eventually("the events", events, |text| {
        text.contains(&neighbour.v6().to_string())
    });
    for part in [
        "\"service\":\"models/echo\"".to_owned(),
        format!("\"client\":\"{}\"", scene.bed.client.v4()),
        format!("\"backend\":\"{}\"", direct(Family::V6)),
    ] {
        assert!(told.contains(&part), "{part} in {told}");
    }

    let chat = AccessPolicy::of_all()
        .default("deny")
        .rule("allow", [json!({"workloads": ["chat"]})]);
    scene
        .other
        .reconfigure(&base.clone().and(chat).to_string())
        .unwrap();
    meets(&client, IN);
    meets(&stranger, SILENCE);

    let audit = AccessPolicy::of_all().default("deny").rule("audit", []);
    scene.other.reconfigure(&base.and(audit).to_string()).unwrap();
    meets(&stranger, IN);
    let node = &scene.bed.b;
    eventually(
        "the audited connections",
        || scrape(&scene.other, node).count("nodemesh_events_total", &[("kind", "audited")]),
        |count| *count == 2,
    );
}

#[test]
fn a_change_holds_for_the_next_connection_and_outlives_the_agents() {
    let mut scene = Scene::new();
    let base = scene.workloads().and(scene.service("echo", 1));
    let deny = |name: &str| {
        let rule = AccessPolicy::of("echo").rule("deny", [json!({"workloads": [name]})]);
        base.clone().and(rule)
    };
    scene.start(&deny("chat"));
    let to = Family::V4.vip(1);
    for _ in 0..5 {
        assert_eq!(scene.outcomes(to), [DENIED, IN, IN].map(str::to_owned));
        scene.apply(&deny("batch-*"));
        assert_eq!(scene.outcomes(to), [IN, DENIED, IN].map(str::to_owned));
        scene.apply(&deny("chat"));
    }

    let over = AtomicBool::new(false);
    let (client, batch) = (scene.bed.client.place(), scene.batch.place());
    thread::scope(|scope| {
        let hammer = scope.spawn(|| {
            let mut reports = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let denied = connect(&client, to, &["--count", "20"]);
                reports.push((denied, connect(&batch, to, &["--count", "20"])));
            }
            reports
        });
        scene.bed.agent.kill().unwrap();
        scene.other.kill().unwrap();
        let dead = (connect(&client, to, &[]), connect(&batch, to, &[]));
        scene.bed.agent.start(&[]).unwrap();
        scene.other.start(&[]).unwrap();
        over.store(true, Ordering::Relaxed);
        let mut reports: Vec<(Report, Report)> = hammer.join().unwrap();
        assert!(!reports.is_empty());
        dead.0.assert_all_failed(1, DENIED);
        dead.1.assert_all_ok(1);
        for (denied, allowed) in reports.drain(..) {
            denied.assert_all_failed(20, DENIED);
            allowed.assert_all_ok(20);
        }
    });
    assert_eq!(scene.outcomes(to), [DENIED, IN, IN].map(str::to_owned));
}

#[test]
fn an_address_that_passes_to_another_workload_takes_nothing_along() {
    let mut scene = Scene::new();
    let base = |owner: &str| {
        let spec = json!({"addresses": [scene.stranger.v4()], "cgroup": "stranger"});
        let rule = AccessPolicy::of_all()
            .default("deny")
            .rule("allow", [json!({"workloads": ["good"]})]);
        Manifest::of([workload("apps", owner, &spec)])
            .and(scene.service("echo", 1))
            .and(rule)
    };
    let (good, bad) = (base("good"), base("bad"));
    let (to, direct) = (Family::V4.vip(1), scene.replicas[0].at(Family::V4));
    scene.start(&good);
    let place = scene.stranger.place();
    for _ in 0..3 {
        assert_eq!(outcome(&place, to), IN);
        scene.apply(&bad);
        assert_eq!(outcome(&place, to), DENIED);
        // The same client, as if its node had no agent.
        let outside = Place {
            cgroup: scene.bed.server.cgroup().into(),
            ..scene.stranger.place()
        };
        assert_eq!(outcome(&outside, direct), SILENCE);
        scene.apply(&good);
        assert_eq!(outcome(&outside, direct), IN);
    }
}

/// Source addresses of the flood; each costs the server's node one dropped SYN at least.
const SOURCES: u16 = 20_000;

#[test]
fn any_number_of_denied_sources_takes_no_room() {
    let mut scene = Scene::new();
    let policy = AccessPolicy::of_all()
        .default("deny")
        .rule("allow", [json!({"workloads": ["chat"]})]);
    let manifest = scene.workloads().and(scene.service("echo", 1)).and(policy);
    scene.start_other(&manifest);
    let net = scene.stranger.netns();
    net.configure(&["route add local fd66::/64 dev lo".into()])
        .unwrap();
    let (other, node) = (&scene.other, &scene.bed.b);
    let used = || {
        let maps = other.status().unwrap().datapath.maps;
        format!("{maps:?}")
    };
    let (before, memory) = (used(), resident_kib(other));
    let to = scene.replicas[0].at(Family::V6);
    net.run(|| {
        fs::write("/proc/sys/net/ipv6/ip_nonlocal_bind", "1").unwrap();
        for source in 0..SOURCES {
            let from = Ipv6Addr::new(0xfd66, 0, 0, 0, 0, 0, 1, source);
            let socket = Socket::new(Domain::IPV6, Type::STREAM, None).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.bind(&SocketAddr::new(IpAddr::V6(from), 0).into()).unwrap();
            let _ = socket.connect(&to.into());
        }
    })
    .unwrap();
    let counted = || {
        let scrape = scrape(other, node);
        let dropped = scrape.count("nodemesh_events_total", &[("kind", "dropped")]);
        (dropped, scrape)
    };
    // All are counted, but for those that the ring buffer had no room for, which are counted too.
    let enough = eventually(
        "the flood is counted",
        || {
            let (dropped, scrape) = counted();
            let lost = scrape.count("nodemesh_events_lost_total", &[("stage", "recording")]);
            (dropped, lost)
        },
        |(dropped, lost)| dropped + lost >= u64::from(SOURCES),
    );
    assert!(enough.0 > 0);
    assert_eq!(used(), before, "no map has grown");
    let grown = resident_kib(other).saturating_sub(memory);
    assert!(grown < 16 * 1024, "{grown} KiB for {SOURCES} sources");
    let direct = outcome(&scene.bed.client.place(), to);
    assert_eq!(direct, IN, "the others are served");
}

/// Resident memory of an agent.
fn resident_kib(agent: &Agent) -> u64 {
    let path = format!("/proc/{}/status", agent.process().pid());
    let status = fs::read_to_string(path).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
