// SPDX-License-Identifier: Apache-2.0
//! Watches of resources, and differences of states.

use futures_util::{StreamExt as _, stream::BoxStream};
use nodemesh_model::Kind;
use serde_json::Value;

use super::{Fixture, apply, both, delete, key, service, workload};
use crate::{
    registry::{Changed, Registry, WatchEvent},
    store::{Revision, StoreError},
};

fn in_namespace(mut document: Value, namespace: &str) -> Value {
    document["metadata"]["namespace"] = namespace.into();
    document
}

async fn watch(
    registry: &Registry,
    kind: Option<Kind>,
    namespace: Option<&str>,
    from: Revision,
) -> BoxStream<'static, Result<WatchEvent, StoreError>> {
    registry
        .watch(kind, namespace.map(str::to_owned), from)
        .await
        .unwrap()
        .boxed()
}

async fn told(watch: &mut BoxStream<'static, Result<WatchEvent, StoreError>>, count: usize) -> Vec<String> {
    let mut told = Vec::new();
    for _ in 0..count {
        let next = tokio::time::timeout(super::PATIENCE, watch.next()).await;
        let event = next.expect("the watch should tell").unwrap().unwrap();
        let verb = if matches!(event, WatchEvent::Set(_)) {
            "set"
        } else {
            "removed"
        };
        told.push(format!("{verb} {}", event.key()));
    }
    told
}

#[tokio::test]
async fn a_watch_tells_the_changes_of_its_kind_and_namespace() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let from = apply(registry, service("before")).await.unwrap().version;
    apply(registry, workload("w")).await.unwrap();
    apply(registry, in_namespace(service("a"), "other"))
        .await
        .unwrap();
    apply(registry, service("a")).await.unwrap();
    delete(registry, key(Kind::Service, "a")).await.unwrap();
    let all = [
        "set Workload/default/w",
        "set Service/other/a",
        "set Service/default/a",
        "removed Service/default/a",
    ];
    let mut everything = watch(registry, None, None, from).await;
    assert_eq!(told(&mut everything, 4).await, all);
    let mut services = watch(registry, Some(Kind::Service), None, from).await;
    assert_eq!(told(&mut services, 3).await, all[1..]);
    let mut of_default = watch(registry, Some(Kind::Service), Some("default"), from).await;
    assert_eq!(told(&mut of_default, 2).await, all[2..]);
    let mut of_any_kind = watch(registry, None, Some("default"), from).await;
    assert_eq!(told(&mut of_any_kind, 3).await, [all[0], all[2], all[3]]);
    apply(registry, service("later")).await.unwrap();
    for watch in [&mut everything, &mut services, &mut of_default, &mut of_any_kind] {
        assert_eq!(told(watch, 1).await, ["set Service/default/later"]);
    }
    let error = registry.watch(None, None, Revision(0)).await.err().unwrap();
    assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
}

#[tokio::test]
async fn a_difference_of_states_is_what_happened_between_them() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    for name in ["a", "b", "c"] {
        apply(registry, service(name)).await.unwrap();
    }
    let old = registry.state();
    let mut changed = service("b");
    changed["spec"]["ports"][0]["port"] = 81.into();
    apply(registry, changed).await.unwrap();
    delete(registry, key(Kind::Service, "c")).await.unwrap();
    apply(registry, workload("w")).await.unwrap();
    let new = registry.state();
    let differences: Vec<String> = new
        .changed_since(&old)
        .map(|change| match change {
            Changed::Set { old: None, new } => format!("+{}", new.key),
            Changed::Set { old: Some(old), new } => format!(
                "{}..{} {}",
                old.version < new.version,
                old.key == new.key,
                new.key
            ),
            Changed::Removed { old } => format!("-{}", old.key),
        })
        .collect();
    assert_eq!(
        differences,
        [
            "true..true Service/default/b",
            "-Service/default/c",
            "+Workload/default/w"
        ]
    );
    assert_eq!(new.changed_since(&new).count(), 0);
    assert_eq!(old.services().count(), 3, "a state does not change");
    let names: Vec<_> = new
        .services_of("default")
        .map(|service| service.metadata.name.name().to_owned())
        .collect();
    assert_eq!(names, ["a", "b"]);
    assert_eq!(new.services_of("No Namespace").count(), 0);
}
