// SPDX-License-Identifier: Apache-2.0
//! Events of objects: what an operator must know of them, as `kubectl describe` shows it.
//!
//! Written by `status`. Source: Kubernetes API, `events.k8s.io/v1` (series). Invariant: what is told again is counted in the event that
//! there is, also by another control plane: an event is named after what it says of which object.

use std::collections::HashMap;

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use twox_hash::XxHash3_64;

use super::{super::finding::Finding, MANAGER, condition::shortened};

/// The API's own limit, bytes.
const MAX_NOTE: usize = 1024;
/// Longest name of an object that is part of the name of an event, bytes.
const MAX_NAME: usize = 230;
/// Events whose counts are remembered.
const MEMORY: usize = 10_000;

/// Writes events.
pub(super) struct Events {
    client: Client,
    instance: String,
    /// How often each was told from here, by name.
    told: HashMap<String, i32>,
}

impl Events {
    pub(super) fn new(client: &Client, instance: String) -> Self {
        Self {
            client: client.clone(),
            instance,
            told: HashMap::new(),
        }
    }

    /// Tells `finding` about the object `regarding`.
    pub(super) async fn tell(
        &mut self,
        regarding: &ObjectReference,
        finding: &Finding,
    ) -> Result<(), kube::Error> {
        let event = self.event(regarding, finding);
        let name = event.metadata.name.clone().unwrap_or_default();
        let api: Api<Event> = Api::namespaced(
            self.client.clone(),
            event.metadata.namespace.as_deref().unwrap_or_default(),
        );
        let created = api.create(&PostParams::default(), &event).await;
        let count = self.told.get(&name).map_or(1, |count| count.saturating_add(1));
        match created {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let series = EventSeries {
                    count: count.max(2),
                    last_observed_time: MicroTime(Timestamp::now()),
                };
                let patch = Patch::Merge(json!({"series": series}));
                api.patch(&name, &PatchParams::default(), &patch).await?;
            }
            Err(error) => return Err(error),
        }
        if self.told.len() >= MEMORY {
            self.told.clear();
        }
        self.told.insert(name, count);
        Ok(())
    }

    fn event(&self, regarding: &ObjectReference, finding: &Finding) -> Event {
        let reason = finding.reason.word();
        let object = regarding.name.as_deref().unwrap_or_default();
        let uid = regarding.uid.as_deref().unwrap_or_default();
        let hash = XxHash3_64::oneshot(format!("{uid} {reason} {}", finding.message).as_bytes());
        // Objects that are in no namespace have their events in this one.
        let namespace = regarding
            .namespace
            .clone()
            .unwrap_or_else(|| "default".to_owned());
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{hash:016x}", shortened(object, MAX_NAME))),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some(reason.to_owned()),
            action: Some("Translate".to_owned()),
            note: Some(shortened(&finding.message, MAX_NOTE).to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            regarding: Some(regarding.clone()),
            reporting_controller: Some(MANAGER.to_owned()),
            reporting_instance: Some(shortened(&self.instance, 128).to_owned()),
            ..Event::default()
        }
    }
}
