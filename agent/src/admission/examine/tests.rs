// SPDX-License-Identifier: Apache-2.0
//! Connections before and after a change of policy, and of addresses.

use nodemesh_abi::{Ip16, Port, Protocol};
use nodemesh_model::{Desired, FrontendBackend, Manifest, Resources, resource::Locality};
use zerocopy::FromZeros as _;

use super::*;
use crate::reconcile::ledger::BackendId;

/// A service with two clients, of which `policy` says who may connect.
fn view(policy: &str, chat: &str) -> View {
    view_with(policy, chat, "")
}

/// The same with more resources.
fn view_with(policy: &str, chat: &str, more: &str) -> View {
    let manifest = Manifest::parse(&format!(
        "
apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {{name: llama, namespace: prod}}
spec: {{addresses: [10.1.0.1], ports: [{{port: 80, targetPort: 8000}}], backends: [{{address: 10.0.0.1}}]}}
---
apiVersion: nodemesh.io/v1alpha1
kind: Workload
metadata: {{name: chat, namespace: apps}}
spec: {{addresses: [{chat}]}}
---
apiVersion: nodemesh.io/v1alpha1
kind: AccessPolicy
metadata: {{name: who, namespace: prod}}
spec: {policy}
{more}"
    ));
    assert!(manifest.errors().is_empty(), "{}", manifest.errors());
    let resources = Resources::merge([("mesh.yaml", &manifest)]).expect("valid resources");
    let desired = Desired::compile(&resources, &Locality::default(), None).expect("a small mesh");
    let place = BackendId {
        id: 5,
        generation: 1,
        traffic: 1,
        since_ns: 0,
    };
    let frontends = desired.frontends.iter().map(|(name, frontend)| {
        Arc::new(Programmed {
            name: name.clone(),
            frontend: Arc::clone(frontend),
            service_id: 3,
            backends: frontend
                .backends
                .iter()
                .map(|_: &FrontendBackend| place)
                .collect(),
            rules: 0,
            policy: 1,
        })
    });
    let frontends = frontends.collect();
    let chat = PrincipalName::Workload(nodemesh_model::ResourceName::new("apps", "chat").unwrap());
    View {
        frontends,
        principals: [(1, chat)].into(),
        desired: Arc::new(desired),
        ..View::default()
    }
}

fn ip(text: &str) -> Ip16 {
    text.parse::<IpAddr>().unwrap().into()
}

fn connection(vantage: Vantage, identity: u32, client: &str) -> Connection {
    let mut connection = Connection::new_zeroed();
    connection.service = 3;
    connection.protocol = Protocol::Tcp as u16;
    connection.identity = identity;
    connection.meter.vantage = vantage as u8;
    (connection.backend_addr, connection.backend_port) = (ip("10.0.0.1"), Port::new(8000));
    (connection.client_addr, connection.client_port) = (ip(client), Port::new(40_000));
    if vantage == Vantage::Client {
        (connection.service_addr, connection.service_port) = (ip("10.1.0.1"), Port::new(80));
    }
    connection
}

const DENY_CHAT: &str = "{targetRef: {kind: Service}, rules: [{action: deny, from: [{workloads: [chat]}]}]}";
const ONLY_CHAT: &str =
    "{targetRef: {kind: Service}, default: deny, rules: [{action: allow, from: [{workloads: [chat]}]}]}";

#[test]
fn who_is_denied_now_is_denied_at_both_ends() {
    let view = view(DENY_CHAT, "10.0.0.7");
    let mut examiner = Examiner::new(&view);
    assert!(examiner.is_denied(&connection(Vantage::Client, 1, "10.0.0.7")));
    assert!(examiner.is_denied(&connection(Vantage::Server, 1, "10.0.0.7")));
    assert!(!examiner.is_denied(&connection(Vantage::Client, 0, "10.0.0.8")));
    assert!(!examiner.is_denied(&connection(Vantage::Server, 0, "10.0.0.8")));
}

#[test]
fn an_address_that_another_has_by_now_gives_no_access() {
    let before = connection(Vantage::Server, 1, "10.0.0.7");
    let allowed = view(ONLY_CHAT, "10.0.0.7");
    assert!(!Examiner::new(&allowed).is_denied(&before));
    let moved = view(ONLY_CHAT, "10.0.0.9");
    assert!(Examiner::new(&moved).is_denied(&before));
}

#[test]
fn a_number_that_nobody_has_any_more_is_unknown() {
    let view = view(ONLY_CHAT, "10.0.0.7");
    assert!(Examiner::new(&view).is_denied(&connection(Vantage::Client, 9, "10.0.0.7")));
}

#[test]
fn what_is_of_another_service_by_now_is_left_alone() {
    let view = view(DENY_CHAT, "10.0.0.7");
    let mut examiner = Examiner::new(&view);
    let mut elsewhere = connection(Vantage::Client, 1, "10.0.0.7");
    elsewhere.service_port = Port::new(81);
    assert!(!examiner.is_denied(&elsewhere));
    let mut elsewhere = connection(Vantage::Server, 1, "10.0.0.7");
    elsewhere.backend_addr = ip("10.0.0.2");
    assert!(!examiner.is_denied(&elsewhere));
}

/// One more service that leads to the same server.
fn second(namespace: &str) -> String {
    format!(
        "---
apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {{name: second, namespace: {namespace}}}
spec: {{addresses: [10.1.0.2], ports: [{{port: 80, targetPort: 8000}}], backends: [{{address: 10.0.0.1}}]}}
"
    )
}

#[test]
fn at_the_server_all_services_that_lead_there_are_asked() {
    let one =
        "{targetRef: {kind: Service, name: llama}, rules: [{action: deny, from: [{workloads: [chat]}]}]}";
    let (client, server) = (
        connection(Vantage::Client, 1, "10.0.0.7"),
        connection(Vantage::Server, 1, "10.0.0.7"),
    );
    let denied = |view: &View| {
        let mut examiner = Examiner::new(view);
        [&client, &server].map(|connection| examiner.is_denied(connection))
    };
    let open = view_with(one, "10.0.0.7", &second("prod"));
    let by_name = |view: &View| {
        let frontends = view.frontends.iter();
        frontends
            .map(|it| it.name.service.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(by_name(&open), ["llama", "second"]);
    // The examiner knows services by their ids, which are all the same here.
    let mut examiner = Examiner::new(&open);
    examiner.services = [(3, &open.frontends[0])].into();
    assert!(
        examiner.is_denied(&client),
        "it had dialled the one that denies it"
    );
    assert!(
        !examiner.is_denied(&server),
        "it may have dialled the one that does not"
    );
    let foreign = view_with(one, "10.0.0.7", &second("other"));
    assert!(
        denied(&foreign)[1],
        "a service of another namespace opens nothing"
    );
}
