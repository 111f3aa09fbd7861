// SPDX-License-Identifier: Apache-2.0
//! The cluster as it was seen, and the documents that it comes down to: what a change of an object changes in the mesh.
//!
//! ```text
//! Update --> objects --> who depends on it --> translate --> items (one owner each) --> changes
//! ```
//!
//! Driven by `reflect`'s updates, read by `store`. Invariant: an item is what `translate` makes of the objects as they are now; a
//! change costs what it touches: a slice its Service, a node the Services that have endpoints there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use nodemesh_model::{Keyword as _, Kind, ResourceName};

use super::{
    finding::{Finding, ObjectId, ObjectKind, Verdict},
    object::{Custom, EndpointSlice, Namespace, NetworkPolicy, Node, Object, ObjectName, Pod, Service},
    translate::{
        self, Document, Translation, endpoints::Topology, membership::Membership, service::Surroundings,
    },
};

mod claims;
mod landscape;

use claims::Claims;

/// What was seen of the cluster.
#[derive(Debug)]
pub(super) enum Update {
    /// An object is new or has changed.
    Set(ObjectId, Box<Object>),
    /// An object is gone.
    Removed(ObjectId),
    /// These are all objects of a kind: what is not among them is gone.
    All(ObjectKind, Vec<(ObjectName, Object)>),
}

/// What an operator decides.
#[derive(Clone, Debug)]
pub(super) struct MeshOptions {
    pub(super) membership: Membership,
    /// Trust domain of the identities of service accounts.
    pub(super) trust_domain: Arc<str>,
}

/// A change of the items.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ItemChange {
    Put(Arc<str>, Bytes),
    Delete(Arc<str>),
}

/// What updates changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) items: Vec<ItemChange>,
    /// Objects with other findings than before, and every custom resource that has changed.
    pub(super) verdicts: BTreeMap<ObjectId, Verdict>,
}

/// The objects by kind.
#[derive(Debug, Default)]
struct Objects {
    services: BTreeMap<ObjectName, Service>,
    slices: BTreeMap<ObjectName, EndpointSlice>,
    pods: BTreeMap<ObjectName, Pod>,
    nodes: BTreeMap<Arc<str>, Node>,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    customs: BTreeMap<(Kind, ObjectName), Custom>,
    network_policies: BTreeMap<ObjectName, NetworkPolicy>,
}

/// The mesh that a cluster is.
#[derive(Debug)]
pub(super) struct Mesh {
    options: MeshOptions,
    objects: Objects,
    /// Slices of each Service.
    slices_of: BTreeMap<ObjectName, BTreeSet<ObjectName>>,
    claims: Claims,
    findings: BTreeMap<ObjectId, Vec<Finding>>,
}

impl Topology for Objects {
    fn node(&self, name: &str) -> Option<&Node> {
        self.nodes.get(name)
    }
}

impl Mesh {
    pub(super) fn new(options: MeshOptions) -> Self {
        Self {
            options,
            objects: Objects::default(),
            slices_of: BTreeMap::new(),
            claims: Claims::default(),
            findings: BTreeMap::new(),
        }
    }

    /// Takes `updates`, in their order.
    pub(super) fn apply(&mut self, updates: impl IntoIterator<Item = Update>) -> Outcome {
        let mut dirty = BTreeSet::new();
        for update in updates {
            match update {
                Update::Set(id, object) => self.set(&id, *object, &mut dirty),
                Update::Removed(id) => self.remove(&id, &mut dirty),
                Update::All(kind, objects) => self.replace(kind, objects, &mut dirty),
            }
        }
        let mut outcome = Outcome::default();
        let mut touched = BTreeSet::new();
        let mut findings = BTreeMap::new();
        // Policies depend on pods, namespaces, Services and each other; they are few.
        let has_news = dirty.iter().any(|id| !matches!(id.kind, ObjectKind::Custom(_)));
        dirty.retain(|id| {
            id.kind != ObjectKind::NetworkPolicy || !self.objects.network_policies.contains_key(&id.name)
        });
        for id in dirty {
            let mut translation = self.translation(&id);
            findings.insert(id.clone(), std::mem::take(&mut translation.findings));
            self.claims.claim(&id, translation, &mut touched);
        }
        for (id, mut translation) in if has_news {
            self.network_policies()
        } else {
            Vec::new()
        } {
            findings.insert(id.clone(), std::mem::take(&mut translation.findings));
            self.claims.claim(&id, translation, &mut touched);
        }
        for key in touched {
            outcome.items.extend(self.claims.settle(&key));
            for id in self
                .claims
                .makers(&key)
                .filter(|id| !findings.contains_key(id))
                .cloned()
                .collect::<Vec<_>>()
            {
                let translation = self.translation(&id);
                findings.insert(id, translation.findings);
            }
        }
        for (id, mut findings) in findings {
            findings.extend(self.claims.conflicts(&id));
            self.note(id, findings, &mut outcome);
        }
        outcome
    }

