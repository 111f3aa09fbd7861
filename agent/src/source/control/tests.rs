// SPDX-License-Identifier: Apache-2.0
//! What comes in force and when, with resources as nodemesh's own control plane writes them.

use std::fs;

use nodemesh_model::Manifest;
use nodemesh_proto::{
    IntoAny as _, to_xds, type_url,
    xds::{
        envoy::{
            config::core::v3::{ControlPlane, Node},
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

/// A response with a policy that denies all of `models`.
fn closed() -> DeltaDiscoveryResponse {
    let manifest = Manifest::parse(
        "apiVersion: nodemesh.io/v1alpha1\nkind: AccessPolicy\nmetadata: {name: closed, namespace: models}\n\
         spec: {targetRef: {kind: Service}, default: deny}\n",
    );
    let resources = Resources::merge([("test", &manifest)]).unwrap();
    let policy = resources.access_policies().values().next().unwrap();
    let (name, document) = to_xds::access_policy(policy);
    DeltaDiscoveryResponse {
        type_url: type_url::POLICY_DOCUMENT.to_owned(),
        resources: vec![Resource {
            name,
            version: "1".to_owned(),
            resource: Some(document.into_any()),
            ..Resource::default()
        }],
        ..DeltaDiscoveryResponse::default()
    }
}

fn is_closed(version: &Version) -> bool {
    let (desired, _) = version;
    let mut frontends = desired.frontends.values();
    frontends.all(|frontend| frontend.access.is_some()) && !desired.frontends.is_empty()
}

#[test]
fn who_may_connect_stays_as_on_disk_until_the_control_plane_has_said_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut source = open(&folder);
    let disk = source.saver();
    let (mut first, before) = (session(), peer(2, "7"));
    first.respond(closed());
    for response in [before.clusters, before.assignments, before.listeners] {
        first.respond(response);
    }
    assert!(is_closed(&source.apply(&mut first, false).unwrap()));
    let state = disk.states.borrow().clone().unwrap();
    disk.file.write(&state.version, &state.resources).unwrap();

    // A control plane that says nothing of policies, as fast as it may, and for longer than anybody is patient.
    let (mut source, mut session, after) = (open(&folder), session(), peer(3, "8"));
    assert!(is_closed(&source.desired().unwrap()));
    for response in [after.clusters, after.assignments, after.listeners] {
        session.respond(response);
    }
    for _ in 0..2 {
        let version = source.apply(&mut session, true).unwrap();
        assert!(is_closed(&version));
        assert_eq!(backends(Some(version)), Some(vec![3]), "all else is new");
        let warnings = source.status().borrow().warnings.clone();
        assert!(warnings.contains(&GUARDS_KEPT.to_owned()), "{warnings:?}");
    }
    // It says that there are none.
    for type_url in [type_url::WORKLOAD_TABLE, type_url::POLICY_DOCUMENT] {
        session.respond(removal(type_url, "AccessPolicy/models/closed"));
    }
    assert!(!is_closed(&source.apply(&mut session, false).unwrap()));
    assert_eq!(source.status().borrow().warnings, [""; 0]);
}

#[test]
fn a_control_plane_that_knows_policies_must_say_them_first() {
    let folder = tempfile::tempdir().unwrap();
    let (mut source, mut session, peer) = (open(&folder), session(), peer(2, "7"));
    let own = |mut response: DeltaDiscoveryResponse| {
        response.control_plane = Some(ControlPlane {
            identifier: nodemesh_proto::CONTROL_PLANE.to_owned(),
        });
        response
    };
    for response in [peer.clusters, peer.assignments, peer.listeners] {
        session.respond(own(response));
    }
    assert!(source.apply(&mut session, true).is_none());
    session.respond(own(removal(type_url::WORKLOAD_TABLE, "models/nobody")));
    assert!(source.apply(&mut session, true).is_none());
    session.respond(own(closed()));
    assert!(is_closed(&source.apply(&mut session, false).unwrap()));
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
