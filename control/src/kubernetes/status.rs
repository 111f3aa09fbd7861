// SPDX-License-Identifier: Apache-2.0
//! Tells the cluster what the mesh makes of its objects: conditions of custom resources, events of all others.
//!
//! ```text
//! mesh --Verdict--> Status --(leader only)--> conditions (server-side apply), events
//! nodes (xDS) -----/   \--> log
//! ```
//!
//! Started by `app`. Invariant: what cannot be written now is written later; the newest verdict about an object wins, and nothing of
//! this holds up what is served to nodes.

mod condition;
mod leader;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, Resource as _,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use nodemesh_model::{Keyword as _, Kind};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    crd,
    finding::{ObjectId, ObjectKind, Verdict},
};
use crate::xds::Nodes;

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
    recorder: Recorder,
    leader: Leader,
    nodes: Nodes,
    verdicts: BTreeMap<ObjectId, Verdict>,
    /// Objects of which the cluster has not been told the newest.
    pending: BTreeSet<ObjectId>,
    programmed: Programmed,
}

impl Status {
    /// Tells the API server of `client`, as `identity`, which no other control plane has.
    pub fn new(client: &Client, nodes: Nodes, identity: String) -> Self {
        let reporter = Reporter {
            controller: MANAGER.to_owned(),
            instance: Some(identity.clone()),
        };
        Self {
            client: client.clone(),
            recorder: Recorder::new(client.clone(), reporter),
            leader: Leader::new(client, identity),
            programmed: Programmed::of(&nodes),
            nodes,
            verdicts: BTreeMap::new(),
            pending: BTreeSet::new(),
        }
    }

    /// Tells until no more verdicts come.
    pub async fn run(mut self, mut verdicts: mpsc::UnboundedReceiver<(ObjectId, Verdict)>) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut was_leading = false;
        loop {
            tokio::select! {
                verdict = verdicts.recv() => match verdict {
                    Some((id, verdict)) => self.take(id, verdict),
                    None => return,
                },
                _ = rounds.tick() => {
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
            let Some(verdict) = self.verdicts.get(&id) else {
                self.pending.remove(&id);
                continue;
            };
            match self.write(&id, verdict).await {
                Ok(()) => drop(self.pending.remove(&id)),
                Err(error) => {
                    tracing::warn!(kind = id.kind.word(), object = %id.name, %error, "cannot tell the cluster; trying again");
                    // The others would fail alike.
                    return;
                }
            }
        }
    }

    async fn write(&self, id: &ObjectId, verdict: &Verdict) -> Result<(), kube::Error> {
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
            self.publish(&reference, finding.reason.word(), &finding.message)
                .await?;
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

    async fn publish(
        &self,
        reference: &ObjectReference,
        reason: &str,
        message: &str,
    ) -> Result<(), kube::Error> {
        /// The API's own limit, bytes.
        const MAX_NOTE: usize = 1024;
        let event = Event {
            type_: EventType::Warning,
            reason: reason.to_owned(),
            note: Some(condition::shortened(message, MAX_NOTE).to_owned()),
            action: "Translate".to_owned(),
            secondary: None,
        };
        self.recorder.publish(&event, reference).await
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
