// SPDX-License-Identifier: Apache-2.0
//! `nodemesh policy explain` against the kernel: what it says is what a client meets, and the rule that it names is the one.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use nodemesh_agent::api::{Explanation, PortAccess};
use nodemesh_e2e::{
    admission_scene::{AdmissionScene, DENIED, IN, SILENCE, outcome},
    bed::Family,
    manifest::{AccessPolicy, Manifest},
    single_node::said,
};
use serde_json::{Value, json};

/// What is said of a source: the word, what decides, whether that is a default.
type Said = (&'static str, String, bool);

/// Rules of a service, and what is said of chat, batch and a client that is unknown.
struct Case {
    policy: AccessPolicy,
    said: [Said; 3],
}

fn by_default() -> Said {
    ("deny", "AccessPolicy models/all, default".to_owned(), true)
}

fn by_rule(access: &'static str, service: &str, number: usize) -> Said {
    (
        access,
        format!("AccessPolicy models/{service}, rule {number}"),
        false,
    )
}

fn range(addresses: &[String]) -> Value {
    json!({"cidrs": addresses})
}

/// One policy for each way to decide.
fn cases(scene: &AdmissionScene) -> Vec<Case> {
    let chat = || [json!({"workloads": ["chat"]})];
    let policy = AccessPolicy::of;
    let addresses = [
        format!("{}/32", scene.stranger.v4()),
        format!("{}/128", scene.stranger.v6()),
    ];
    let everybody_else = |number| by_rule("allow", "deny-wins", number);
    vec![
        Case {
            policy: policy("silent").rule_for("allow", [], &[9]),
            said: [by_default(), by_default(), by_default()],
        },
        Case {
            policy: policy("allow").rule("allow", chat()),
            said: [by_rule("allow", "allow", 1), by_default(), by_default()],
        },
        Case {
            policy: policy("deny-wins").rule("allow", []).rule("deny", chat()),
            said: [
                by_rule("deny", "deny-wins", 2),
                everybody_else(1),
                everybody_else(1),
            ],
        },
        Case {
            policy: policy("audit")
                .rule("allow", [])
                .rule("audit", [json!({"unknown": true})]),
            said: [
                by_rule("allow", "audit", 1),
                by_rule("allow", "audit", 1),
                by_rule("audit", "audit", 2),
            ],
        },
        Case {
            policy: policy("port")
                .rule_for("deny", [], &[9])
                .rule_for("allow", [], &[8000]),
            said: [1, 2, 3].map(|_| by_rule("allow", "port", 2)),
        },
        Case {
            policy: policy("range").rule("allow", [range(&addresses)]),
            said: [by_default(), by_default(), by_rule("by_address", "range", 1)],
        },
        Case {
            policy: policy("nowhere").rule(
                "allow",
                [range(&["10.250.0.0/16".to_owned(), "fd25::/16".to_owned()])],
            ),
            said: [by_default(), by_default(), by_rule("by_address", "nowhere", 1)],
        },
    ]
}

/// What `nodemesh policy explain SOURCE SERVICE` says of each address of a service.
fn explain(scene: &AdmissionScene, source: &str, service: &str) -> Vec<PortAccess> {
    let arguments = ["policy", "explain", source, service, "-o", "json"];
    let output = scene.bed.agent.cli(&arguments).unwrap();
    assert!(output.status.success(), "{}", said(&output));
    let explanation: Explanation = serde_json::from_slice(&output.stdout).unwrap();
    explanation.ports
}

#[track_caller]
fn assert_said(ports: &[PortAccess], expected: &Said, what: &str) {
    assert_eq!(ports.len(), 2, "{what}: one per family");
    for port in ports {
        let said = (port.access.as_str(), port.rule.as_deref(), port.default);
        assert_eq!(
            said,
            (expected.0, Some(expected.1.as_str()), expected.2),
            "{what}: {port:?}"
        );
    }
}

#[test]
fn what_is_said_is_what_the_kernel_does() {
    let mut scene = AdmissionScene::new(7);
    let cases = cases(&scene);
    let name = |case: &Case| {
        Value::from(case.policy.clone())["metadata"]["name"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut manifest = scene.workloads().and(AccessPolicy::of_all().default("deny"));
    for (index, case) in cases.iter().enumerate() {
        let service = scene.service(&name(case), index as u8 + 1, index);
        manifest = manifest.and(service).and(case.policy.clone());
    }
    scene.start(&manifest);
    let pods = [&scene.bed.client, &scene.batch, &scene.stranger];
    let in_range = |service: &str| service == "range";
    for (index, case) in cases.iter().enumerate() {
        let service = name(case);
        let target = format!("models/{service}");
        for ((source, pod), expected) in ["apps/chat", "apps/batch-1", "unknown"]
            .iter()
            .zip(pods)
            .zip(&case.said)
        {
            let what = format!("{source} to {service}");
            assert_said(&explain(&scene, source, &target), expected, &what);
            let meets = match expected.0 {
                "deny" => DENIED,
                "by_address" if !in_range(&service) => SILENCE,
                _ => IN,
            };
            for family in Family::BOTH {
                let met = outcome(&pod.place(), family.vip(index as u8 + 1));
                assert_eq!(met, meets, "{what}, {family:?}");
            }
        }
        // By address, as the server's node sees it.
        for family in Family::BOTH {
            let address = family.of(&scene.stranger).to_string();
            let ports = explain(&scene, &address, &target);
            let is_in = outcome(&scene.outside(&scene.stranger), scene.replicas[index].at(family)) == IN;
            let is_said = ports
                .iter()
                .all(|port| ["allow", "audit"].contains(&&*port.access));
            assert_eq!(is_said, is_in, "{address} to {service}: {ports:?}");
        }
    }
    // All that matches is told, the strongest first.
    let matching = &explain(&scene, "apps/chat", "models/deny-wins")[0].matching;
    let matching: Vec<_> = matching
        .iter()
        .map(|it| (it.rule.as_str(), it.action.as_str()))
        .collect();
    let (first, second) = (
        "AccessPolicy models/deny-wins, rule 2",
        "AccessPolicy models/deny-wins, rule 1",
    );
    assert_eq!(matching, [(first, "deny"), (second, "allow")]);
}

#[test]
fn the_default_that_holds_is_named() {
    let mut scene = AdmissionScene::new(1);
    let base = scene.workloads().and(scene.service("echo", 1, 0));
    scene.start(&base);
    let place = scene.bed.client.place();
    let check = |manifest: &Manifest, access: &str, rule: Option<&str>, meets: &str| {
        scene.apply(manifest);
        for port in explain(&scene, "apps/chat", "models/echo:8000") {
            assert_eq!(
                (port.access.as_str(), port.rule.as_deref(), port.default),
                (access, rule, true)
            );
        }
        assert_eq!(outcome(&place, Family::V4.vip(1)), meets);
    };
    let mesh = AccessPolicy::of_mesh().default("deny");
    let closed = base.clone().and(mesh);
    check(
        &closed,
        "deny",
        Some("AccessPolicy nodemesh-system/mesh, default"),
        DENIED,
    );
    let open = closed.and(AccessPolicy::of_all().default("allow"));
    check(&open, "allow", Some("AccessPolicy models/all, default"), IN);
    check(&base, "allow", None, IN);
    for (source, service, reason) in [
        ("apps/nobody", "models/echo", "no workload apps/nobody"),
        ("apps/chat", "models/nothing", "no service models/nothing"),
        ("apps/chat", "models/echo:9", "with port 9"),
        ("what", "models/echo", "names no source"),
    ] {
        let output = scene
            .bed
            .agent
            .cli(&["policy", "explain", source, service])
            .unwrap();
        let text = said(&output);
        assert!(!output.status.success() && text.contains(reason), "{text}");
    }
}
