// SPDX-License-Identifier: Apache-2.0
//! The registry's states into the cache: each one as the changes that it makes to what is served.
//!
//! ```text
//!  Registry ── watch ──► Arc<State> ── changed_since ──► services that it touches ── to_xds ──► Cache
//! ```
//!
//! One task, spawned by `app`. Invariant: one state is one commit, and a cluster comes and goes with its endpoints, so no snapshot
//! has the one without the other. A change costs what it touches: the services that select a workload are found by its labels, the
//! workloads of a service by those of its selector.

mod selection;

use std::{collections::BTreeSet, sync::Arc};

use nodemesh_abi::Protocol;
use nodemesh_model::{Family, Kind, ResourceName, Service, Target, Workload};
use nodemesh_proto::{
    IntoAny, ServiceResources, api_listener_name, cluster_name, listener_name, policy_name,
    to_xds::{self, Rows},
    xds::google::protobuf::Any,
};
use tokio::{sync::watch, task};

use self::selection::{Selectors, Workloads};
use super::{
    cache::{Cache, Change, Snapshot},
    resource::{Name, Resource},
    type_url::TypeUrl,
};
use crate::registry::{Changed, Entry, Key, State};

/// Follows the registry.
#[derive(Debug, Default)]
pub struct Feed {
    cache: Cache,
    state: Arc<State>,
    selectors: Selectors,
    workloads: Workloads,
}

/// What one state makes of the one before.
#[derive(Debug, Default)]
struct Delta {
    /// Services whose resources may be others now.
    touched: BTreeSet<ResourceName>,
    /// Names of resources of services as they were before.
    former: BTreeSet<(TypeUrl, Name)>,
    changes: Vec<Change>,
}

impl Feed {
    /// An empty cache.
    pub fn new() -> Self {
        Self::default()
    }

    /// Where readers look.
    pub fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.cache.subscribe()
    }

    /// Brings the cache to `state`, in one commit.
    pub fn advance(&mut self, state: &Arc<State>) {
        let before = std::mem::replace(&mut self.state, Arc::clone(state));
        let mut delta = Delta::default();
        // Services first: workloads look up who selects them.
        for changed in state.changed_since(&before) {
            self.index(&changed);
        }
        for changed in state.changed_since(&before) {
            self.note(&changed, &mut delta);
        }
        if has_access_policies(&before) != has_access_policies(state) {
            delta.changes.extend(self.rows());
        }
        let Delta {
            touched,
            mut former,
            mut changes,
        } = delta;
        for name in touched {
            former.insert((TypeUrl::Policies, policy_name(Kind::TrafficPolicy, &name).into()));
            let Some(service) = state.service(&name) else {
                continue;
            };
            for (type_url, name, resource) in self.resources(service) {
                former.remove(&(type_url.clone(), Arc::clone(&name)));
                changes.push(Change::Put(type_url, name, Arc::new(resource)));
            }
        }
        let gone = former
            .into_iter()
            .map(|(type_url, name)| Change::Remove(type_url, name));
        changes.extend(gone);
        self.cache.commit(state.revision.0, changes);
    }

    /// Follows `states` until their writer is gone.
    pub async fn run(mut self, mut states: watch::Receiver<Arc<State>>) {
        loop {
            let state = Arc::clone(&states.borrow_and_update());
            // Ten thousand services at once take longer than a task may keep its thread.
            let advanced = task::spawn_blocking(move || {
                self.advance(&state);
                self
            });
            match advanced.await {
                Ok(feed) => self = feed,
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                Err(_) => return,
            }
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    fn index(&mut self, changed: &Changed<'_>) {
        let (old, new) = both(changed);
        if let Some(service) = old.and_then(Entry::service) {
            self.selectors.remove(service);
        }
        if let Some(service) = new.and_then(Entry::service) {
            self.selectors.insert(service);
        }
        if let Some(workload) = old.and_then(Entry::workload) {
            self.workloads.remove(workload);
        }
        if let Some(workload) = new.and_then(Entry::workload) {
            self.workloads.insert(workload);
        }
    }

    fn note(&self, changed: &Changed<'_>, delta: &mut Delta) {
        let (old, new) = both(changed);
        for entry in [old, new].into_iter().flatten() {
            if entry.service().is_some() {
                delta.touched.insert(entry.key.name.clone());
            }
            if let Some(workload) = entry.workload() {
                let selecting = self.selectors.selecting(workload);
                delta
                    .touched
                    .extend(selecting.map(|service| service.metadata.name.clone()));
            }
            if let Some(policy) = entry.policy() {
                delta.touched.extend(self.targeted(&policy.target));
            }
        }
        if let Some(service) = old.and_then(Entry::service) {
            delta.former.extend(names(service));
        }
        match (old.and_then(Entry::workload), new.and_then(Entry::workload)) {
            (_, Some(workload)) => delta.changes.push(self.row(workload)),
            (Some(workload), None) => {
                let name = workload.metadata.name.to_string().into();
                delta.changes.push(Change::Remove(TypeUrl::Workloads, name));
            }
            (None, None) => {}
        }
        match (
            old.and_then(Entry::access_policy),
            new.and_then(Entry::access_policy),
        ) {
            (_, Some(policy)) => {
                let (name, document) = to_xds::access_policy(policy);
                let resource = Arc::new(Resource::new(document.into_any()));
                let put = Change::Put(TypeUrl::Policies, name.into(), resource);
                delta.changes.push(put);
            }
            (Some(policy), None) => {
                let name = policy_name(Kind::AccessPolicy, &policy.metadata.name);
                let gone = Change::Remove(TypeUrl::Policies, name.into());
                delta.changes.push(gone);
            }
            (None, None) => {}
        }
    }

    /// All rows, which say more of workloads once policies tell them apart.
    fn rows(&self) -> impl Iterator<Item = Change> {
        let entries = self.state.entries_of(Kind::Workload);
        let workloads = entries.filter_map(|entry| entry.workload());
        workloads.map(|workload| self.row(workload))
    }

    fn row(&self, workload: &Workload) -> Change {
        let rows = if has_access_policies(&self.state) {
            Rows::Whole
        } else {
            Rows::Compact
        };
        let (name, table) = to_xds::workload_table(workload, rows);
        let resource = Arc::new(Resource::new(table.into_any()));
        Change::Put(TypeUrl::Workloads, name.into(), resource)
    }

    fn targeted(&self, target: &Target) -> Vec<ResourceName> {
        match target {
            Target::Service(name) => vec![name.clone()],
            Target::Namespace(namespace) => {
                let services = self.state.services_of(namespace);
                services.map(|service| service.metadata.name.clone()).collect()
            }
        }
    }

    fn resources(&self, service: &Service) -> Vec<(TypeUrl, Name, Resource)> {
        let names = self.workloads.selected(service);
        let entries = names.filter_map(|name| self.state.get(&Key::new(Kind::Workload, name.clone())));
        let selected: Vec<&Workload> = entries
            .filter_map(|entry| entry.workload().map(Arc::as_ref))
            .filter(|workload| service.selects(&workload.metadata.labels))
            .collect();
        let policy = self.state.policy_of(&service.metadata.name);
        let all = to_xds::resources(service, &selected, policy.map(Arc::as_ref));
        packed(all)
    }
}

fn both<'a>(changed: &Changed<'a>) -> (Option<&'a Entry>, Option<&'a Entry>) {
    match changed {
        Changed::Set { old, new } => (old.map(Arc::as_ref), Some(new)),
        Changed::Removed { old } => (Some(old), None),
    }
}

