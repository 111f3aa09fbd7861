// SPDX-License-Identifier: Apache-2.0
//! The clusters behind a port with their endpoints, wherever these are told. Called by `service`.
//!
//! Invariant: all clusters of a port are there, or none: half of a split is not the split.

use super::{Draft, Port, Sources};
use crate::{
    from_xds::{
        cluster::{Cluster, Endpoints},
        share::{Branch, unused_priority},
    },
    type_url,
};

/// A cluster behind a port.
pub(super) struct Upstream<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) branch: Branch<'a>,
}

/// The clusters of `port`; `None` if one is waited for, or not taken.
pub(super) fn upstreams<'a>(
    port: &Port<'a>,
    sources: &'a impl Sources,
    draft: &mut Draft,
) -> Option<Vec<Upstream<'a>>> {
    let mut upstreams = Vec::with_capacity(port.target.clusters.len());
    for (name, share) in &port.target.clusters {
        upstreams.extend(upstream(name, *share, port, sources, draft));
    }
    (upstreams.len() == port.target.clusters.len()).then_some(upstreams)
}

fn upstream<'a>(
    name: &'a str,
    share: u32,
    port: &Port<'_>,
    sources: &'a impl Sources,
    draft: &mut Draft,
) -> Option<Upstream<'a>> {
    let Some(cluster) = sources.cluster(name) else {
        draft.wait(port.listener, type_url::CLUSTER, name);
        return None;
    };
    let (assignment, place) = match &cluster.endpoints {
        Endpoints::Inline(assignment) => (assignment, (type_url::CLUSTER, name, "load_assignment.")),
        Endpoints::Discovered(name) => {
            let Some(assignment) = sources.assignment(name) else {
                draft.wait(port.listener, type_url::ASSIGNMENT, name);
                return None;
            };
            (assignment, (type_url::ASSIGNMENT, &**name, ""))
        }
        Endpoints::Unknown => return None,
    };
    let branch = Branch {
        assignment,
        weighs_localities: cluster.balancer.weighs_localities,
        share,
    };
    if let Some(index) = unused_priority(branch) {
        let (type_url, resource, prefix) = place;
        let field = format!("{prefix}endpoints[{index}].priority");
        let effect = "used when the health that is told of all lower ones is bad";
        draft.note(type_url, resource, field, effect);
    }
    Some(Upstream { cluster, branch })
}
