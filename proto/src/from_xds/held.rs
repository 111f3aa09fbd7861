// SPDX-License-Identifier: Apache-2.0
//! What [`Received`] keeps of its resources, and who refers to whom.
//!
//! Invariant: a service is stale from the moment that any resource it is made of changes until the next assembly.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use nodemesh_model::{Manifest, Resource, ResourceName, ServiceRules};

use super::{
    Assembled, Held, Received, Rejected, Table, Unsupported,
    assemble::Group,
    assignment::Assignment,
    cluster::{Cluster, Endpoints},
    listener::Listener,
    policy::Policy,
    service::{self, Draft, Sources},
};
use crate::type_url;

/// The assignment that `cluster` refers to.
pub(super) fn assignment_of(cluster: &Cluster) -> Option<&str> {
    match &cluster.endpoints {
        Endpoints::Discovered(name) => Some(name),
        Endpoints::Inline(_) | Endpoints::Unknown => None,
    }
}

impl Sources for Received {
    fn cluster(&self, name: &str) -> Option<&Cluster> {
        self.clusters.get(name).map(|held| &held.content)
    }

    fn assignment(&self, name: &str) -> Option<&Assignment> {
        self.assignments.get(name).map(|held| &held.content)
    }

    fn rules(&self, name: &str) -> Option<&ServiceRules> {
        match &self.policies.get(name)?.content {
            Policy::Rules(rules) => Some(rules),
            Policy::Access(_) => None,
        }
    }
}

impl Received {
    pub(super) fn put_listener(&mut self, name: &str, held: Held<Option<Listener>>) {
        if self.listeners.get(name) == Some(&held) {
            return;
        }
        let service = held.content.as_ref().map(|listener| listener.service.clone());
        let former = self.listeners.insert(name.into(), held);
        self.leave_group(name, former.as_ref());
        if let Some(service) = service {
            let group = self.groups.entry(service.clone()).or_default();
            group.listeners.insert(name.into());
            self.stale.insert(service);
        }
    }

    /// Takes the listener `name` out of the group that it was in.
    pub(super) fn leave_group(&mut self, name: &str, former: Option<&Held<Option<Listener>>>) {
        let Some(Some(former)) = former.map(|former| &former.content) else {
            return;
        };
        if let Some(group) = self.groups.get_mut(&former.service) {
            group.listeners.remove(name);
            self.stale.insert(former.service.clone());
        }
    }

    pub(super) fn put_cluster(&mut self, name: &str, held: Held<Cluster>) {
        if self.clusters.get(name) == Some(&held) {
            return;
        }
        let assignment = assignment_of(&held.content).map(Box::from);
        let policy = held.content.policy.clone();
        let former = self.clusters.insert(name.into(), held);
        self.unlink_cluster(name, former.as_ref());
        if let Some(assignment) = assignment {
            let users = self.users_of_assignment.entry(assignment).or_default();
            users.insert(name.into());
        }
        if let Some(policy) = policy {
            let users = self.users_of_policy.entry(policy).or_default();
            users.insert(name.into());
        }
        self.mark_users_of_cluster(name);
    }

    /// Forgets what the cluster `name` refers to as `former`.
    pub(super) fn unlink_cluster(&mut self, name: &str, former: Option<&Held<Cluster>>) {
        let Some(former) = former.map(|former| &former.content) else {
            return;
        };
        let references = [
            (&mut self.users_of_assignment, assignment_of(former)),
            (&mut self.users_of_policy, former.policy.as_deref()),
        ];
        for (users_of, referred) in references {
            let Some(referred) = referred else { continue };
            if let Some(users) = users_of.get_mut(referred) {
                users.remove(name);
                if users.is_empty() {
                    users_of.remove(referred);
                }
            }
        }
    }

    pub(super) fn put_policy(&mut self, name: &str, held: Held<Policy>) {
        if self.policies.get(name) != Some(&held) {
            self.policies.insert(name.into(), held);
            self.mark_users_of_policy(name);
        }
    }

    pub(super) fn put_assignment(&mut self, name: &str, held: Held<Assignment>) {
        if self.assignments.get(name) == Some(&held) {
            return;
        }
        self.assignments.insert(name.into(), held);
        self.mark_users_of_assignment(name);
    }

    pub(super) fn put_table(&mut self, name: &str, held: Held<Table>) {
        if self.tables.get(name) != Some(&held) {
            self.tables.insert(name.into(), held);
            self.settled.tables_changed = true;
        }
    }

    pub(super) fn mark_users_of_cluster(&mut self, name: &str) {
        let users = self.users_of_cluster.get(name);
        self.stale.extend(users.into_iter().flatten().cloned());
    }

    pub(super) fn mark_users_of_assignment(&mut self, name: &str) {
        let clusters = self.users_of_assignment.get(name).into_iter().flatten();
        let users = clusters.filter_map(|cluster| self.users_of_cluster.get(cluster));
        self.stale.extend(users.flatten().cloned());
    }

