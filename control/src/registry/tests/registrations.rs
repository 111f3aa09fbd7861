// SPDX-License-Identifier: Apache-2.0
//! Servers that register themselves, and go.

use std::time::{Duration, Instant};

use nodemesh_model::Kind;

use super::{Fixture, apply, both, delete, eventually, key, service, workload};
use crate::{registry::RegistryError, store::StoreError};

const TTL: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn who_does_not_renew_is_gone_within_a_second() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let renewed = registry.register(workload("renewed"), TTL).await.unwrap();
    let registration = registry.register(workload("silent"), TTL).await.unwrap();
    let (start, silent) = (Instant::now(), registration.key);
    assert_eq!(
        registry.state().get(&silent).unwrap().lease,
        Some(registration.lease.id)
    );
    let mut states = registry.subscribe();
    while registry.state().get(&silent).is_some() {
        registry.renew(renewed.lease.id).await.unwrap();
        let _ = tokio::time::timeout(TTL / 10, states.changed()).await;
        assert!(start.elapsed() < registration.lease.ttl + Duration::from_secs(1));
    }
    assert!(start.elapsed() + Duration::from_millis(100) > registration.lease.ttl);
    assert!(registry.state().get(&renewed.key).is_some());
    let error = registry.renew(registration.lease.id).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Store(StoreError::LeaseGone { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("register again"), "{error}");
}

#[tokio::test]
async fn who_deregisters_is_gone_at_once() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let registration = registry.register(workload("w"), LONG).await.unwrap();
    registry.deregister(registration.lease.id).await.unwrap();
    eventually(registry, |state| state.get(&registration.key).is_none()).await;
    registry.deregister(registration.lease.id).await.unwrap_err();
}

#[tokio::test]
async fn who_registers_again_takes_over() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let first = registry.register(workload("w"), LONG).await.unwrap();
    let second = registry.register(workload("w"), LONG).await.unwrap();
    assert!(second.version > first.version);
    assert_eq!(
        registry.state().get(&second.key).unwrap().lease,
        Some(second.lease.id)
    );
    let error = registry.renew(first.lease.id).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Store(StoreError::LeaseGone { .. })),
        "{error}"
    );
    assert_eq!(registry.renew(second.lease.id).await.unwrap(), second.lease);
    assert!(
        registry.state().get(&second.key).is_some(),
        "the end of the first lease does not take it along"
    );
}

#[tokio::test]
async fn servers_and_users_do_not_overwrite_each_other() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let registration = registry.register(workload("registered"), LONG).await.unwrap();
    apply(registry, workload("applied")).await.unwrap();
    let error = apply(registry, workload("registered")).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Registered { lease, .. } if lease == registration.lease.id),
        "{error}"
    );
    let error = registry.register(workload("applied"), LONG).await.unwrap_err();
    assert!(matches!(error, RegistryError::Applied { .. }), "{error}");
    let error = registry.register(service("llama"), LONG).await.unwrap_err();
    assert!(matches!(error, RegistryError::NotAWorkload { .. }), "{error}");
    delete(registry, registration.key.clone()).await.unwrap();
    let error = registry.renew(registration.lease.id).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Store(StoreError::LeaseGone { .. })),
        "the server learns it: {error}"
    );
    apply(registry, workload("registered")).await.unwrap();
    for ttl in [
        Duration::ZERO,
        Duration::from_secs(1),
        Duration::from_secs(86_401),
    ] {
        let error = registry.register(workload("w"), ttl).await.unwrap_err();
        assert!(matches!(error, RegistryError::Ttl { .. }), "{error}");
    }
}

#[tokio::test]
async fn registrations_survive_a_restart() {
    let fixture = Fixture::new(both()).await;
    let registration = fixture.registry.register(workload("w"), LONG).await.unwrap();
    let fixture = fixture.restarted(both()).await;
    let entry = fixture
        .registry
        .state()
        .get(&key(Kind::Workload, "w"))
        .cloned()
        .unwrap();
    assert_eq!(
        (entry.version, entry.lease),
        (registration.version, Some(registration.lease.id))
    );
    assert_eq!(
        fixture.registry.renew(registration.lease.id).await.unwrap(),
        registration.lease
    );
    fixture.registry.deregister(registration.lease.id).await.unwrap();
    eventually(&fixture.registry, |state| state.count(Kind::Workload) == 0).await;
}

#[tokio::test]
async fn a_registered_workload_claims_its_cgroup() {
    let Fixture { registry, .. } = &Fixture::new(both()).await;
    let with_cgroup = |name: &str| {
        let mut workload = workload(name);
        workload["spec"]["cgroup"] = "pod1".into();
        workload
    };
    let first = registry.register(with_cgroup("a"), LONG).await.unwrap();
    let error = registry.register(with_cgroup("b"), LONG).await.unwrap_err();
    assert!(matches!(error, RegistryError::Taken(_)), "{error}");
    registry.deregister(first.lease.id).await.unwrap();
    eventually(registry, |state| state.count(Kind::Workload) == 0).await;
    registry.register(with_cgroup("b"), LONG).await.unwrap();
}