fn has_access_policies(state: &State) -> bool {
    state.count(Kind::AccessPolicy) > 0
}

fn packed(all: ServiceResources) -> Vec<(TypeUrl, Name, Resource)> {
    fn named<T: IntoAny>(
        type_url: &TypeUrl,
        items: Vec<T>,
        name: impl Fn(&T) -> &str,
        resource: impl Fn(Any) -> Resource,
    ) -> impl Iterator<Item = (TypeUrl, Name, Resource)> {
        items.into_iter().map(move |item| {
            let name = Name::from(name(&item));
            (type_url.clone(), name, resource(item.into_any()))
        })
    }
    named(
        &TypeUrl::Cluster,
        all.clusters,
        |cluster| &cluster.name,
        Resource::new,
    )
    .chain(named(
        &TypeUrl::Endpoints,
        all.assignments,
        |assignment| &assignment.cluster_name,
        Resource::new,
    ))
    .chain(named(
        &TypeUrl::Listener,
        all.listeners,
        |listener| &listener.name,
        Resource::new,
    ))
    // gRPC clients ask for theirs by name; who takes all listeners means to open sockets.
    .chain(named(
        &TypeUrl::Listener,
        all.api_listeners,
        |listener| &listener.name,
        Resource::unlisted,
    ))
    .chain(named(
        &TypeUrl::Route,
        all.routes,
        |route| &route.name,
        Resource::new,
    ))
    .chain(all.policy.into_iter().map(|(name, document)| {
        let resource = Resource::new(document.into_any());
        (TypeUrl::Policies, Name::from(name), resource)
    }))
    .collect()
}

/// The names of the resources of `service`.
fn names(service: &Service) -> impl Iterator<Item = (TypeUrl, Name)> {
    let service_name = &service.metadata.name;
    service.ports.iter().flat_map(move |port| {
        let cluster = cluster_name(service_name, port);
        let listeners = service.addresses.iter().map(move |address| {
            let name = listener_name(service_name, port, Family::of(*address));
            (TypeUrl::Listener, name)
        });
        let of_grpc = (port.protocol == Protocol::Tcp).then(|| {
            [
                (TypeUrl::Listener, api_listener_name(service_name, port)),
                (TypeUrl::Route, cluster.clone()),
            ]
        });
        [(TypeUrl::Cluster, cluster.clone()), (TypeUrl::Endpoints, cluster)]
            .into_iter()
            .chain(listeners)
            .chain(of_grpc.into_iter().flatten())
            .map(|(type_url, name)| (type_url, name.into()))
    })
}

#[cfg(test)]
mod tests;
