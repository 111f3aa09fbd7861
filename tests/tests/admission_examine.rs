// SPDX-License-Identifier: Apache-2.0
//! Established connections when policies, addresses and cgroups change: those that are now denied are closed, and no others.

use nodemesh_agent::api::{Event, EventKind};
use nodemesh_e2e::{
    admission_scene::{AdmissionScene, DENIED, IN, SILENCE, events, outcome},
    agent::Agent,
    bed::{Family, talk},
    cgroup::Cgroup,
    eventually::eventually,
    manifest::{AccessPolicy, Manifest, workload},
    process::Place,
};
use serde_json::json;

/// What was closed by policy, with the client's address.
fn closed(agent: &Agent, count: usize) -> Vec<Event> {
    eventually(
        "the events",
        || events(agent, EventKind::Closed),
        |events| events.len() >= count,
    )
}

fn deny(name: &str) -> AccessPolicy {
    AccessPolicy::of_all().rule("deny", [json!({"workloads": [name]})])
}

#[test]
fn what_a_change_denies_is_closed_and_nothing_else() {
    let mut scene = AdmissionScene::new(1);
    let base = scene.workloads().and(scene.service("echo", 1, 0));
    // The server's node has no agent: that of the client's is what closes.
    scene.bed.start(&base, &[]);
    let pods = [&scene.bed.client, &scene.batch, &scene.stranger];
    let talks = |index: usize| Family::BOTH.map(|family| talk(&pods[index].place(), family.vip(1)));
    let [chat, batch, stranger] = [0, 1, 2].map(talks);

    scene.bed.apply(&base.clone().and(deny("chat")));
    for talk in chat {
        talk.is_cut();
    }
    let told = closed(&scene.bed.agent, 2);
    assert_eq!(told.len(), 2, "{told:#?}");
    for event in &told {
        assert_eq!(event.reason.as_deref(), Some("policy"), "{event:?}");
        assert_eq!(event.service.as_deref(), Some("models/echo"), "{event:?}");
        let identity = event.client_identity.as_deref();
        assert_eq!(
            identity,
            Some("spiffe://example.org/ns/apps/sa/chat"),
            "{event:?}"
        );
    }

    // An audit closes nothing: the look that closed the stranger's connections has seen the others.
    let trial = AccessPolicy::of_all()
        .rule("audit", [json!({"workloads": ["batch-*"]})])
        .rule("deny", [json!({"unknown": true})]);
    scene.bed.apply(&base.clone().and(trial));
    for talk in stranger {
        talk.is_cut();
    }
    let mut batch = batch;
    for talk in &mut batch {
        talk.goes_on();
    }
    assert_eq!(closed(&scene.bed.agent, 4).len(), 4);

    // Nor does a default that a rule goes before.
    let allowed = AccessPolicy::of_all()
        .default("deny")
        .rule("allow", [json!({"labels": {"app": "batch"}})]);
    let newer = Family::BOTH.map(|family| talk(&scene.bed.client.place(), family.vip(1)));
    scene.bed.apply(&base.and(allowed));
    for talk in newer {
        talk.is_cut();
    }
    for talk in &mut batch {
        talk.goes_on();
    }
    scene.bed.assert_no_internal_error();
}

#[test]
fn the_server_s_node_closes_for_clients_whose_node_has_no_agent() {
    let mut scene = AdmissionScene::new(1);
    let base = scene.workloads().and(scene.service("echo", 1, 0));
    scene.start_other(&base);
    let direct = |pod| Family::BOTH.map(|family| talk(&scene.outside(pod), scene.replicas[0].at(family)));
    let (chat, batch) = (direct(&scene.bed.client), direct(&scene.batch));
    let mut stranger = direct(&scene.stranger);

    scene.apply_other(&base.clone().and(deny("chat")));
    for talk in chat {
        talk.is_cut();
    }
    let told = closed(&scene.other, 2);
    assert_eq!(told.len(), 2, "{told:#?}");
    let clients = [scene.bed.client.v4(), scene.bed.client.v6()].map(|addr| addr.to_string());
    for event in &told {
        let client = event.client.as_ref().unwrap();
        let is_its = clients.iter().any(|addr| client.contains(addr.as_str()));
        assert!(is_its && event.reason.as_deref() == Some("policy"), "{event:?}");
        assert_eq!(event.client_pid, None, "{event:?}");
    }

    let trial = AccessPolicy::of_all()
        .rule("audit", [json!({"unknown": true})])
        .rule("deny", [json!({"workloads": ["batch-1"]})]);
    scene.apply_other(&base.and(trial));
    for talk in batch {
        talk.is_cut();
    }
    for talk in &mut stranger {
        talk.goes_on();
    }
    assert_eq!(closed(&scene.other, 4).len(), 4);
}

