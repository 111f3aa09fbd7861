// SPDX-License-Identifier: Apache-2.0
//! Several control planes on one etcd cluster, of which members fail.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use nodemesh_model::Kind;
use serde_json::{Value, json};

use super::server::Cluster;
use crate::{
    registry::{AddressRanges, Registry, RegistryError, RegistryOptions},
    store::{Precondition, StoreError},
};

const SERVICES: usize = 90;

async fn registry(cluster: &Cluster) -> Registry {
    let options = RegistryOptions {
        ranges: AddressRanges::new(["10.0.0.0/24".parse().unwrap()]).unwrap(),
        grace: Duration::from_secs(600),
    };
    let store = cluster.connect().await.unwrap();
    Registry::open(Arc::new(store), options).await.unwrap()
}

fn document(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "nodemesh.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// Applies until it is known to be there.
async fn apply(registry: Registry, document: Value) {
    loop {
        match registry.apply(document.clone(), Precondition::Any).await {
            Ok(_) => return,
            Err(RegistryError::Store(StoreError::Unavailable { .. }) | RegistryError::Contended { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_agree_while_members_fail() {
    let mut cluster = Cluster::start(3).await;
    let replicas = [registry(&cluster).await, registry(&cluster).await];
    let lease_of = document("Workload", "w", &json!({"addresses": ["10.1.0.2"]}));
    let registration = replicas[0]
        .register(lease_of, Duration::from_secs(60))
        .await
        .unwrap();
    for round in 0..3 {
        let applies: Vec<_> = (0..SERVICES / 3)
            .map(|n| {
                let service = document(
                    "Service",
                    &format!("s{round}-{n}"),
                    &json!({"ports": [{"port": 80}]}),
                );
                tokio::spawn(apply(replicas[n % 2].clone(), service))
            })
            .collect();
        cluster.kill(round);
        for applied in join_all(applies).await {
            applied.unwrap();
        }
        assert!(
            replicas[1].renew(registration.lease.id).await.is_ok(),
            "any replica renews"
        );
        cluster.restart(round);
    }
    replicas[1].deregister(registration.lease.id).await.unwrap();
    let mut seen = Vec::new();
    for replica in &replicas {
        let mut states = replica.subscribe();
        let complete = states
            .wait_for(|state| state.count(Kind::Service) == SERVICES && state.count(Kind::Workload) == 0);
        let state = tokio::time::timeout(Duration::from_secs(30), complete).await;
        let state = Arc::clone(&state.expect("all replicas should see everything").unwrap());
        assert_eq!(state.faults().count(), 0);
        let addresses: BTreeSet<_> = state
            .services()
            .flat_map(|service| service.addresses.clone())
            .collect();
        assert_eq!(
            addresses.len(),
            SERVICES,
            "every service has an address of its own"
        );
        seen.push(
            state
                .entries()
                .map(|entry| (entry.key.clone(), entry.version))
                .collect::<Vec<_>>(),
        );
    }
    assert_eq!(seen[0], seen[1]);
}
