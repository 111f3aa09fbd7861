// SPDX-License-Identifier: Apache-2.0
//! Apply, Get, List, Delete and Watch.

use nodemesh_proto::v1::{
    ApplyRequest, ApplyResponse, DeleteRequest, GetRequest, ListRequest, WatchRequest,
    apply_response::Outcome, registry_client::RegistryClient, watch_event::Type,
};
use serde_json::{Value, json};
use tonic::{Code, Status, transport::Channel};

use crate::harness::{Control, service, soon, workload};

async fn apply(
    client: &mut RegistryClient<Channel>,
    document: &Value,
    expect_version: &str,
) -> Result<ApplyResponse, Status> {
    let request = ApplyRequest {
        resource: document.to_string(),
        expect_version: expect_version.to_owned(),
        dry_run: false,
    };
    client.apply(request).await.map(tonic::Response::into_inner)
}

fn get(kind: &str, namespace: &str, name: &str) -> GetRequest {
    GetRequest {
        kind: kind.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    }
}

fn delete(kind: &str, name: &str, expect_version: &str) -> DeleteRequest {
    DeleteRequest {
        kind: kind.to_owned(),
        namespace: "models".to_owned(),
        name: name.to_owned(),
        expect_version: expect_version.to_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_lives_from_apply_to_delete() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let created = apply(&mut client, &service("llama", &["10.96.0.1"]), "0")
        .await
        .unwrap();
    assert_eq!(created.outcome(), Outcome::Created);
    let entry = created.entry.unwrap();
    assert_eq!((entry.kind.as_str(), entry.name.as_str()), ("Service", "llama"));

    let again = apply(&mut client, &service("llama", &["10.96.0.1"]), "")
        .await
        .unwrap();
    assert_eq!(again.outcome(), Outcome::Unchanged);
    assert_eq!(again.entry.unwrap().version, entry.version);

    let changed = apply(&mut client, &service("llama", &["10.96.0.2"]), &entry.version)
        .await
        .unwrap();
    assert_eq!(changed.outcome(), Outcome::Updated);
    let version = changed.entry.unwrap().version;
    let found = client
        .get(get("Service", "models", "llama"))
        .await
        .unwrap()
        .into_inner()
        .entry
        .unwrap();
    assert_eq!(found.version, version);
    let document: Value = serde_json::from_str(&found.resource).unwrap();
    assert_eq!(document.pointer("/spec/addresses/0"), Some(&json!("10.96.0.2")));

    client.delete(delete("Service", "llama", &version)).await.unwrap();
    let gone = client.get(get("Service", "models", "llama")).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_its_code() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let first = apply(&mut client, &service("llama", &["10.96.0.1"]), "")
        .await
        .unwrap();
    let version = first.entry.unwrap().version;
    let other = (version.parse::<u64>().unwrap() + 1000).to_string();
    let mut nameless = service("x", &["10.96.0.9"]);
    nameless["metadata"]["name"] = json!("Not A Name");
    let mut unknown = service("x", &["10.96.0.9"]);
    unknown["kind"] = json!("Gadget");
    let mut typo = service("x", &["10.96.0.9"]);
    typo["spec"]["portz"] = json!([]);
    let moved = service("llama", &["10.96.0.3"]);
    for (name, document, expected, code, said) in [
        (
            "wrong version",
            &moved,
            other.as_str(),
            Code::Aborted,
            "found version",
        ),
        ("must not exist", &moved, "0", Code::Aborted, "expected none"),
        ("no version", &moved, "x", Code::InvalidArgument, "expect_version"),
        (
            "taken",
            &service("qwen", &["10.96.0.1"]),
            "",
            Code::AlreadyExists,
            "models/llama",
        ),
        (
            "no range",
            &service("qwen", &[]),
            "",
            Code::FailedPrecondition,
            "--address-range",
        ),
        ("name", &nameless, "", Code::InvalidArgument, "metadata.name"),
        ("kind", &unknown, "", Code::InvalidArgument, "Gadget"),
        ("field", &typo, "", Code::InvalidArgument, "portz"),
        ("list", &json!([1]), "", Code::InvalidArgument, "JSON object"),
        ("number", &json!(1), "", Code::InvalidArgument, "JSON object"),
    ] {
        let status = apply(&mut client, document, expected).await.expect_err(name);
        assert_eq!(status.code(), code, "{name}: {status}");
        assert!(status.message().contains(said), "{name}: {status}");
    }
    let many = json!({"apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": "A"},
                      "spec": {"addresses": ["x"], "ports": [{"port": 0}]}});
    let status = apply(&mut client, &many, "").await.unwrap_err();
    for field in ["metadata.name", "spec.addresses", "spec.ports"] {
        assert!(status.message().contains(field), "{field} in {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_do_not_fit_have_their_codes() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let first = apply(&mut client, &service("llama", &["10.96.0.1"]), "")
        .await
        .unwrap();
    let other = format!("{}000", first.entry.unwrap().version);
    for (request, code) in [
        (get("Service", "models", "x"), Code::NotFound),
        (get("Gadget", "", "x"), Code::InvalidArgument),
        (get("Service", "../..", "x"), Code::InvalidArgument),
        (get("Service", "", ""), Code::InvalidArgument),
    ] {
        assert_eq!(
            client.get(request.clone()).await.unwrap_err().code(),
            code,
            "{request:?}"
        );
    }
    for (request, code) in [
        (delete("Service", "x", ""), Code::NotFound),
        (delete("Service", "llama", &other), Code::Aborted),
        (delete("Service", "llama", "0"), Code::InvalidArgument),
    ] {
        assert_eq!(
            client.delete(request.clone()).await.unwrap_err().code(),
            code,
            "{request:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_documents_are_refused_and_nothing_breaks() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let deep = "[".repeat(200_000);
    let nested = format!("{}1{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    for text in [
        "",
        "{",
        "null",
        "\"x\"",
        "{\"kind\": }",
        "\u{0}",
        &deep,
        &nested,
        "{}",
        "{\"kind\": 7}",
    ] {
        let request = ApplyRequest {
            resource: text.to_owned(),
            ..ApplyRequest::default()
        };
        let status = client.apply(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{text:.20}: {status}");
    }
    apply(&mut client, &service("llama", &["10.96.0.1"]), "")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_be_and_writes_nothing() {
    let control = Control::start(&["--address-range", "10.96.0.0/24"]).await;
    let mut client = control.registry().await;
    let dry = |document: Value| ApplyRequest {
        resource: document.to_string(),
        expect_version: String::new(),
        dry_run: true,
    };
    let response = client
        .apply(dry(service("llama", &[])))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(response.outcome(), Outcome::Created);
    assert!(
        response.entry.unwrap().resource.contains("10.96.0."),
        "the address that it would get"
    );
    let listed = client.list(ListRequest::default()).await.unwrap().into_inner();
    assert_eq!(listed.entries, []);
    apply(&mut client, &service("llama", &["10.96.1.1"]), "")
        .await
        .unwrap();
    let taken = client
        .apply(dry(service("qwen", &["10.96.1.1"])))
        .await
        .unwrap_err();
    assert_eq!(taken.code(), Code::AlreadyExists);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_by_kind_and_namespace() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    apply(&mut client, &service("llama", &["10.96.0.1"]), "")
        .await
        .unwrap();
    apply(&mut client, &workload("w-0", "llama", "10.0.0.1"), "")
        .await
        .unwrap();
    let mut elsewhere = workload("w-1", "llama", "10.0.0.2");
    elsewhere["metadata"]["namespace"] = json!("other");
    apply(&mut client, &elsewhere, "").await.unwrap();
    for (kind, namespace, expected) in [
        ("", "", &["models/llama", "other/w-1", "models/w-0"][..]),
        ("Workload", "", &["models/w-0", "other/w-1"]),
        ("", "models", &["models/llama", "models/w-0"]),
        ("Workload", "other", &["other/w-1"]),
        ("TrafficPolicy", "", &[]),
        ("", "nowhere", &[]),
    ] {
        let request = ListRequest {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
        };
        let response = client.list(request).await.unwrap().into_inner();
        let mut names: Vec<_> = response
            .entries
            .iter()
            .map(|entry| format!("{}/{}", entry.namespace, entry.name))
            .collect();
        let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
        names.sort();
        expected.sort();
        assert_eq!(names, expected, "{kind:?} {namespace:?}");
        assert!(response.revision > 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_comes_and_goes() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    apply(&mut client, &service("llama", &["10.96.0.1"]), "")
        .await
        .unwrap();
    let revision = client
        .list(ListRequest::default())
        .await
        .unwrap()
        .into_inner()
        .revision;
    let request = WatchRequest {
        kind: "Workload".to_owned(),
        namespace: "models".to_owned(),
        from_revision: revision,
    };
    apply(&mut client, &workload("before", "llama", "10.0.0.1"), "")
        .await
        .unwrap();
    let mut events = client.watch(request).await.unwrap().into_inner();
    apply(&mut client, &service("qwen", &["10.96.0.2"]), "")
        .await
        .unwrap();
    apply(&mut client, &workload("after", "llama", "10.0.0.2"), "")
        .await
        .unwrap();
    client.delete(delete("Workload", "before", "")).await.unwrap();
    let mut last = revision;
    for (kind, name) in [
        (Type::Put, "before"),
        (Type::Put, "after"),
        (Type::Delete, "before"),
    ] {
        let event = soon("an event", events.message()).await.unwrap().unwrap();
        assert_eq!(event.r#type(), kind);
        assert!(event.revision > last, "revisions grow");
        last = event.revision;
        assert_eq!(event.entry.unwrap().name, name);
    }
    let future = WatchRequest {
        from_revision: last + 1_000_000,
        ..WatchRequest::default()
    };
    let status = match client.watch(future).await {
        Ok(events) => soon("an error", events.into_inner().message()).await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(status.code(), Code::OutOfRange);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_its_service_is_warned_about() {
    let control = Control::start(&[]).await;
    let mut client = control.registry().await;
    let policy = json!({
        "apiVersion": "nodemesh.io/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"namespace": "models", "name": "lb"},
        "spec": {"targetRef": {"kind": "Service", "name": "llama"}},
    });
    let response = apply(&mut client, &policy, "").await.unwrap();
    assert_eq!(response.warnings.len(), 1, "{:?}", response.warnings);
    apply(&mut client, &service("llama", &["10.96.0.1"]), "")
        .await
        .unwrap();
    assert_eq!(apply(&mut client, &policy, "").await.unwrap().warnings, [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_is_there_after_a_restart() {
    let control = Control::start(&["--address-range", "10.96.0.0/16"]).await;
    let mut client = control.registry().await;
    let created = apply(&mut client, &service("llama", &[]), "")
        .await
        .unwrap()
        .entry
        .unwrap();
    let Control { app, folder } = control;
    app.stop().await;
    let app = soon("the lock of the store is free", async {
        loop {
            match crate::harness::start_in(folder.path(), &["--address-range", "10.96.0.0/16"]).await {
                Ok(app) => return app,
                Err(error) => assert!(format!("{error:#}").contains("another process"), "{error:#}"),
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let control = Control { app, folder };
    let mut client = control.registry().await;
    let found = client
        .get(get("Service", "models", "llama"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(found.entry, Some(created));
}