    fn note(&mut self, id: ObjectId, findings: Vec<Finding>, outcome: &mut Outcome) {
        let former = self.findings.get(&id).map_or(&[][..], Vec::as_slice);
        let is_custom = matches!(id.kind, ObjectKind::Custom(_));
        if former == findings && !is_custom {
            return;
        }
        if findings.is_empty() {
            self.findings.remove(&id);
        } else {
            self.findings.insert(id.clone(), findings.clone());
        }
        let verdict = Verdict {
            generation: self.generation(&id),
            findings,
        };
        outcome.verdicts.insert(id, verdict);
    }

    /// The generation of a custom resource that is there.
    fn generation(&self, id: &ObjectId) -> Option<i64> {
        let ObjectKind::Custom(kind) = id.kind else {
            return None;
        };
        let custom = self.objects.customs.get(&(kind, id.name.clone()))?;
        Some(custom.generation)
    }

    fn replace(
        &mut self,
        kind: ObjectKind,
        objects: Vec<(ObjectName, Object)>,
        dirty: &mut BTreeSet<ObjectId>,
    ) {
        let mut gone: BTreeSet<ObjectName> = self.objects.names(kind);
        for (name, object) in objects {
            gone.remove(&name);
            self.set(&ObjectId::new(kind, name), object, dirty);
        }
        for name in gone {
            self.remove(&ObjectId::new(kind, name), dirty);
        }
    }

    fn set(&mut self, id: &ObjectId, object: Object, dirty: &mut BTreeSet<ObjectId>) {
        let name = id.name.clone();
        let objects = &mut self.objects;
        let is_changed = match object {
            Object::Service(new) => objects.services.insert(name, new.clone()).as_ref() != Some(&new),
            Object::Pod(new) => objects.pods.insert(name, new.clone()).as_ref() != Some(&new),
            Object::Node(new) => objects.nodes.insert(name.name, new.clone()).as_ref() != Some(&new),
            Object::Namespace(new) => {
                objects.namespaces.insert(name.name, new.clone()).as_ref() != Some(&new)
            }
            Object::NetworkPolicy(new) => {
                objects.network_policies.insert(name, new.clone()).as_ref() != Some(&new)
            }
            Object::Custom(new) => {
                let key = (new.kind, name);
                objects.customs.insert(key, new.clone()).as_ref() != Some(&new)
            }
            Object::EndpointSlice(new) => {
                let former = objects.slices.insert(name.clone(), new.clone());
                if former.as_ref() == Some(&new) {
                    return;
                }
                if let Some(former) = former {
                    self.unlink(&name, &former, dirty);
                }
                self.link(&name, &new, dirty);
                return;
            }
        };
        if is_changed {
            self.mark(id, dirty);
        }
    }

    fn remove(&mut self, id: &ObjectId, dirty: &mut BTreeSet<ObjectId>) {
        let name = &id.name;
        let objects = &mut self.objects;
        match id.kind {
            ObjectKind::Service => drop(objects.services.remove(name)),
            ObjectKind::Pod => drop(objects.pods.remove(name)),
            ObjectKind::Node => drop(objects.nodes.remove(&name.name)),
            ObjectKind::Namespace => drop(objects.namespaces.remove(&name.name)),
            ObjectKind::Custom(kind) => drop(objects.customs.remove(&(kind, name.clone()))),
            ObjectKind::EndpointSlice => {
                if let Some(former) = objects.slices.remove(name) {
                    self.unlink(name, &former, dirty);
                }
                return;
            }
            ObjectKind::NetworkPolicy => drop(objects.network_policies.remove(name)),
        }
        self.mark(id, dirty);
    }

