// SPDX-License-Identifier: Apache-2.0
//! The state-of-the-world variant: what its requests mean to a [`Stream`], and how its responses are written.
//!
//! A request has all names that its reader wants, and the nonce of the last response that it saw. Invariant: a request that was
//! written before its reader saw the last response is ignored, because its answer to that response says the same or newer.

use std::{collections::BTreeSet, sync::Arc};

use nodemesh_proto::xds::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};

use super::{
    cache::Snapshot,
    delta::WILDCARD,
    limits::Violation,
    resource::{Name, Resource},
    stream::{Response, Stream},
    subscription::Subscription,
};

impl Stream {
    /// Takes in one request.
    pub fn on_sotw(&mut self, request: &DiscoveryRequest, snapshot: &Snapshot) -> Result<(), Violation> {
        let type_url = self.admit(&request.type_url)?;
        self.check(&type_url, request.resource_names.iter())?;
        let asked = self.types.entry(type_url.clone());
        let subscription = asked.or_insert_with(|| Subscription::new(snapshot.resources(&type_url)));
        let is_first = subscription.nonce.is_none();
        let nonce = request.response_nonce.parse().ok();
        if !is_first && nonce != subscription.nonce {
            return Ok(());
        }
        if let Some(nonce) = nonce {
            let rejection = request.error_detail.as_ref().map(|status| status.message.clone());
            subscription.answer(nonce, rejection);
        }
        let wanted: BTreeSet<&str> = request.resource_names.iter().map(String::as_str).collect();
        // Without names at first means everything, and goes on to mean that until there are names.
        let is_legacy = wanted.is_empty() && !subscription.was_named && type_url.is_full_state();
        subscription.was_named |= !wanted.is_empty();
        let names = || wanted.iter().copied().filter(|name| *name != WILDCARD);
        let dropped: Vec<_> = subscription
            .names
            .iter()
            .filter(|name| !wanted.contains(name.as_ref()))
            .cloned()
            .collect();
        for name in names() {
            if !subscription.names.contains(name) {
                subscription.subscribe(snapshot.intern(&type_url, name), true);
                subscription.is_owed = true;
            }
        }
        if is_legacy || wanted.contains(WILDCARD) {
            subscription.subscribe_all(&type_url, snapshot);
        } else if subscription.wildcard {
            subscription.unsubscribe_all();
        }
        for name in dropped {
            subscription.unsubscribe(&name);
        }
        self.check_total(&type_url)
    }
}

/// As on the wire.
pub(super) fn write(response: Response) -> DiscoveryResponse {
    let any = |(_, resource): (Name, Arc<Resource>)| resource.any().clone();
    DiscoveryResponse {
        version_info: response.revision.to_string(),
        resources: response.resources.into_iter().map(any).collect(),
        type_url: response.type_url.to_string(),
        nonce: response.nonce.to_string(),
        ..DiscoveryResponse::default()
    }
}
