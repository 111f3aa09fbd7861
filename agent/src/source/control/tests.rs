// SPDX-License-Identifier: Apache-2.0
//! What comes in force and when, with resources as nodemesh's own control plane writes them.

use std::fs;

use nodemesh_model::Manifest;
use nodemesh_proto::{
    IntoAny as _, to_xds, type_url,
    xds::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{DeltaDiscoveryResponse, Resource},
        },
        google::protobuf::Any,
    },
};
use tempfile::TempDir;

use super::*;

/// What a control plane sends that has one service.
struct Peer {
    clusters: DeltaDiscoveryResponse,
    assignments: DeltaDiscoveryResponse,
    listeners: DeltaDiscoveryResponse,
}

fn peer(backends: usize, version: &str) -> Peer {
    let backends: Vec<String> = (1..=backends)
        .map(|host| format!("{{address: 10.0.0.{host}}}"))
        .collect();
    let manifest = Manifest::parse(&format!(
        "apiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: chat, namespace: models}}\n\
         spec: {{addresses: [10.96.0.1], ports: [{{port: 80}}], backends: [{}]}}\n",
        backends.join(", ")
    ));
    let resources = Resources::merge([("test", &manifest)]).unwrap();
    let service = resources.services().values().next().unwrap();
    let sent = to_xds::resources(service, &[], None);
    let response = |type_url: &str, named: Vec<(String, Any)>| DeltaDiscoveryResponse {
        system_version_info: version.to_owned(),
        type_url: type_url.to_owned(),
        resources: named
            .into_iter()
            .map(|(name, resource)| Resource {
                name,
                version: version.to_owned(),
                resource: Some(resource),
                ..Resource::default()
            })
            .collect(),
        ..DeltaDiscoveryResponse::default()
    };
    let clusters = sent
        .clusters
        .into_iter()
        .map(|it| (it.name.clone(), it.into_any()));
    let assignments = sent.assignments.into_iter();
    let assignments = assignments.map(|it| (it.cluster_name.clone(), it.into_any()));
    let listeners = sent
        .listeners
        .into_iter()
        .map(|it| (it.name.clone(), it.into_any()));
    Peer {
        clusters: response(type_url::CLUSTER, clusters.collect()),
        assignments: response(type_url::ASSIGNMENT, assignments.collect()),
        listeners: response(type_url::LISTENER, listeners.collect()),
    }
}

fn removal(type_url: &str, name: &str) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        type_url: type_url.to_owned(),
        removed_resources: vec![name.to_owned()],
        ..DeltaDiscoveryResponse::default()
    }
}

fn session() -> Session<Received> {
    let session = Session::new(Received::default());
    session.open(Node::default());
    session
}

fn settled(source: &mut ControlSource, peer: Peer) -> Session<Received> {
    let mut session = session();
    for response in [peer.clusters, peer.listeners, peer.assignments] {
        session.respond(response);
    }
    assert!(source.apply(&mut session, false).is_some());
    session
}

fn open(folder: &TempDir) -> ControlSource {
    ControlSource::open(
        "http://control:15010".to_owned(),
        folder.path(),
        Locality::default(),
    )
    .unwrap()
}

fn backends(version: Option<Version>) -> Option<Vec<usize>> {
    let (desired, _) = version?;
    let frontends = desired.frontends.values();
    Some(frontends.map(|frontend| frontend.backends.len()).collect())
}

#[test]
fn the_first_state_waits_until_it_is_complete() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, mut session, peer) = (open(&folder), session(), peer(2, "7"));
    assert!(source.desired().is_none());
    let why = source.status().borrow().why_not_yet();
    assert!(why.contains("connecting to http://control:15010"), "{why}");
    session.respond(peer.clusters);
    assert!(
        source.apply(&mut session, true).is_none(),
        "listeners were not answered"
    );
    session.respond(peer.listeners);
    assert!(
        source.apply(&mut session, false).is_none(),
        "endpoints are to come"
    );
    source.note(|status| status.connected = Some("http://control:15010".to_owned()));
    let why = source.status().borrow().why_not_yet();
    assert!(why.contains("models/chat/80"), "{why}");
    session.respond(peer.assignments);
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![2]));
    let status = source.status().borrow().clone();
    let control = status.control.as_ref().unwrap();
    assert_eq!((status.generation, control.version.as_str()), (1, "7"));
    let versions = [0, 1, 9].map(|generation| control.version_of(generation));
    assert_eq!(versions, ["", "7", "7"]);
    let counts = [&control.rejected, &control.unsupported, &control.waiting].map(|it| it.count);
    assert_eq!(counts, [0, 0, 0]);
}