    fn link(&mut self, name: &ObjectName, slice: &EndpointSlice, dirty: &mut BTreeSet<ObjectId>) {
        if let Some(service) = service_of(name, slice) {
            self.slices_of
                .entry(service.clone())
                .or_default()
                .insert(name.clone());
            dirty.insert(ObjectId::new(ObjectKind::Service, service));
        }
    }

    fn unlink(&mut self, name: &ObjectName, slice: &EndpointSlice, dirty: &mut BTreeSet<ObjectId>) {
        let Some(service) = service_of(name, slice) else {
            return;
        };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(name);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        dirty.insert(ObjectId::new(ObjectKind::Service, service));
    }

    /// Marks what is made of `id`.
    fn mark(&self, id: &ObjectId, dirty: &mut BTreeSet<ObjectId>) {
        match id.kind {
            ObjectKind::Node => {
                let is_there = |node: &Option<String>| node.as_deref() == Some(&*id.name.name);
                let slices = self
                    .objects
                    .slices
                    .iter()
                    .filter(|(_, slice)| slice.endpoints.iter().any(|endpoint| is_there(&endpoint.node)));
                let services = slices.filter_map(|(name, slice)| service_of(name, slice));
                dirty.extend(services.map(|name| ObjectId::new(ObjectKind::Service, name)));
                let pods = self.objects.pods.iter().filter(|(_, pod)| is_there(&pod.node));
                dirty.extend(pods.map(|(name, _)| ObjectId::new(ObjectKind::Pod, name.clone())));
            }
            ObjectKind::Namespace => {
                dirty.insert(id.clone());
                let first = ObjectName::new(&id.name.name, "");
                let services = self.objects.services.range(first..);
                let services = services.take_while(|(name, _)| name.namespace == id.name.name);
                dirty.extend(services.map(|(name, _)| ObjectId::new(ObjectKind::Service, name.clone())));
            }
            _ => drop(dirty.insert(id.clone())),
        }
    }

    fn translation(&self, id: &ObjectId) -> Translation {
        let objects = &self.objects;
        match id.kind {
            ObjectKind::Service => objects.services.get(&id.name).map(|service| {
                let slices = self.slices_of.get(&id.name).into_iter().flatten();
                let slices = slices.filter_map(|name| objects.slices.get(name));
                let surroundings = Surroundings {
                    namespace: objects.namespaces.get(&id.name.namespace),
                    topology: objects,
                    membership: self.options.membership,
                };
                translate::service::translate(&id.name, service, slices, &surroundings)
            }),
            ObjectKind::Pod => objects
                .pods
                .get(&id.name)
                .map(|pod| translate::pod::translate(&id.name, pod, objects, &self.options.trust_domain)),
            ObjectKind::Custom(kind) => objects
                .customs
                .get(&(kind, id.name.clone()))
                .map(|custom| translate::custom::translate(kind, &id.name, &custom.document)),
            _ => None,
        }
        .unwrap_or_default()
    }
}

impl Objects {
    fn names(&self, kind: ObjectKind) -> BTreeSet<ObjectName> {
        let wide = |name: &Arc<str>| ObjectName::new("", name);
        match kind {
            ObjectKind::Service => self.services.keys().cloned().collect(),
            ObjectKind::EndpointSlice => self.slices.keys().cloned().collect(),
            ObjectKind::Pod => self.pods.keys().cloned().collect(),
            ObjectKind::Node => self.nodes.keys().map(wide).collect(),
            ObjectKind::Namespace => self.namespaces.keys().map(wide).collect(),
            ObjectKind::NetworkPolicy => self.network_policies.keys().cloned().collect(),
            ObjectKind::Custom(kind) => {
                let of_kind = self.customs.keys().filter(|(own, _)| *own == kind);
                of_kind.map(|(_, name)| name.clone()).collect()
            }
        }
    }
}

fn service_of(slice: &ObjectName, content: &EndpointSlice) -> Option<ObjectName> {
    let name = content.service.as_deref()?;
    Some(ObjectName::new(&slice.namespace, name))
}

/// Key of the item of a resource.
fn item_key(kind: Kind, name: &ResourceName) -> Arc<str> {
    format!("{}/{name}", kind.word()).into()
}

impl Document {
    fn key(&self) -> Arc<str> {
        item_key(self.kind, &self.name)
    }
}
