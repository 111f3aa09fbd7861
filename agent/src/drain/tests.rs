// SPDX-License-Identifier: Apache-2.0
//! Targets and overrides.

use nodemesh_model::{Manifest, Resources, resource::Locality};

use super::*;

const MESH: &str = "
apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {name: chat, namespace: prod}
spec:
  addresses: [10.1.0.1]
  ports: [{port: 80, targetPort: 8000}]
  backends: [{address: 10.0.0.1}, {address: 10.0.0.2}]
---
apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {name: code, namespace: prod}
spec:
  addresses: [10.1.0.2]
  ports: [{port: 80, targetPort: 8000}]
  backends: [{address: 10.0.0.2}, {address: 10.0.0.3}]
";

fn desired() -> Arc<Desired> {
    let manifest = Manifest::parse(MESH);
    assert!(manifest.errors().is_empty(), "{}", manifest.errors());
    let resources = Resources::merge([("mesh.yaml", &manifest)]).expect("valid resources");
    Arc::new(Desired::compile(&resources, &Locality::default(), None).expect("a small mesh"))
}

/// The backends that drain, with their services.
fn draining(desired: &Desired) -> Vec<String> {
    let backends = desired.frontends.iter().flat_map(|(name, frontend)| {
        let gone = frontend.backends.iter().filter(|backend| !backend.is_available());
        gone.map(move |backend| format!("{} {}", name.service, std::net::IpAddr::from(backend.addr)))
    });
    backends.collect()
}

fn drained(targets: &[&str]) -> (Arc<Desired>, Arc<Desired>) {
    let targets = targets.iter().map(|text| text.parse().unwrap()).collect();
    let before = desired();
    let after = overridden(&before, &targets);
    (before, after)
}

#[test]
fn a_backend_drains_for_one_service_or_for_all() {
    let (before, after) = drained(&["10.0.0.2:8000"]);
    assert_eq!(draining(&after), ["prod/chat 10.0.0.2", "prod/code 10.0.0.2"]);
    assert_eq!(draining(&before), [""; 0]);
    let (before, after) = drained(&["prod/code/10.0.0.2", "10.0.0.9"]);
    assert_eq!(draining(&after), ["prod/code 10.0.0.2"]);
    let same: Vec<bool> = before
        .frontends
        .values()
        .zip(after.frontends.values())
        .map(|(before, after)| Arc::ptr_eq(before, after))
        .collect();
    assert_eq!(same, [true, false]);
}

#[test]
fn what_names_nothing_changes_nothing() {
    for targets in [&[][..], &["10.0.0.2:9"], &["dev/chat/10.0.0.2"], &["prod/chat-0"]] {
        let (before, after) = drained(targets);
        assert!(Arc::ptr_eq(&before, &after), "{targets:?}");
    }
}

#[test]
fn a_target_reads_back_from_what_it_shows() {
    for text in [
        "10.0.0.1",
        "10.0.0.1:8000",
        "[fd00::1]:8000",
        "fd00::1",
        "prod/chat-0",
        "prod/chat/10.0.0.1",
        "prod/chat/[fd00::1]:8000",
        "prod/chat/chat-0",
    ] {
        let target: DrainTarget = text.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(target.to_string(), text);
    }
    for text in [
        "",
        "/",
        "chat",
        "prod/",
        "a/b/c/d",
        "prod/chat/10.0.0.1/x",
        "10.0.0.1:99999",
        "/10.0.0.1",
    ] {
        assert!(text.parse::<DrainTarget>().is_err(), "{text}");
    }
}

#[test]
fn the_next_agent_drains_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["10.0.0.1:80", "prod/chat-0"].map(|text| text.parse::<DrainTarget>().unwrap());
    let drains = Drains::open(folder.path());
    drains.change(&one, false).unwrap();
    drains.change(&other, false).unwrap();
    drains.change(&one, true).unwrap();
    assert_eq!(*Drains::open(folder.path()).targets(), [other].into());
    fs::write(folder.path().join(FILE), "{").unwrap();
    assert!(Drains::open(folder.path()).targets().is_empty());
}
