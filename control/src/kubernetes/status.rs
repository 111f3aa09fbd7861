// SPDX-License-Identifier: Apache-2.0
//! Tells the cluster what the mesh makes of its objects: conditions of custom resources, events of all others.
//!
//! ```text
//! mesh --Verdict-----> Status --(leader only)--> conditions (server-side apply), events
//! registry --Faults--/   |\--> log
//! nodes (xDS) ----------/
//! ```
//!
//! Started by `app`. Invariant: what cannot be written now is written later; the newest verdict about an object wins, and nothing of
//! this holds up what is served to nodes.

mod condition;
mod event;
mod leader;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use kube::{
    Api, Client, Resource as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use nodemesh_model::{Keyword as _, Kind};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

use super::{
    crd,
    finding::{Finding, ObjectId, ObjectKind, Reason, Verdict},
    object::ObjectName,
};
use crate::{registry::State, server::Ending, xds::Nodes};

use event::Events;
use leader::Leader;

/// Who writes the fields of a status.
const MANAGER: &str = "nodemesh-control";
/// Pause between two rounds of writing; the lease is renewed in each.
const ROUND: Duration = Duration::from_secs(2);
/// Most objects that are written in one round: status is no reason to be a burden to the API server.
const MOST: usize = 100;

/// On how many nodes what is served holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Programmed {
    nodes: usize,
    of: usize,
}

impl Programmed {
    /// Nodes that took all that there is for them, of all that are connected.
    fn of(nodes: &Nodes) -> Self {
        let nodes = nodes.list();
        let holds = nodes.iter().filter(|node| {
            let mut types = node.types.values();
            !node.types.is_empty() && types.all(|progress| progress.in_sync && progress.nack.is_none())
        });
        Self {
            nodes: holds.count(),
            of: nodes.len(),
        }
    }
}

/// What there is to tell.
pub struct Status {
    client: Client,
    events: Events,
    leader: Leader,
    nodes: Nodes,
    verdicts: BTreeMap<ObjectId, Verdict>,
    /// Objects of which the cluster has not been told the newest.
    pending: BTreeSet<ObjectId>,
    programmed: Programmed,
    /// What the registry does not serve, and why, by the object that it comes from.
    faults: BTreeMap<ObjectId, String>,
}

impl Status {
    /// Tells the API server of `client`, as `identity`, which no other control plane has.
    pub fn new(client: &Client, nodes: Nodes, identity: String) -> Self {
        Self {
            client: client.clone(),
            events: Events::new(client, identity.clone()),
            leader: Leader::new(client, identity),
            programmed: Programmed::of(&nodes),
            nodes,
            verdicts: BTreeMap::new(),
            pending: BTreeSet::new(),
            faults: BTreeMap::new(),
        }
    }

