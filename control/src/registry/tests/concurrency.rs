// SPDX-License-Identifier: Apache-2.0
//! Several control planes over one store: they agree, and nothing is given away twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures_util::future::join_all;
use nodemesh_model::Kind;
use proptest::prelude::*;
use serde_json::Value;

use super::{Fixture, addresses, apply, both, delete, eventually, key, options, policy, service, workload};
use crate::{
    registry::{AddressError, Registry, RegistryError, RegistryOptions, State},
    store::{Precondition, Revision},
};

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_never_give_one_address_twice() {
    const RANGE: &str = "10.0.0.0/24";
    let grace = std::time::Duration::from_secs(600);
    let fixture = Fixture::new(options(&[RANGE], grace)).await;
    let replicas = [
        fixture.registry.clone(),
        fixture.replica(options(&[RANGE], grace)).await,
    ];
    let calls = (0..280).map(|n| {
        let registry = replicas[n % 2].clone();
        tokio::spawn(async move { apply(&registry, service(&format!("s{n}"))).await })
    });
    let results = join_all(calls).await.into_iter().map(Result::unwrap);
    let (mut applied, mut exhausted) = (0, 0);
    for result in results {
        match result {
            Ok(_) => applied += 1,
            Err(RegistryError::Address(AddressError::Exhausted { .. })) => exhausted += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(
        (applied, exhausted),
        (254, 26),
        "every address of the range is used, once"
    );
    let state = agreed(&replicas).await;
    let given: BTreeSet<_> = state
        .services()
        .flat_map(|service| service.addresses.clone())
        .collect();
    assert_eq!((given.len(), state.faults().count()), (254, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_want_the_same_one_gets_it() {
    let fixture = Fixture::new(both()).await;
    let replicas = [
        fixture.registry.clone(),
        fixture.replica(both()).await,
        fixture.replica(both()).await,
    ];
    for round in 0..10 {
        let applies = (0..9).map(|n| {
            let registry = replicas[n % 3].clone();
            let policy = policy(&format!("p{round}-{n}"), &format!("llama-{round}"));
            tokio::spawn(async move { apply(&registry, policy).await })
        });
        let results: Vec<_> = join_all(applies).await.into_iter().map(Result::unwrap).collect();
        assert_eq!(
            results.iter().filter(|result| result.is_ok()).count(),
            1,
            "{results:?}"
        );
        let lost = results.into_iter().filter_map(Result::err);
        assert!(
            lost.into_iter()
                .all(|error| matches!(error, RegistryError::Taken(_)))
        );
    }
    let state = agreed(&replicas).await;
    assert_eq!(
        (state.count(Kind::TrafficPolicy), state.faults().count()),
        (10, 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_stays_when_replicas_change_the_service_in_turn() {
    let fixture = Fixture::new(both()).await;
    let replicas = [fixture.registry.clone(), fixture.replica(both()).await];
    apply(&replicas[0], service("llama")).await.unwrap();
    let given = addresses(&replicas[0].state(), "llama");
    let mut version = Revision(0);
    for turn in 0..40 {
        let mut changed = service("llama");
        changed["spec"]["ports"][0]["port"] = (100 + turn).into();
        let applied = apply(&replicas[turn % 2], changed).await.unwrap();
        assert!(applied.version > version && applied.is_changed);
        version = applied.version;
        assert_eq!(addresses(&replicas[turn % 2].state(), "llama"), given);
    }
    assert_eq!(addresses(&*agreed(&replicas).await, "llama"), given);
}

/// Waits until all replicas have come equally far, and compares what they see then.
async fn agreed(replicas: &[Registry]) -> Arc<State> {
    let newest = replicas
        .iter()
        .map(|replica| replica.state().revision)
        .max()
        .unwrap();
    let mut states = Vec::new();
    for replica in replicas {
        states.push(eventually(replica, |state| state.revision >= newest).await);
    }
    let seen = |state: &State| -> Vec<_> {
        state
            .entries()
            .map(|entry| (entry.key.clone(), entry.version, Arc::clone(&entry.document)))
            .collect()
    };
    for state in &states[1..] {
        assert_eq!(seen(state), seen(&states[0]));
        assert_eq!(state.changed_since(&states[0]).count(), 0);
    }
    states.remove(0)
}

/// One call, of one replica.
#[derive(Clone, Debug)]
struct Call {
    replica: usize,
    name: u8,
    expected: Expected,
    /// Weight of the workload to apply; `None` deletes.
    weight: Option<u8>,
}

/// What the caller knows.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Any,
    Absent,
    Current,
    Stale,
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let expected = prop_oneof![
        Just(Expected::Any),
        Just(Expected::Absent),
        Just(Expected::Current),
        Just(Expected::Stale)
    ];
    let call = (
        0..2_usize,
        0..3_u8,
        expected,
        proptest::option::weighted(0.7, 1..3_u8),
    );
    let call = call.prop_map(|(replica, name, expected, weight)| Call {
        replica,
        name,
        expected,
        weight,
    });
    prop::collection::vec(call, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Calls one after another, at either of two replicas, end as they would at one map of versions.
    #[test]
    fn replicas_behave_as_one(calls in calls()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let fixture = Fixture::new(RegistryOptions::default()).await;
            let replicas = [fixture.registry.clone(), fixture.replica(RegistryOptions::default()).await];
            let mut model = BTreeMap::new();
            for call in calls {
                step(&replicas[call.replica], &call, &mut model).await;
            }
            let state = agreed(&replicas).await;
            let seen: BTreeMap<_, _> = state.entries().map(|entry| (entry.key.name.name().to_owned(), entry.version)).collect();
            let expected: BTreeMap<_, _> = model.into_iter().map(|(name, (version, _))| (format!("w{name}"), version)).collect();
            assert_eq!(seen, expected);
        });
    }
}

async fn step(registry: &Registry, call: &Call, model: &mut BTreeMap<u8, (Revision, Value)>) {
    let name = format!("w{}", call.name);
    let known = model.get(&call.name).map(|(version, _)| *version);
    let expected = match call.expected {
        Expected::Any => Precondition::Any,
        Expected::Absent => Precondition::Absent,
        Expected::Current => known.into(),
        Expected::Stale => Precondition::Version(Revision(known.map_or(1, |known| known.0 - 1))),
    };
    let result = if let Some(weight) = call.weight {
        let mut document = workload(&name);
        document["spec"]["weight"] = weight.into();
        let result = registry.apply(document.clone(), expected).await;
        if let Ok(applied) = &result {
            let former = model.insert(call.name, (applied.version, document.clone()));
            assert_eq!(applied.is_new, former.is_none());
            assert_eq!(
                applied.is_changed,
                former.is_none_or(|(_, former)| former != document)
            );
            assert!(known.is_none_or(|known| applied.version >= known));
        }
        result
    } else {
        let result = registry.delete(&key(Kind::Workload, &name), expected).await;
        if result.is_ok() {
            assert!(model.remove(&call.name).is_some(), "{name} was not there");
        }
        result
    };
    match result {
        Ok(_) => assert!(expected.holds(known), "{call:?}: {known:?}"),
        Err(RegistryError::Conflict { found, .. }) => {
            assert!(!expected.holds(known), "{call:?}: {known:?}");
            assert_eq!(found, known);
        }
        Err(RegistryError::NotFound { .. }) => assert!(known.is_none() && call.weight.is_none()),
        Err(error) => panic!("{call:?}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_and_an_apply_of_one_resource_are_one_after_the_other() {
    let fixture = Fixture::new(both()).await;
    let replicas = [fixture.registry.clone(), fixture.replica(both()).await];
    for _ in 0..20 {
        apply(&replicas[0], service("llama")).await.unwrap();
        let (left, right) = (replicas[0].clone(), replicas[1].clone());
        let mut changed = service("llama");
        changed["spec"]["ports"][0]["port"] = 99.into();
        let (deleted, applied) = tokio::join!(
            tokio::spawn(async move { delete(&left, key(Kind::Service, "llama")).await }),
            tokio::spawn(async move { apply(&right, changed).await }),
        );
        deleted.unwrap().unwrap();
        let applied = applied.unwrap().unwrap();
        let state = agreed(&replicas).await;
        assert_eq!(
            state.get(&applied.key).is_some(),
            applied.is_new,
            "it is there if it came second"
        );
        assert_eq!(state.faults().count(), 0);
        if applied.is_new {
            delete(&replicas[1], applied.key).await.unwrap();
        }
    }
}
