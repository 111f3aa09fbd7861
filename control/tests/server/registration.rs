// SPDX-License-Identifier: Apache-2.0
//! Register, Renew and Deregister.

use futures_util::stream;
use nodemesh_proto::v1::{
    DeregisterRequest, GetRequest, RegisterRequest, RegisterResponse, RenewRequest,
    registry_client::RegistryClient,
};
use serde_json::Value;
use tokio::sync::mpsc;
use tonic::{Code, Status, transport::Channel};

use crate::harness::{Control, eventually, service, soon, workload};

async fn register(
    client: &mut RegistryClient<Channel>,
    document: &Value,
    ttl_seconds: u32,
    lease: i64,
) -> Result<RegisterResponse, Status> {
    let request = RegisterRequest {
        resource: document.to_string(),
        ttl_seconds,
        lease,
    };
    client.register(request).await.map(tonic::Response::into_inner)
}

async fn exists(client: &mut RegistryClient<Channel>, name: &str) -> bool {
    let request = GetRequest {
        kind: "Workload".to_owned(),
        namespace: "models".to_owned(),
        name: name.to_owned(),
    };
    match client.get(request).await {
        Ok(_) => true,
        Err(status) if status.code() == Code::NotFound => false,
        Err(status) => panic!("{status}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_lives_as_long_as_it_is_renewed() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let server = workload("w-0", "llama", "10.0.0.1");
    let registered = register(&mut client, &server, 2, 0).await.unwrap();
    assert_eq!(registered.ttl_seconds, 2);
    let (requests, receiver) = mpsc::channel(1);
    let renewals = stream::unfold(receiver, |mut receiver| async move {
        let request = receiver.recv().await?;
        Some((request, receiver))
    });
    let mut answers = client.renew(renewals).await.unwrap().into_inner();
    let lease = registered.lease;
    for asked in [lease, lease + 12345] {
        requests.send(RenewRequest { lease: asked }).await.unwrap();
        let answer = soon("an answer", answers.message()).await.unwrap().unwrap();
        let left = if asked == lease { 2 } else { 0 };
        assert_eq!((answer.lease, answer.ttl_seconds), (asked, left));
    }
    assert!(exists(&mut client, "w-0").await);
    eventually("the lease ends", || {
        let mut client = client.clone();
        async move { !exists(&mut client, "w-0").await }
    })
    .await;
    requests.send(RenewRequest { lease }).await.unwrap();
    let answer = soon("an answer", answers.message()).await.unwrap().unwrap();
    assert_eq!(answer.ttl_seconds, 0, "gone: register again");
    requests.send(RenewRequest { lease: -1 }).await.unwrap();
    let status = soon("an error", answers.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn deregistering_ends_it_at_once() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let lease = register(&mut client, &workload("w-0", "llama", "10.0.0.1"), 0, 0)
        .await
        .unwrap()
        .lease;
    client.deregister(DeregisterRequest { lease }).await.unwrap();
    eventually("it is gone", || {
        let mut client = client.clone();
        async move { !exists(&mut client, "w-0").await }
    })
    .await;
    for (lease, code) in [(lease, Code::NotFound), (0, Code::InvalidArgument)] {
        let status = client.deregister(DeregisterRequest { lease }).await.unwrap_err();
        assert_eq!(status.code(), code, "{lease}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_registration_takes_the_place_of_the_old_one() {
    let control = Control::start(&[
        "--lease-ttl",
        "30s",
        "--lease-ttl-min",
        "5s",
        "--lease-ttl-max",
        "60s",
    ])
    .await;
    let mut client = control.registry().await;
    let first = register(&mut client, &workload("w-0", "llama", "10.0.0.1"), 0, 0)
        .await
        .unwrap();
    assert_eq!(first.ttl_seconds, 30, "the default");
    let second = register(&mut client, &workload("w-1", "llama", "10.0.0.1"), 1, first.lease)
        .await
        .unwrap();
    assert_eq!(second.ttl_seconds, 5, "the least");
    assert_ne!(first.lease, second.lease);
    eventually("the former is gone", || {
        let mut client = client.clone();
        async move { !exists(&mut client, "w-0").await && exists(&mut client, "w-1").await }
    })
    .await;
    let third = register(&mut client, &workload("w-1", "llama", "10.0.0.2"), 3600, 0)
        .await
        .unwrap();
    assert_eq!(third.ttl_seconds, 60, "the most");
    assert!(exists(&mut client, "w-1").await);
    eventually("the metrics show it", || async {
        control.metric("nodemesh_control_leases").await == Some(1.0)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_valid_workloads_are_registered() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let mut bad = workload("w-0", "llama", "10.0.0.1");
    bad["spec"]["addresses"] = serde_json::json!(["nowhere"]);
    for (document, code) in [
        (service("llama", &["10.96.0.1"]), Code::InvalidArgument),
        (bad, Code::InvalidArgument),
        (Value::Null, Code::InvalidArgument),
    ] {
        let status = register(&mut client, &document, 10, 0).await.unwrap_err();
        assert_eq!(status.code(), code, "{document}: {status}");
    }
}