    /// Tells until the `ending`, or until no more verdicts come; with what the registry has `states` of.
    pub async fn run(
        mut self,
        mut verdicts: mpsc::UnboundedReceiver<(ObjectId, Verdict)>,
        mut states: watch::Receiver<Arc<State>>,
        ending: Ending,
    ) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_leading = false;
        // What it refused from the beginning is news too.
        states.mark_changed();
        loop {
            tokio::select! {
                verdict = verdicts.recv() => match verdict {
                    Some((id, verdict)) => self.take(id, verdict),
                    None => return,
                },
                () = ending.announced() => {
                    if let Err(error) = self.leader.resign().await {
                        tracing::warn!(%error, "cannot give the lease back; another control plane takes it when it is over");
                    }
                    return;
                }
                _ = rounds.tick() => {
                    if states.has_changed().unwrap_or(false) {
                        let state = Arc::clone(&states.borrow_and_update());
                        self.compare_faults(&state);
                    }
                    if let Err(error) = self.leader.campaign().await {
                        tracing::warn!(%error, "cannot get or renew the lease; conditions and events wait");
                    }
                    let is_leading = self.leader.is_leading();
                    if is_leading != was_leading {
                        tracing::info!(is_leading, "who writes conditions and events has changed");
                        // What the former one did not come to.
                        self.pending.extend(self.verdicts.keys().cloned());
                        was_leading = is_leading;
                    }
                    if is_leading {
                        self.round().await;
                    }
                }
            }
        }
    }

    fn take(&mut self, id: ObjectId, verdict: Verdict) {
        for finding in &verdict.findings {
            tracing::warn!(kind = id.kind.word(), object = %id.name, reason = finding.reason.word(), "{}", finding.message);
        }
        let is_gone = verdict.generation.is_none() && verdict.findings.is_empty();
        if is_gone {
            self.verdicts.remove(&id);
            self.pending.remove(&id);
        } else {
            self.verdicts.insert(id.clone(), verdict);
            self.pending.insert(id);
        }
    }

    /// Notes which objects the registry refuses now, and which no longer.
    fn compare_faults(&mut self, state: &State) {
        let faults: BTreeMap<ObjectId, String> = state
            .faults()
            .filter_map(|(key, fault)| Some((self.origin(key)?, fault.reason.clone())))
            .collect();
        let former = std::mem::take(&mut self.faults);
        for (id, reason) in &faults {
            if former.get(id) != Some(reason) {
                tracing::warn!(kind = id.kind.word(), object = %id.name, reason, "does not go together with another object, and is not served");
                self.pending.insert(id.clone());
            }
        }
        self.pending
            .extend(former.into_keys().filter(|id| !faults.contains_key(id)));
        self.faults = faults;
    }

    /// The object that the item `key` of the store comes from: a custom resource, or else a Service of the cluster.
    fn origin(&self, key: &str) -> Option<ObjectId> {
        let mut parts = key.splitn(3, '/');
        let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
        let kind: Kind = nodemesh_model::Keyword::from_word(kind)?;
        let name = ObjectName::new(namespace, name);
        let custom = ObjectId::new(ObjectKind::Custom(kind), name.clone());
        if self.verdicts.contains_key(&custom) {
            return Some(custom);
        }
        matches!(kind, Kind::Service | Kind::TrafficPolicy).then(|| ObjectId::new(ObjectKind::Service, name))
    }

    /// What there is to tell about an object; `None` if it is gone.
    fn verdict(&self, id: &ObjectId) -> Option<Verdict> {
        let known = self.verdicts.get(id).cloned();
        let Some(reason) = self.faults.get(id) else {
            return known;
        };
        let mut verdict = known.unwrap_or(Verdict {
            generation: None,
            findings: Vec::new(),
        });
        verdict.findings.push(Finding::new(
            Reason::Conflict,
            format!("{reason}; this one is not served"),
        ));
        Some(verdict)
    }

    async fn round(&mut self) {
        let programmed = Programmed::of(&self.nodes);
        if programmed != self.programmed {
            self.programmed = programmed;
            let customs = self
                .verdicts
                .keys()
                .filter(|id| matches!(id.kind, ObjectKind::Custom(_)));
            self.pending.extend(customs.cloned());
        }
        let now: Vec<ObjectId> = self.pending.iter().take(MOST).cloned().collect();
        for id in now {
            let Some(verdict) = self.verdict(&id) else {
                self.pending.remove(&id);
                continue;
            };
            match self.write(&id, &verdict).await {
                Ok(()) => drop(self.pending.remove(&id)),
                Err(error) => {
                    tracing::warn!(kind = id.kind.word(), object = %id.name, %error, "cannot tell the cluster; trying again");
                    // The others would fail alike.
                    return;
                }
            }
        }
    }

    async fn write(&mut self, id: &ObjectId, verdict: &Verdict) -> Result<(), kube::Error> {
        let resource = id.kind.api();
        let api: Api<DynamicObject> = if id.name.namespace.is_empty() {
            Api::all_with(self.client.clone(), &resource)
        } else {
            Api::namespaced_with(self.client.clone(), &id.name.namespace, &resource)
        };
        let Some(object) = api.get_opt(&id.name.name).await? else {
            return Ok(());
        };
        if let ObjectKind::Custom(_) = id.kind {
            self.write_conditions(&api, &resource, &object, verdict).await?;
        }
        let reference = object.object_ref(&resource);
        for finding in &verdict.findings {
            self.events.tell(&reference, finding).await?;
        }
        Ok(())
    }

    async fn write_conditions(
        &self,
        api: &Api<DynamicObject>,
        resource: &ApiResource,
        object: &DynamicObject,
        verdict: &Verdict,
    ) -> Result<(), kube::Error> {
        let former = object.data.pointer("/status/conditions").unwrap_or(&Value::Null);
        let conditions = condition::conditions(verdict, self.programmed, former);
        if condition::is_same(former, &conditions) {
            return Ok(());
        }
        let status = json!({
            "apiVersion": resource.api_version, "kind": resource.kind,
            "status": {"conditions": conditions},
        });
        let name = object.metadata.name.as_deref().unwrap_or_default();
        let params = PatchParams::apply(MANAGER).force();
        match api.patch_status(name, &params, &Patch::Apply(&status)).await {
            Ok(_) => Ok(()),
            // It was deleted in the meantime.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl ObjectKind {
    /// The kind as the API has it.
    fn word(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Node => "Node",
            Self::Namespace => "Namespace",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Custom(kind) => kind.word(),
        }
    }

    fn api(self) -> ApiResource {
        let gvk = match self {
            Self::EndpointSlice => GroupVersionKind::gvk("discovery.k8s.io", "v1", self.word()),
            Self::NetworkPolicy => {
                return ApiResource::from_gvk_with_plural(
                    &GroupVersionKind::gvk("networking.k8s.io", "v1", self.word()),
                    "networkpolicies",
                );
            }
            Self::Custom(kind) => return custom_api(kind),
            _ => GroupVersionKind::gvk("", "v1", self.word()),
        };
        ApiResource::from_gvk(&gvk)
    }
}

fn custom_api(kind: Kind) -> ApiResource {
    let gvk = GroupVersionKind::gvk(crd::GROUP, crd::VERSION, kind.word());
    ApiResource::from_gvk_with_plural(&gvk, crd::plural(kind))
}
