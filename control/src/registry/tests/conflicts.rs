// SPDX-License-Identifier: Apache-2.0
//! What may enter: valid documents, under the version that the writer knows, that go together with the others.

use nodemesh_model::Kind;
use serde_json::{Value, json};

use super::{Fixture, apply, both, delete, document, key, policy, service, service_at, workload};
use crate::{
    registry::{RegistryError, RegistryOptions},
    store::{Precondition, Revision},
};

#[tokio::test]
async fn a_resource_is_created_changed_and_deleted() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let created = apply(registry, service("llama")).await.unwrap();
    assert!(created.is_new && created.is_changed);
    assert_eq!(created.key, key(Kind::Service, "llama"));
    let state = registry.state();
    assert_eq!(
        state.get(&created.key).unwrap().version,
        created.version,
        "who wrote it sees it"
    );
    assert!(state.revision >= created.version);

    let again = apply(registry, service("llama")).await.unwrap();
    assert!(!again.is_new && !again.is_changed);
    assert_eq!(again.version, created.version);

    let mut other = service("llama");
    other["spec"]["ports"][0]["port"] = 81.into();
    let changed = registry
        .apply(other, Precondition::Version(created.version))
        .await
        .unwrap();
    assert!(!changed.is_new && changed.is_changed && changed.version > created.version);

    let deleted = delete(registry, created.key.clone()).await.unwrap();
    assert!(deleted.is_changed && deleted.version > changed.version);
    assert_eq!(registry.state().count(Kind::Service), 0);
    let error = delete(registry, created.key).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotFound { .. }), "{error}");
    assert_eq!(error.to_string(), "Service/default/llama does not exist");
}

#[tokio::test]
async fn a_writer_that_knows_another_version_is_told() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let first = apply(registry, workload("w")).await.unwrap();
    let mut changed = workload("w");
    changed["spec"]["weight"] = 2.into();
    let second = registry
        .apply(changed.clone(), Precondition::Version(first.version))
        .await
        .unwrap();
    for (expected, text) in [
        (Precondition::Absent, "expected none".to_owned()),
        (
            Precondition::Version(first.version),
            format!("expected version {}", first.version),
        ),
        (
            Precondition::Version(Revision(99_999)),
            "expected version 99999".to_owned(),
        ),
    ] {
        for result in [
            registry.apply(changed.clone(), expected).await,
            registry.delete(&first.key, expected).await,
        ] {
            let error = result.unwrap_err();
            assert!(
                matches!(&error, RegistryError::Conflict { found, .. } if *found == Some(second.version)),
                "{error}"
            );
            assert!(error.to_string().contains(&text), "{error}");
        }
    }
    assert_eq!(registry.state().get(&first.key).unwrap().version, second.version);
    let error = registry
        .apply(workload("x"), Precondition::Version(first.version))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("found none; get it again"), "{error}");
}

#[tokio::test]
async fn what_is_not_valid_is_refused_with_the_reason() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let mut nameless = service("llama");
    nameless["metadata"] = json!({});
    for (document, texts) in [
        (
            document("Gateway", "a", &json!({})),
            &["Gateway", "Service", "Workload", "TrafficPolicy", "AccessPolicy"][..],
        ),
        (
            document(
                "AccessPolicy",
                "a",
                &json!({"targetRef": {"kind": "Service", "name": "llama"}, "default": "block"}),
            ),
            &["AccessPolicy", "spec.default"],
        ),
        (
            document("Service", "Llama", &json!({"ports": [{"port": 1}]})),
            &["Llama", "DNS label"],
        ),
        (
            service_at("llama", &["10.0.0.300"]),
            &["10.0.0.300", "spec.addresses[0]"],
        ),
        (
            document("Service", "llama", &json!({"ports": [{"port": 0}]})),
            &["spec.ports[0].port", "1 to 65535"],
        ),
        (nameless, &["metadata.name"]),
        (Value::Null, &[""]),
        (json!([service("a"), service("b")]), &[""]),
        (json!("Service"), &[""]),
    ] {
        let error = apply(registry, document.clone()).await.unwrap_err();
        assert!(matches!(error, RegistryError::Invalid(_)), "{document}: {error}");
        let error = error.to_string();
        for text in texts {
            assert!(error.contains(text), "{text:?}: {error}");
        }
        assert!(!error.is_empty(), "{document}");
    }
    assert_eq!(registry.state().entries().count(), 0);
}

#[tokio::test]
async fn what_two_cannot_both_have_is_refused_naming_both() {
    let Fixture { registry, .. } = &Fixture::new(RegistryOptions::default()).await;
    let in_cgroup = |name: &str| {
        let mut workload = workload(name);
        workload["spec"]["cgroup"] = "kubepods/pod1".into();
        workload
    };
    let owners = [
        service_at("first", &["10.0.0.1", "fd00::1"]),
        policy("first", "llama"),
        in_cgroup("first"),
    ];
    for owner in owners {
        apply(registry, owner).await.unwrap();
    }
    let seconds = || {
        [
            service_at("second", &["10.0.0.2", "fd00::1"]),
            policy("second", "llama"),
            in_cgroup("second"),
        ]
    };
    for (second, what) in seconds()
        .into_iter()
        .zip(["fd00::1", "Service default/llama", "kubepods/pod1"])
    {
        let error = apply(registry, second).await.unwrap_err();
        assert!(matches!(error, RegistryError::Taken(_)), "{error}");
        let error = error.to_string();
        for text in ["default/first", "default/second", what] {
            assert!(error.contains(text), "{text}: {error}");
        }
    }
    for kind in [Kind::Service, Kind::TrafficPolicy, Kind::Workload] {
        delete(registry, key(kind, "first")).await.unwrap();
    }
    for second in seconds() {
        apply(registry, second).await.expect("it is free again");
    }
    let mut other_port = service_at("third", &["10.0.0.3", "fd00::1"]);
    other_port["spec"]["ports"][0]["port"] = 81.into();
    apply(registry, other_port)
        .await
        .expect("another port of the same address is something else");
}
