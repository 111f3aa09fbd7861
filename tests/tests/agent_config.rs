// SPDX-License-Identifier: Apache-2.0
//! What the agent accepts and refuses at its start. A refusal says where, what and what to do, and touches nothing.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::fs;

use nodemesh_e2e::{
    agent::Agent,
    single_node::{DIRECT, SingleNode, said},
};

/// A configuration that is refused: its name, its text, and place and remedy as the message words them after the file.
type Case = (&'static str, String, &'static str);

/// A service on an address that nobody has.
fn service(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// A service that is valid.
fn good() -> String {
    service("good", "addresses: [10.96.0.9], ports: [{port: 80}]")
}

/// Documents that are wrong in themselves.
fn wrong_documents() -> [Case; 7] {
    [
        (
            "unknown kind",
            good().replace("kind: Service", "kind: Servce"),
            "document 1, Servce default/good, kind: \"Servce\" is not known here; did you mean \"Service\"?",
        ),
        (
            "unknown version",
            good().replace("v1alpha1", "v2"),
            "document 1, Service default/good, apiVersion: is \"nodemesh.io/v2\"; this release knows",
        ),
        (
            "wrong type",
            service("llama", "addresses: 10.96.0.10, ports: [{port: 80}]"),
            "document 1, Service default/llama, spec.addresses: is the text \"10.96.0.10\"; write a list",
        ),
        (
            "missing field",
            service("llama", "addresses: [10.96.0.10]"),
            "document 1, Service default/llama, spec.ports: is missing; add ports: [{port: 8000}]",
        ),
        (
            "port 0",
            service("llama", "addresses: [10.96.0.10], ports: [{port: 0}]"),
            "document 1, Service default/llama, spec.ports[0].port: port is 0; use 1 to 65535",
        ),
        (
            "port 65536",
            service("llama", "addresses: [10.96.0.10], ports: [{port: 65536}]"),
            "document 1, Service default/llama, spec.ports[0].port: port is 65536; use 1 to 65535",
        ),
        ("no YAML", good() + "---\nkind: [Service\n", "document 2: line "),
    ]
}

/// Backends that are wrong, and documents that are wrong only beside others.
fn wrong_together() -> [Case; 7] {
    let backend = |fields: &str| {
        let spec = format!("addresses: [10.96.0.10], ports: [{{port: 80}}], backends: [{{{fields}}}]");
        good() + &service("llama", &spec)
    };
    [
        (
            "unknown field",
            backend("address: 10.1.0.2, wieght: 2"),
            "document 2, Service default/llama, spec.backends[0].wieght: unknown field; did you mean \"weight\"?",
        ),
        (
            "weight 0",
            backend("address: 10.1.0.2, weight: 0"),
            "document 2, Service default/llama, spec.backends[0].weight: weight is 0; use 1 to 65535, and \"state: \
             draining\"",
        ),
        (
            "mixed families",
            backend("address: 'fd00::2'"),
            "document 2, Service default/llama, spec.backends[0].address: fd00::2 is IPv6, but the service has no IPv6 \
             address; add one to spec.addresses, or remove the backend",
        ),
        (
            "service address taken",
            good() + &good().replace("name: good", "name: llama"),
            "document 2, Service default/llama, spec.addresses[0]: 10.96.0.9 port 80/TCP is already that of Service \
             default/good (",
        ),
        (
            "name taken",
            good() + &good().replace("10.96.0.9", "10.96.0.10"),
            "document 2, Service default/good: is defined twice, first in ",
        ),
        (
            "empty file",
            String::new(),
            "the file is empty; write a comment into it if that is meant",
        ),
        (
            "1000001 backends",
            huge_service(9901, 101),
            "document 1, Service default/huge, spec.backends: with this Service there are more than 1000000 backends; \
             remove some, or split the mesh",
        ),
    ]
}

/// A service whose backends count once per port.
fn huge_service(backends: u32, ports: u32) -> String {
    let backends: Vec<String> = (0..backends)
        .map(|index| format!("{{address: {}}}", std::net::Ipv4Addr::from(0x0a80_0000 + index)))
        .collect();
    let ports: Vec<String> = (1..=ports)
        .map(|port| format!("{{name: p{port}, port: {port}}}"))
        .collect();
    service(
        "huge",
        &format!(
            "addresses: [10.96.0.10], ports: [{}], backends: [{}]",
            ports.join(", "),
            backends.join(", ")
        ),
    )
}

/// Starts the agent, which must end by itself, and returns its log.
fn refusal(agent: &Agent, name: &str, flags: &[&str]) -> String {
    let (status, log) = agent.launch(flags).unwrap().finish().unwrap();
    assert_eq!(status.code(), Some(1), "{name}: {log}");
    log
}

#[test]
fn a_configuration_that_is_refused_names_place_and_remedy_and_touches_nothing() {
    let scene = SingleNode::new();
    let file = scene.agent.config();
    for (name, yaml, message) in wrong_documents().into_iter().chain(wrong_together()) {
        fs::write(&file, yaml).unwrap();
        let log = refusal(&scene.agent, name, &[]);
        let expected = format!("{}: {message}", file.display());
        assert!(
            log.contains(&expected),
            "{name}: expected {expected:?} in:\n{log}"
        );
        assert!(!scene.node.pins().path().exists(), "{name}: pins were created");
    }
    let missing = file.with_file_name("missing.yaml").display().to_string();
    let log = refusal(&scene.agent, "missing file", &["--config", &missing]);
    let expected =
        format!("{missing}: No such file or directory (os error 2); --config must name a readable file");
    assert!(log.contains(&expected), "{log}");
    assert!(scene.is_answered_by(8000, DIRECT));
}

#[test]
fn every_error_of_every_file_is_listed_at_once() {
    let scene = SingleNode::new();
    let folder = scene.agent.config().with_file_name("mesh.d");
    fs::create_dir(&folder).unwrap();
    fs::write(
        folder.join("a.yaml"),
        service("a", "addresses: [10.96.0.1], ports: [{port: 0}, {port: 1}]"),
    )
    .unwrap();
    fs::write(
        folder.join("b.yml"),
        service("b", "addresses: [], ports: [{port: 80}]"),
    )
    .unwrap();
    fs::write(folder.join("not-read.json"), "no YAML: [").unwrap();
    let folder = folder.display().to_string();
    let log = refusal(&scene.agent, "two files", &["--config", &folder]);
    for expected in [
        format!("{folder}/a.yaml: document 1, Service default/a, spec.ports[0].port: port is 0;"),
        format!("{folder}/a.yaml: document 1, Service default/a, spec.ports[1].name: name is missing;"),
        format!("{folder}/b.yml: document 1, Service default/b, spec.addresses: is empty; give at least one"),
    ] {
        assert!(log.contains(&expected), "expected {expected:?} in:\n{log}");
    }
    assert!(!log.contains("not-read"), "{log}");
}

#[test]
fn flags_that_make_no_sense_are_refused() {
    let scene = SingleNode::new();
    scene.agent.configure("# nothing\n").unwrap();
    for (flags, message) in [
        (["--max-backends", "0"], "0 is not in 1..=1000000"),
        (["--max-services", "65537"], "65537 is not in 1..=65536"),
        (["--http", "localhost"], "invalid socket address"),
        (
            ["--program-log", "loud"],
            "possible values: off, error, warn, info, debug, trace",
        ),
        (
            ["--log", "nodemesh=loud"],
            "`nodemesh=loud` is no log filter; use a level such as `info`",
        ),
    ] {
        let (status, log) = scene.agent.launch(&flags).unwrap().finish().unwrap();
        assert!(
            !status.success() && log.contains(message),
            "{flags:?}: {status}, {log}"
        );
    }
    assert!(!scene.node.pins().path().exists());
}

#[test]
fn a_service_without_backends_is_valid_and_refuses_connections() {
    let mut scene = SingleNode::new();
    scene.agent.configure(&scene.service("idle", 8000, &[])).unwrap();
    scene.agent.start(&[]).unwrap();
    let connects = scene.connect(8000, 3);
    assert_eq!(
        (connects.ok, connects.errors.get("ECONNREFUSED")),
        (0, Some(&3)),
        "{connects:?}"
    );
    let services = scene.agent.services().unwrap();
    assert_eq!(services.len(), 1, "{services:?}");
    assert!(services[0].backends.is_empty(), "{services:?}");
    assert_eq!(services[0].refused.values().sum::<u64>(), 3, "{services:?}");
}

#[test]
fn a_configuration_of_nothing_is_valid() {
    let mut scene = SingleNode::new();
    scene.agent.configure("# no services yet\n").unwrap();
    scene.agent.start(&[]).unwrap();
    assert!(scene.is_answered_by(8000, DIRECT));
    let status = scene.agent.cli(&["status"]).unwrap();
    assert!(status.status.success(), "{}", said(&status));
    assert!(scene.agent.services().unwrap().is_empty());
}
