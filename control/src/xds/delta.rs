// SPDX-License-Identifier: Apache-2.0
//! The delta variant: what its requests mean to a [`Stream`], and how its responses are written.

use std::sync::Arc;

use nodemesh_proto::{
    CONTROL_PLANE,
    xds::envoy::{
        config::core::v3::ControlPlane,
        service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource as WireResource},
    },
};

use super::{
    cache::Snapshot,
    limits::Violation,
    resource::{Name, Resource},
    stream::{Response, Stream},
    subscription::Subscription,
};

/// Asks for all resources.
pub(super) const WILDCARD: &str = "*";

impl Stream {
    /// Takes in one request.
    pub fn on_delta(
        &mut self,
        request: &DeltaDiscoveryRequest,
        snapshot: &Snapshot,
    ) -> Result<(), Violation> {
        let type_url = self.admit(&request.type_url)?;
        let names = &request.resource_names_subscribe;
        self.check(
            &type_url,
            names.iter().chain(request.initial_resource_versions.keys()),
        )?;
        let is_first = !self.types.contains_key(&type_url);
        let asked = self.types.entry(type_url.clone());
        let subscription = asked.or_insert_with(|| Subscription::new(snapshot.resources(&type_url)));
        if let Ok(nonce) = request.response_nonce.parse() {
            let rejection = request.error_detail.as_ref().map(|status| status.message.clone());
            subscription.answer(nonce, rejection);
        }
        let is_wildcard = names.iter().any(|name| name == WILDCARD);
        let is_legacy = is_first && names.is_empty() && type_url.is_full_state();
        if is_first {
            for (name, version) in &request.initial_resource_versions {
                if is_wildcard || is_legacy || names.contains(name) {
                    subscription.claim(snapshot.intern(&type_url, name), version);
                }
            }
        }
        for name in names.iter().filter(|name| *name != WILDCARD) {
            // What a reader brings along is not sent again; what it asks for again is.
            let is_owed = !(is_first && request.initial_resource_versions.contains_key(name));
            subscription.subscribe(snapshot.intern(&type_url, name), is_owed);
        }
        if is_wildcard || is_legacy {
            subscription.subscribe_all(&type_url, snapshot);
        }
        for name in &request.resource_names_unsubscribe {
            if name == WILDCARD {
                subscription.unsubscribe_all();
            } else {
                subscription.unsubscribe(name);
            }
        }
        self.check_total(&type_url)
    }
}

/// As on the wire.
pub(super) fn write(response: Response) -> DeltaDiscoveryResponse {
    let resource = |(name, resource): (Name, Arc<Resource>)| WireResource {
        name: name.to_string(),
        version: resource.version(),
        resource: Some(resource.any().clone()),
        ..WireResource::default()
    };
    DeltaDiscoveryResponse {
        system_version_info: response.revision.to_string(),
        resources: response.resources.into_iter().map(resource).collect(),
        type_url: response.type_url.to_string(),
        removed_resources: response.removed.iter().map(ToString::to_string).collect(),
        nonce: response.nonce.to_string(),
        control_plane: Some(ControlPlane {
            identifier: CONTROL_PLANE.to_owned(),
        }),
        ..DeltaDiscoveryResponse::default()
    }
}