#[test]
fn patience_with_endpoints_that_never_come_ends() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, mut session, peer) = (open(&folder), session(), peer(2, "7"));
    session.respond(peer.clusters);
    session.respond(peer.listeners);
    assert!(source.apply(&mut session, false).is_none());
    assert!(source.apply(&mut session, true).is_some());
    let status = source.status().borrow().clone();
    assert_eq!(status.control.as_ref().unwrap().waiting.count, 1);
}

#[test]
fn endpoints_that_are_said_to_be_missing_are_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, mut session, peer) = (open(&folder), session(), peer(2, "7"));
    session.respond(peer.clusters);
    session.respond(peer.listeners);
    session.respond(removal(type_url::ASSIGNMENT, "models/chat/80"));
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![0]));
}

#[test]
fn a_service_that_worked_keeps_its_endpoints_until_it_is_told_otherwise() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open(&folder);
    let mut session = settled(&mut source, peer(2, "7"));
    // The cluster goes and comes back: its endpoints have to be asked for again.
    session.respond(removal(type_url::CLUSTER, "models/chat/80"));
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![2]));
    let after = peer(3, "8");
    session.respond(after.clusters);
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![2]));
    session.respond(after.assignments);
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![3]));
    session.respond(removal(type_url::LISTENER, "models/chat/80/v4"));
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![]));
}

#[test]
fn the_state_on_disk_is_in_force_until_the_control_plane_has_said_everything() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open(&folder);
    let disk = source.saver();
    settled(&mut source, peer(2, "7"));
    let state = disk.states.borrow().clone().unwrap();
    disk.file.write(&state.version, &state.resources).unwrap();

    let (mut source, mut session, after) = (open(&folder), session(), peer(3, "8"));
    assert_eq!(backends(source.desired()), Some(vec![2]));
    assert!(!source.is_current());
    session.respond(after.clusters);
    session.respond(after.listeners);
    assert!(source.apply(&mut session, false).is_none());
    session.respond(after.assignments);
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![3]));
    assert!(source.is_current());
    assert_eq!(source.status().borrow().generation, 2);
}

#[test]
fn a_service_on_disk_outlives_the_patience_with_its_endpoints() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open(&folder);
    let disk = source.saver();
    settled(&mut source, peer(2, "7"));
    let state = disk.states.borrow().clone().unwrap();
    disk.file.write(&state.version, &state.resources).unwrap();

    let (mut source, mut session, after) = (open(&folder), session(), peer(3, "8"));
    session.respond(after.clusters);
    session.respond(after.listeners);
    assert_eq!(backends(source.apply(&mut session, true)), Some(vec![2]));
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![2]));
    session.respond(after.assignments);
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![3]));
    session.respond(removal(type_url::LISTENER, "models/chat/80/v4"));
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![]));
}

#[test]
fn an_unusable_state_on_disk_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let file = SnapshotFile::new(folder.path()).unwrap();
    fs::write(file.path(), "nonsense\n").unwrap();
    let source = open(&folder);
    assert!(source.desired().is_none());
    assert!(!file.path().exists());
}

#[test]
fn a_refused_resource_is_told_and_its_former_version_stays() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open(&folder);
    let mut session = settled(&mut source, peer(2, "7"));
    let mut bad = peer(3, "8").assignments;
    bad.resources[0].resource.as_mut().unwrap().value = vec![0xff; 9];
    let answer = session.respond(bad).swap_remove(0);
    assert!(answer.error_detail.unwrap().message.contains("models/chat/80"));
    assert_eq!(backends(source.apply(&mut session, false)), Some(vec![2]));
    let status = source.status().borrow().clone();
    let control = status.control.as_ref().unwrap();
    assert_eq!((control.nacks, control.rejected.count), (1, 1));
    let told = &control.rejected.listed[0];
    assert!(told.contains("models/chat/80"), "{told}");
}

#[test]
fn a_long_list_of_complaints_is_cut() {
    let complaints = Complaints::collect(0..120);
    let lines: Vec<String> = complaints.lines().collect();
    assert_eq!(
        (complaints.count, lines.len(), lines[50].as_str()),
        (120, 51, "and 70 more")
    );
}