#[test]
fn an_address_that_another_workload_gets_takes_no_connection_along() {
    let mut scene = AdmissionScene::new(1);
    let mesh = |owner: &str| {
        let spec = json!({"addresses": [scene.stranger.v4(), scene.stranger.v6()], "cgroup": "stranger"});
        let rule = AccessPolicy::of_all()
            .default("deny")
            .rule("allow", [json!({"workloads": ["good"]})]);
        // The other one is still there, elsewhere.
        let (other, elsewhere) = (
            if owner == "good" { "bad" } else { "good" },
            json!({"addresses": ["10.1.0.200"]}),
        );
        Manifest::of([
            workload("apps", owner, &spec),
            workload("apps", other, &elsewhere),
        ])
        .and(scene.service("echo", 1, 0))
        .and(rule)
    };
    let (good, bad) = (mesh("good"), mesh("bad"));
    scene.start(&good);
    let (own, outside) = (scene.stranger.place(), scene.outside(&scene.stranger));
    for family in Family::BOTH {
        let direct = scene.replicas[0].at(family);
        let (placed, unseen) = (talk(&own, family.vip(1)), talk(&outside, direct));
        scene.apply(&bad);
        placed.is_cut();
        unseen.is_cut();
        assert_eq!(outcome(&own, family.vip(1)), DENIED);
        assert_eq!(outcome(&outside, direct), SILENCE);
        scene.apply(&good);
        assert_eq!(outcome(&own, family.vip(1)), IN);
        assert_eq!(outcome(&outside, direct), IN);
    }
}

#[test]
fn a_cgroup_that_vanishes_and_returns_is_known_again_and_never_taken_for_another() {
    let mut scene = AdmissionScene::new(1);
    let spec = json!({"cgroup": "stranger/job"});
    let other = json!({"cgroup": "stranger/other"});
    let rule = AccessPolicy::of_all()
        .default("deny")
        .rule("allow", [json!({"workloads": ["job"]})]);
    // Only the client's node has an agent: a workload without an address is nobody at a server's.
    let manifest = Manifest::of([workload("apps", "job", &spec), workload("apps", "other", &other)])
        .and(scene.service("echo", 1, 0))
        .and(rule);
    scene.bed.start(&manifest, &[]);
    let to = Family::V4.vip(1);
    let parent = scene.stranger.cgroup();
    let place_in = |cgroup: &Cgroup| Place {
        cgroup: cgroup.path().into(),
        ..scene.stranger.place()
    };
    for round in 0..3 {
        let job = Cgroup::create(parent, "job").unwrap();
        let place = place_in(&job);
        let met = eventually("it is known", || outcome(&place, to), |met| met == IN);
        assert_eq!(met, IN, "round {round}");
        let is_missing = |name: &str| {
            let missing = scene.bed.agent.status().unwrap().datapath.cgroups_missing;
            missing.iter().any(|path| path.ends_with(name))
        };
        assert!(is_missing("other") && !is_missing("job"));
        drop(job);
        eventually("it is missed", || is_missing("job"), |missing| *missing);
        // One that comes in its place at once is another, whatever numbers the kernel gives out again.
        let other = Cgroup::create(parent, "other").unwrap();
        assert_eq!(outcome(&place_in(&other), to), DENIED);
        assert_eq!(outcome(&scene.stranger.place(), to), DENIED);
    }
}

#[test]
fn an_identity_that_nobody_has_admits_nobody_until_somebody_has_it() {
    let mut scene = AdmissionScene::new(1);
    let rule = AccessPolicy::of_all().default("deny").rule(
        "allow",
        [json!({"identities": ["spiffe://example.org/ns/apps/sa/ghost"]})],
    );
    let base = Manifest::of([scene.service("echo", 1, 0)]).and(rule);
    scene.start(
        &base
            .clone()
            .and(workload("apps", "chat", &json!({"cgroup": "client"}))),
    );
    let place = scene.bed.client.place();
    assert_eq!(outcome(&place, Family::V4.vip(1)), DENIED);
    let warnings = scene.bed.agent.status().unwrap().config.warnings;
    let expected = "AccessPolicy models/all, rule 1, from[0]: no Workload matches";
    assert!(
        warnings.iter().any(|warning| warning.starts_with(expected)),
        "{warnings:?}"
    );
    let ghost = json!({
        "cgroup": "client", "addresses": [scene.bed.client.v4()],
        "identity": "spiffe://example.org/ns/apps/sa/ghost",
    });
    scene.apply(&base.and(workload("apps", "chat", &ghost)));
    assert_eq!(outcome(&place, Family::V4.vip(1)), IN);
    assert_eq!(outcome(&scene.stranger.place(), Family::V4.vip(1)), DENIED);
}
