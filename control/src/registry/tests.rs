// SPDX-License-Identifier: Apache-2.0
//! The registry on embedded stores: alone, as two replicas, and over a store that is interrupted.

mod addresses;
mod concurrency;
mod conflicts;
mod registrations;
mod store_contents;
mod watching;

use std::{sync::Arc, time::Duration};

use nodemesh_model::{Kind, ResourceName};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{AddressRanges, Applied, Key, Registry, RegistryError, RegistryOptions, State};
use crate::store::{Precondition, Store, StoreError, embedded::EmbeddedStore};

/// How long what has to happen may take.
const PATIENCE: Duration = Duration::from_secs(20);
const GRACE: Duration = Duration::from_secs(600);

/// A registry, the store below it, and the folder of that.
struct Fixture {
    registry: Registry,
    store: Arc<dyn Store>,
    folder: TempDir,
}

impl Fixture {
    async fn new(options: RegistryOptions) -> Self {
        Self::open(TempDir::new().unwrap(), options).await
    }

    async fn open(folder: TempDir, options: RegistryOptions) -> Self {
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
        Self {
            registry: Registry::open(Arc::clone(&store), options).await.unwrap(),
            store,
            folder,
        }
    }

    /// Closes everything and opens it again, as a restart of the control plane does.
    async fn restarted(self, options: RegistryOptions) -> Self {
        let Self {
            registry,
            store,
            folder,
        } = self;
        drop(registry);
        drop(store);
        // The tasks of the registry, which have the store, end in their own time.
        let opened = async {
            while let Err(error) = EmbeddedStore::open(&folder.path().join("store.redb")) {
                assert!(matches!(error, StoreError::Locked { .. }), "{error}");
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, opened)
            .await
            .expect("the store should be closed");
        Self::open(folder, options).await
    }

    /// Another control plane on the same store.
    async fn replica(&self, options: RegistryOptions) -> Registry {
        Registry::open(Arc::clone(&self.store), options).await.unwrap()
    }
}

fn options(ranges: &[&str], grace: Duration) -> RegistryOptions {
    RegistryOptions {
        ranges: AddressRanges::new(ranges.iter().map(|range| range.parse().unwrap())).unwrap(),
        grace,
    }
}

/// One range of each family.
fn both() -> RegistryOptions {
    options(&["10.96.0.0/16", "fd00:96::/112"], GRACE)
}

fn document(kind: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "nodemesh.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

/// A service that leaves its addresses to the control plane.
fn service(name: &str) -> Value {
    document(
        "Service",
        name,
        &json!({"ports": [{"port": 80}], "backends": [{"address": "10.1.0.2"}]}),
    )
}

fn service_at(name: &str, addresses: &[&str]) -> Value {
    let mut service = service(name);
    service["spec"]["addresses"] = json!(addresses);
    service
}

fn workload(name: &str) -> Value {
    document("Workload", name, &json!({"addresses": ["10.1.0.2"]}))
}

fn policy(name: &str, service: &str) -> Value {
    document(
        "TrafficPolicy",
        name,
        &json!({"targetRef": {"kind": "Service", "name": service}, "loadBalancer": {"algorithm": "random"}}),
    )
}

fn key(kind: Kind, name: &str) -> Key {
    Key::new(kind, ResourceName::new("default", name).unwrap())
}

fn addresses(state: &State, name: &str) -> Vec<String> {
    let service = state.service(&ResourceName::new("default", name).unwrap());
    service.map_or_else(Vec::new, |service| {
        service.addresses.iter().map(ToString::to_string).collect()
    })
}

async fn apply(registry: &Registry, document: Value) -> Result<Applied, RegistryError> {
    registry.apply(document, Precondition::Any).await
}

async fn delete(registry: &Registry, key: Key) -> Result<Applied, RegistryError> {
    registry.delete(&key, Precondition::Any).await
}

/// Waits until the state is as it should be.
async fn eventually(registry: &Registry, is_so: impl Fn(&State) -> bool) -> Arc<State> {
    let mut states = registry.subscribe();
    let reached = tokio::time::timeout(PATIENCE, states.wait_for(|state| is_so(state))).await;
    Arc::clone(&reached.expect("the state should get there").unwrap())
}
