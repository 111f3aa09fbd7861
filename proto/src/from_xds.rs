// SPDX-License-Identifier: Apache-2.0
//! xDS resources as the model: of nodemesh's own control plane, and of any other as far as they fit. Called by the agent.
//!
//! ```text
//! bytes --put--> one parsed resource each --assemble--> Services, Workloads, policies (a model::Manifest)
//! ```
//!
//! Invariant: a resource that is refused leaves the former one of its name in place, and `Resources::merge` takes every
//! manifest that comes out alone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use nodemesh_model::{Manifest, Resource, ResourceName, Workload};

use crate::{type_url, xds::envoy::config::route::v3::RouteConfiguration};

mod address;
mod assemble;
mod assignment;
mod cluster;
pub(crate) mod decode;
mod filter_chain;
mod held;
mod lb_policy;
mod listener;
mod name;
pub(crate) mod notes;
mod policy;
mod service;
mod share;
mod tcp_proxy;
mod udp_proxy;
mod workload;

use assemble::Group;
use assignment::Assignment;
use cluster::Cluster;
use held::assignment_of;
use listener::Listener;
use notes::{Notes, Place, Read, Refusal};
use policy::Policy;

/// The workloads of one table.
type Table = Box<[Arc<Workload>]>;

/// The resources that a client of xDS holds, parsed.
#[derive(Debug, Default)]
pub struct Received {
    listeners: BTreeMap<Box<str>, Held<Option<Listener>>>,
    clusters: BTreeMap<Box<str>, Held<Cluster>>,
    assignments: BTreeMap<Box<str>, Held<Assignment>>,
    tables: BTreeMap<Box<str>, Held<Table>>,
    policies: BTreeMap<Box<str>, Held<Policy>>,
    /// Of gRPC clients; a node has no use for them.
    routes: BTreeSet<Box<str>>,
    groups: BTreeMap<ResourceName, Group>,
    /// The services that refer to a cluster, as of the last assembly.
    users_of_cluster: HashMap<Box<str>, BTreeSet<ResourceName>>,
    /// The clusters that refer to an assignment.
    users_of_assignment: HashMap<Box<str>, BTreeSet<Box<str>>>,
    /// The clusters that name a policy.
    users_of_policy: HashMap<Box<str>, BTreeSet<Box<str>>>,
    /// The services to put together again.
    stale: BTreeSet<ResourceName>,
    settled: Settled,
}

/// A resource and what is to be told of it.
#[derive(Debug, PartialEq)]
struct Held<T> {
    content: T,
    notes: Notes,
}

/// What was settled between resources at the last assembly.
#[derive(Debug, Default)]
struct Settled {
    services: Vec<Rejected>,
    workloads: Vec<Resource>,
    workload_conflicts: Vec<Rejected>,
    /// Whether a table changed since.
    tables_changed: bool,
}

/// A resource, or a part of it, that is invalid: to be refused (NACK) alone. Displayed on one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{type_url} {resource:?}: {field}{}{reason}", if .field.is_empty() { "" } else { ": " })]
#[non_exhaustive]
pub struct Rejected {
    /// Type URL of the resource.
    pub type_url: String,
    /// Name of the resource.
    pub resource: String,
    /// Path of the field, such as `endpoints[0].lb_endpoints[2].load_balancing_weight`; empty for the resource as a whole.
    pub field: String,
    /// What is wrong, and the remedy.
    pub reason: String,
}

/// A field that means something and that nodemesh lacks. Displayed on one line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Unsupported {
    /// Type URL of the resource.
    pub type_url: &'static str,
    /// Name of the resource.
    pub resource: String,
    /// Path of the field.
    pub field: String,
    /// What becomes of it, such as "ignored".
    pub effect: &'static str,
}

/// A service that waits for a resource. If it was complete before, it stays as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Waiting {
    /// Name of the listener.
    pub listener: String,
    /// Type URL of what it waits for.
    pub type_url: &'static str,
    /// Name of what it waits for.
    pub resource: String,
}

/// What the resources come to.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Assembled {
    /// The model resources; one none of whose inputs changed keeps its allocation, so that `Desired::compile` is incremental.
    pub manifest: Manifest,
    /// What is valid by itself but in conflict with another resource, such as a second listener of one address.
    pub rejected: Vec<Rejected>,
    /// Fields without effect, of all resources held.
    pub unsupported: Vec<Unsupported>,
    /// What is asked for but has not come yet.
    pub incomplete: Vec<Waiting>,
}

impl Received {
    /// Takes the resource `name` of `type_url`, encoded in `value`, in place of the former one of that name.
    ///
    /// An error leaves the former one as it is. A type that is not in [`crate::type_url`] is an error.
    pub fn put(&mut self, type_url: &str, name: &str, value: &[u8]) -> Result<(), Rejected> {
        let result = self.take(type_url, name, value);
        result.map_err(|Refusal { field, reason }| Rejected {
            type_url: type_url.to_owned(),
            resource: name.to_owned(),
            field,
            reason,
        })
    }