    pub(super) fn mark_users_of_policy(&mut self, name: &str) {
        let clusters = self.users_of_policy.get(name).into_iter().flatten();
        let users = clusters.filter_map(|cluster| self.users_of_cluster.get(cluster));
        self.stale.extend(users.flatten().cloned());
    }

    /// Puts the service `name` together again, or forgets it when its last listener went.
    pub(super) fn rebuild(&mut self, name: &ResourceName) {
        let Some(group) = self.groups.get(name) else {
            return;
        };
        let listeners: Vec<(&str, &Listener)> = group
            .listeners
            .iter()
            .filter_map(|name| {
                let held = self.listeners.get(name)?;
                Some((&**name, held.content.as_ref()?))
            })
            .collect();
        let clusters = listeners
            .iter()
            .flat_map(|(_, listener)| &listener.target.clusters);
        let clusters = clusters.map(|(name, _)| name.clone()).collect();
        let mut draft = service::draft(name, &listeners, self);
        let Some(mut group) = self.groups.remove(name) else {
            return;
        };
        self.link_group(name, &group, &clusters);
        if group.listeners.is_empty() {
            return;
        }
        group.clusters = clusters;
        group.built = built(
            &mut draft,
            group.built.take(),
            group.listeners.first().map(AsRef::as_ref),
        );
        group.waiting = draft.waiting;
        group.rejected = draft.rejected;
        group.unsupported = draft.unsupported;
        self.groups.insert(name.clone(), group);
    }

    /// Notes that the service `name`, which is that of `group`, refers to `clusters` now.
    fn link_group(&mut self, name: &ResourceName, group: &Group, clusters: &BTreeSet<Box<str>>) {
        for gone in group.clusters.difference(clusters) {
            if let Some(users) = self.users_of_cluster.get_mut(gone) {
                users.remove(name);
                if users.is_empty() {
                    self.users_of_cluster.remove(gone);
                }
            }
        }
        for new in clusters.difference(&group.clusters) {
            self.users_of_cluster
                .entry(new.clone())
                .or_default()
                .insert(name.clone());
        }
    }
}

impl Received {
    /// The state as of the last settlement.
    pub(super) fn assembled(&self) -> Assembled {
        let manifests = self.groups.values().filter_map(|group| group.taken.as_deref());
        let services = manifests.flat_map(Manifest::resources);
        let settled = &self.settled;
        let access = self.policies.values().filter_map(|held| match &held.content {
            Policy::Access(policy) => Some(Resource::AccessPolicy(Arc::clone(policy))),
            Policy::Rules(_) => None,
        });
        let groups = self.groups.values();
        let refused = groups.clone().flat_map(|group| &group.rejected);
        Assembled {
            manifest: Manifest::from_resources(services.chain(&settled.workloads).cloned().chain(access)),
            rejected: refused
                .chain(&settled.services)
                .chain(&settled.workload_conflicts)
                .cloned()
                .collect(),
            unsupported: self
                .noted()
                .chain(groups.clone().flat_map(|group| &group.unsupported).cloned())
                .collect(),
            incomplete: groups.flat_map(|group| &group.waiting).cloned().collect(),
        }
    }

    /// The notes of all resources.
    fn noted(&self) -> impl Iterator<Item = Unsupported> + use<'_> {
        fn of<T>(
            type_url: &'static str,
            held: &BTreeMap<Box<str>, Held<T>>,
        ) -> impl Iterator<Item = Unsupported> {
            held.iter().flat_map(move |(name, held)| {
                held.notes.iter().map(move |note| Unsupported {
                    type_url,
                    resource: name.to_string(),
                    field: note.field,
                    effect: note.effect,
                })
            })
        }
        of(type_url::LISTENER, &self.listeners)
            .chain(of(type_url::CLUSTER, &self.clusters))
            .chain(of(type_url::ASSIGNMENT, &self.assignments))
            .chain(of(type_url::WORKLOAD_TABLE, &self.tables))
            .chain(of(type_url::POLICY_DOCUMENT, &self.policies))
    }
}

/// The service of `draft` and its policy; `former` where it is not known yet or refused, which is noted.
fn built(draft: &mut Draft, former: Option<Arc<Manifest>>, listener: Option<&str>) -> Option<Arc<Manifest>> {
    if draft.documents.is_empty() {
        return former.filter(|_| !draft.waiting.is_empty());
    }
    let manifest = Manifest::from_values(std::mem::take(&mut draft.documents));
    if manifest.errors().is_empty() {
        return Some(Arc::new(match former {
            Some(former) => manifest.sharing(&former),
            None => manifest,
        }));
    }
    draft
        .rejected
        .extend(manifest.errors().listed().iter().map(|error| Rejected {
            type_url: type_url::LISTENER.to_owned(),
            resource: listener.unwrap_or_default().to_owned(),
            field: format!("{} of the service that it makes", error.field),
            reason: error.problem.to_string(),
        }));
    former
}
