// SPDX-License-Identifier: Apache-2.0
//! Virtual addresses: given, allocated, kept, kept back, and given back.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future;
use nodemesh_model::Kind;

use super::{Fixture, GRACE, addresses, apply, both, delete, eventually, key, options, service, service_at};
use crate::registry::{AddressError, AddressRanges, RegistryError, RegistryOptions};

#[tokio::test]
async fn a_service_has_the_same_addresses_until_it_is_deleted() {
    let mut fixture = Fixture::new(both()).await;
    apply(&fixture.registry, service("llama")).await.unwrap();
    let given = addresses(&fixture.registry.state(), "llama");
    assert!(
        given.len() == 2 && given[0].starts_with("10.96.") && given[1].starts_with("fd00:96::"),
        "{given:?}"
    );
    let mut changed = service("llama");
    changed["spec"]["ports"][0]["port"] = 81.into();
    apply(&fixture.registry, changed).await.unwrap();
    assert_eq!(addresses(&fixture.registry.state(), "llama"), given);
    for range in ["10.97.0.0/16", "10.98.0.0/16"] {
        fixture = fixture.restarted(options(&[range], GRACE)).await;
        assert!(
            !apply(&fixture.registry, service("qwen"))
                .await
                .unwrap()
                .version
                .to_string()
                .is_empty()
        );
        let mut again = service("llama");
        again["spec"]["ports"][0]["port"] = 82.into();
        apply(&fixture.registry, again).await.unwrap();
        assert_eq!(
            addresses(&fixture.registry.state(), "llama"),
            given,
            "other ranges do not move it"
        );
    }
    assert!(addresses(&fixture.registry.state(), "qwen")[0].starts_with("10.97."));
}

#[tokio::test]
async fn an_address_is_given_to_one_service_only() {
    let Fixture { registry, .. } = &Fixture::new(options(&["10.0.0.0/29"], Duration::ZERO)).await;
    apply(registry, service_at("given", &["10.0.0.3"])).await.unwrap();
    let mut seen = BTreeSet::from(["10.0.0.3".to_owned()]);
    for n in 0..5 {
        let name = format!("s{n}");
        apply(registry, service(&name)).await.unwrap();
        let address = addresses(&registry.state(), &name).remove(0);
        assert!(seen.insert(address.clone()), "{address} is given twice");
    }
    assert_eq!(
        seen.first().map(|first| &**first),
        Some("10.0.0.1"),
        "not the network itself"
    );
    assert_eq!(
        seen.last().map(|last| &**last),
        Some("10.0.0.6"),
        "nor the broadcast address"
    );
    let error = apply(registry, service("one-more")).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Address(AddressError::Exhausted { .. })),
        "{error}"
    );
    let error = apply(registry, service_at("same", &["10.0.0.4"]))
        .await
        .unwrap_err();
    assert!(matches!(error, RegistryError::Taken(_)), "{error}");
    delete(registry, key(Kind::Service, "s0")).await.unwrap();
    apply(registry, service("one-more"))
        .await
        .expect("without a grace period it is free at once");
}

#[tokio::test]
async fn a_released_address_is_kept_back_for_who_had_it() {
    let small = || options(&["10.0.0.0/29"], GRACE);
    let mut fixture = Fixture::new(small()).await;
    for n in 0..6 {
        apply(&fixture.registry, service(&format!("s{n}"))).await.unwrap();
    }
    let before = addresses(&fixture.registry.state(), "s3");
    delete(&fixture.registry, key(Kind::Service, "s3")).await.unwrap();
    for _ in 0..2 {
        let error = apply(&fixture.registry, service("other")).await.unwrap_err();
        assert!(
            matches!(error, RegistryError::Address(AddressError::Exhausted { .. })),
            "{error}"
        );
        fixture = fixture.restarted(small()).await;
    }
    apply(&fixture.registry, service("s3")).await.unwrap();
    assert_eq!(addresses(&fixture.registry.state(), "s3"), before);
    delete(&fixture.registry, key(Kind::Service, "s3")).await.unwrap();
    let taken = service_at("on-purpose", &[&before[0]]);
    apply(&fixture.registry, taken)
        .await
        .expect("a user may give an address that is kept back");
    let error = apply(&fixture.registry, service("s3")).await.unwrap_err();
    assert!(
        matches!(error, RegistryError::Address(AddressError::Exhausted { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn many_deletes_and_creates_at_once_keep_released_addresses_back() {
    let Fixture { registry, .. } = &Fixture::new(options(&["10.0.0.0/24"], GRACE)).await;
    let names: Vec<String> = (0..60).map(|n| format!("old-{n}")).collect();
    for result in future::join_all(names.iter().map(|name| apply(registry, service(name)))).await {
        result.unwrap();
    }
    let of = |prefix: &str| {
        let (state, prefix) = (registry.state(), format!("default/{prefix}"));
        let services: Vec<_> = state.services().cloned().collect();
        let services = services
            .into_iter()
            .filter(move |service| service.metadata.name.as_str().starts_with(&prefix));
        services
            .flat_map(|service| service.addresses.clone())
            .collect::<BTreeSet<_>>()
    };
    let released = of("old");
    assert_eq!(released.len(), 60);
    let deletes = names
        .iter()
        .map(|name| delete(registry, key(Kind::Service, name)));
    let creates = (0..60).map(|n| async move { apply(registry, service(&format!("new-{n}"))).await });
    let results = future::join(future::join_all(deletes), future::join_all(creates)).await;
    assert!(results.0.iter().chain(&results.1).all(Result::is_ok));
    let new = of("new");
    assert_eq!(new.len(), 60);
    assert!(
        new.is_disjoint(&released),
        "{:?}",
        new.intersection(&released).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn after_the_grace_period_an_address_is_free() {
    let Fixture { registry, .. } = &Fixture::new(options(&["10.0.0.0/30"], Duration::from_secs(1))).await;
    apply(registry, service("a")).await.unwrap();
    apply(registry, service("b")).await.unwrap();
    delete(registry, key(Kind::Service, "a")).await.unwrap();
    apply(registry, service("c")).await.unwrap_err();
    eventually(registry, |state| state.released.is_empty()).await;
    apply(registry, service("c")).await.unwrap();
}

#[tokio::test]
async fn without_a_range_addresses_have_to_be_given() {
    let Fixture { registry, .. } = &Fixture::new(RegistryOptions::default()).await;
    let error = apply(registry, service("llama")).await.unwrap_err();
    assert!(error.to_string().contains("no --address-range"), "{error}");
    apply(registry, service_at("llama", &["10.0.0.1"])).await.unwrap();
}

#[test]
fn ranges_that_cannot_be_are_refused() {
    for (ranges, expected) in [
        (&["10.0.0.0/16", "10.1.0.0/16"][..], "at most one per family"),
        (&["10.0.0.0/31"], "use at most /30"),
        (&["fd00::/128"], "use at most /30 or /126"),
    ] {
        let error = AddressRanges::new(ranges.iter().map(|range| range.parse().unwrap())).unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
