// SPDX-License-Identifier: Apache-2.0
//! A replica that several services lead to: its node cannot tell which of them a client dialled, and asks the policies of all.

use nodemesh_e2e::{
    admission_scene::{AdmissionScene, DENIED, IN, SILENCE, outcome},
    bed::{Family, talk},
    eventually::eventually,
    manifest::{AccessPolicy, Manifest},
};
use serde_json::{Value, json};

/// A service of the namespace `tenant` that leads to the first replica.
fn foreign(scene: &AdmissionScene) -> Value {
    let mut service = Value::from(scene.service("tenant", 3, 0));
    service["metadata"]["namespace"] = json!("tenant");
    service
}

fn deny_chat(service: &str) -> AccessPolicy {
    AccessPolicy::of(service).rule("deny", [json!({"workloads": ["chat"]})])
}

#[test]
fn a_client_reaches_a_replica_by_the_services_that_admit_it_and_by_no_other() {
    let mut scene = AdmissionScene::new(1);
    let base = scene
        .workloads()
        .and(scene.service("a", 1, 0))
        .and(scene.service("b", 2, 0));
    // Whichever of the two comes first by its name.
    let (first, second) = (deny_chat("a"), deny_chat("b"));
    scene.start(&base.clone().and(first.clone()));
    let (chat, outside) = (scene.bed.client.place(), scene.outside(&scene.bed.client));
    for family in Family::BOTH {
        let [a, b] = [1, 2].map(|number| family.vip(number));
        let direct = scene.replicas[0].at(family);
        scene.apply(&base.clone().and(first.clone()));
        assert_eq!((outcome(&chat, a), outcome(&chat, b)), (DENIED.into(), IN.into()));
        assert_eq!(outcome(&outside, direct), IN, "by b it may");
        let mut placed = talk(&chat, b);

        scene.apply(&base.clone().and(second.clone()));
        placed.is_cut();
        assert_eq!((outcome(&chat, a), outcome(&chat, b)), (IN.into(), DENIED.into()));
        placed = talk(&chat, a);
        let unseen = talk(&outside, direct);

        scene.apply(&base.clone().and(first.clone()).and(second.clone()));
        placed.is_cut();
        unseen.is_cut();
        assert_eq!(outcome(&outside, direct), SILENCE, "by neither");
        assert_eq!(outcome(&scene.batch.place(), a), IN);
    }
    scene.bed.assert_no_internal_error();
}

#[test]
fn a_service_of_another_namespace_opens_nothing() {
    let mut scene = AdmissionScene::new(1);
    let only_chat = AccessPolicy::of_all()
        .default("deny")
        .rule("allow", [json!({"workloads": ["chat"]})]);
    let base: Manifest = scene
        .workloads()
        .and(scene.service("a", 1, 0))
        .and(foreign(&scene));
    scene.start(&base.clone().and(only_chat));
    let (chat, batch) = (scene.bed.client.place(), scene.batch.place());
    for family in Family::BOTH {
        let (own, tenant) = (family.vip(1), family.vip(3));
        assert_eq!(
            (outcome(&chat, own), outcome(&chat, tenant)),
            (IN.into(), IN.into())
        );
        assert_eq!(outcome(&batch, own), DENIED);
        assert_eq!(outcome(&batch, tenant), SILENCE, "at the server's node");
        assert_eq!(
            outcome(&scene.outside(&scene.batch), scene.replicas[0].at(family)),
            SILENCE
        );
    }
    // The agents start anew, and know it before they have read a change.
    scene.other.kill().expect("kill the agent");
    scene.other.start(&[]).expect("start the agent");
    assert_eq!(outcome(&batch, Family::V4.vip(3)), SILENCE);
    // Without the policy of the first namespace, or its service, the other one is open.
    scene.apply(&base);
    eventually(
        "it is open",
        || outcome(&batch, Family::V4.vip(3)),
        |met| met == IN,
    );
}
