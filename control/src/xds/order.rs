// SPDX-License-Identifier: Apache-2.0
//! Make before break: when a resource may be sent to a reader, and when one may be taken from it.
//!
//! Sent: a listener or a route, once the reader has the clusters that it refers to, and their endpoints. Taken: a resource, once the
//! reader has nothing that refers to it. A reader that asks for policies and workloads has no listener before it has all of these, so
//! that it never serves one whose policy is on its way. Between unrelated resources there is no order, so that nothing waits for a
//! neighbour. A reader that does not do its part (never asks for the endpoints of a cluster, for example) is waited for no longer than
//! [`PATIENCE`](super::subscription::PATIENCE) ticks, but for policies without an end. Invariant: a wait ends by the answers to what was sent, or by a tick.

use std::collections::BTreeSet;

use super::{
    cache::Snapshot, resource::Resource, stream::Stream, subscription::Subscription, type_url::TypeUrl,
};

/// The names of one type that a reader may still have references to.
#[derive(Debug, Default)]
pub(super) struct InUse<'a> {
    names: BTreeSet<&'a str>,
    /// It may have resources whose references are not known.
    any: bool,
}

impl InUse<'_> {
    /// Whether `name` must stay.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.any || self.names.contains(name)
    }
}

impl Stream {
    /// Whether the reader may have new resources of this type: a listener not before what guards services.
    pub(super) fn is_guarded(&self, type_url: &TypeUrl) -> bool {
        let mut guards = [TypeUrl::Workloads, TypeUrl::Policies].into_iter();
        *type_url != TypeUrl::Listener
            || guards.all(|guard| {
                let subscription = self.types.get(&guard);
                subscription.is_none_or(Subscription::is_filled)
            })
    }

    /// Whether the reader has all that `resource` refers to, or cannot get it.
    pub(super) fn is_prepared(&self, resource: &Resource, snapshot: &Snapshot) -> bool {
        let mut references = resource.references().unwrap_or_default().iter();
        references.all(|(type_url, name)| match type_url {
            TypeUrl::Cluster => self.has_cluster(name, snapshot),
            // Endpoints and routes are asked for by who has the cluster or the listener.
            _ => true,
        })
    }

    fn has_cluster(&self, name: &str, snapshot: &Snapshot) -> bool {
        let Some(clusters) = self.types.get(&TypeUrl::Cluster) else {
            return true;
        };
        let Some(newest) = snapshot
            .get(&TypeUrl::Cluster, name)
            .filter(|_| clusters.wants(name))
        else {
            return true;
        };
        let Some(cluster) = clusters.held.get(name).filter(|_| clusters.has(name)) else {
            return false;
        };
        let references = cluster.references().or_else(|| newest.references());
        let mut references = references.unwrap_or_default().iter();
        references.all(|(_, endpoints)| {
            let exist = snapshot.get(&TypeUrl::Endpoints, endpoints).is_some();
            let of_reader = self.types.get(&TypeUrl::Endpoints);
            !exist || of_reader.is_some_and(|subscription| subscription.has(endpoints))
        })
    }

    /// What the reader may refer to by resources that the cache has otherwise by now: what those of the cache refer to is there.
    pub(super) fn in_use(&self, type_url: &TypeUrl) -> InUse<'_> {
        let mut in_use = InUse::default();
        let is_resuming = self.types.get(type_url).is_some_and(Subscription::is_resuming);
        for referrer in type_url.referrers() {
            let Some(subscription) = self.types.get(referrer) else {
                // It may have some from an earlier stream, and ask for them next.
                in_use.any |= is_resuming;
                continue;
            };
            for resource in subscription.outdated() {
                let Some(references) = resource.references() else {
                    in_use.any = true;
                    continue;
                };
                let same_type = references.iter().filter(|(of_type, _)| of_type == type_url);
                in_use.names.extend(same_type.map(|(_, name)| name.as_ref()));
            }
        }
        in_use
    }
}