    fn take(&mut self, type_url: &str, name: &str, value: &[u8]) -> Read<()> {
        let mut notes = Notes::default();
        match type_url {
            type_url::LISTENER => {
                let content = listener::read(name, value, &mut notes)?;
                self.put_listener(name, Held { content, notes });
            }
            type_url::CLUSTER => {
                let content = cluster::read(name, value, &mut notes)?;
                self.put_cluster(name, Held { content, notes });
            }
            type_url::ASSIGNMENT => {
                let content = assignment::read(name, value, &mut notes)?;
                self.put_assignment(name, Held { content, notes });
            }
            type_url::WORKLOAD_TABLE => {
                let content = workload::read(value, &mut notes)?.into();
                self.put_table(name, Held { content, notes });
            }
            type_url::POLICY_DOCUMENT => {
                let content = policy::read(name, value, &mut notes)?;
                self.put_policy(name, Held { content, notes });
            }
            type_url::ROUTE => {
                read_route(name, value, &mut notes)?;
                self.routes.insert(name.into());
            }
            _ => return Place::ROOT.refuse("is of a type that nodemesh does not know; do not send it"),
        }
        Ok(())
    }

    /// Forgets a resource; tells whether it was there.
    pub fn remove(&mut self, type_url: &str, name: &str) -> bool {
        match type_url {
            type_url::LISTENER => {
                let former = self.listeners.remove(name);
                self.leave_group(name, former.as_ref());
                former.is_some()
            }
            type_url::CLUSTER => {
                let former = self.clusters.remove(name);
                self.unlink_cluster(name, former.as_ref());
                self.mark_users_of_cluster(name);
                former.is_some()
            }
            type_url::ASSIGNMENT => {
                let was_there = self.assignments.remove(name).is_some();
                self.mark_users_of_assignment(name);
                was_there
            }
            type_url::WORKLOAD_TABLE => {
                let was_there = self.tables.remove(name).is_some();
                self.settled.tables_changed |= was_there;
                was_there
            }
            type_url::POLICY_DOCUMENT => {
                let was_there = self.policies.remove(name).is_some();
                self.mark_users_of_policy(name);
                was_there
            }
            type_url::ROUTE => self.routes.remove(name),
            _ => false,
        }
    }

    /// The names of the resources of `type_url` that are held, sorted.
    pub fn names(&self, type_url: &str) -> Vec<&str> {
        fn keys<T>(map: &BTreeMap<Box<str>, T>) -> Vec<&str> {
            map.keys().map(|name| &**name).collect()
        }
        match type_url {
            type_url::LISTENER => keys(&self.listeners),
            type_url::CLUSTER => keys(&self.clusters),
            type_url::ASSIGNMENT => keys(&self.assignments),
            type_url::WORKLOAD_TABLE => keys(&self.tables),
            type_url::POLICY_DOCUMENT => keys(&self.policies),
            type_url::ROUTE => self.routes.iter().map(|name| &**name).collect(),
            _ => Vec::new(),
        }
    }

    /// The clusters that listeners refer to.
    pub fn wanted_clusters(&self) -> BTreeSet<&str> {
        let listeners = self.listeners.values().filter_map(|held| held.content.as_ref());
        listeners
            .flat_map(|listener| &listener.target.clusters)
            .map(|(name, _)| &**name)
            .collect()
    }

    /// The assignments (EDS) that clusters refer to: what to subscribe to.
    pub fn wanted_assignments(&self) -> BTreeSet<&str> {
        let clusters = self.clusters.values();
        clusters.filter_map(|held| assignment_of(&held.content)).collect()
    }

    /// Puts the resources together; the cost is that of the services that changed since the last call, and a small one per
    /// service. To be called after each response, with all its resources put and removed.
    pub fn assemble(&mut self) -> Assembled {
        let stale = std::mem::take(&mut self.stale);
        for name in &stale {
            self.rebuild(name);
        }
        if !stale.is_empty() {
            self.settled.services = assemble::settle(&mut self.groups);
        }
        if std::mem::take(&mut self.settled.tables_changed) {
            let tables = self.tables.iter().map(|(name, held)| (&**name, &*held.content));
            let (workloads, conflicts) = assemble::workloads(tables);
            self.settled.workloads = workloads;
            self.settled.workload_conflicts = conflicts;
        }
        self.assembled()
    }
}

#[cfg(test)]
mod tests;

impl std::fmt::Display for Unsupported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            type_url,
            resource,
            field,
            effect,
        } = self;
        write!(f, "{type_url} {resource:?}: {field} is not supported: {effect}")
    }
}

/// A node has no use for routes, but a server is told of those that it garbles.
fn read_route(name: &str, value: &[u8], notes: &mut Notes) -> Read<()> {
    let wire: RouteConfiguration = decode::decode(value, Place::ROOT, notes)?;
    if wire.name != name || name.is_empty() {
        return Place::ROOT.field("name").refuse(format_args!(
            "is {:?}, but the resource is {name:?}; give both the same name",
            wire.name
        ));
    }
    Ok(())
}
