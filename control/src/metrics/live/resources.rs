// SPDX-License-Identifier: Apache-2.0
//! The store and what is in it.

use nodemesh_model::{Keyword as _, Kind};

use super::Family;
use crate::registry::State;

pub(super) fn families(state: &State) -> Vec<Family> {
    let mut resources = Family::gauge("resources_stored", "Resources, by kind.", &["kind"]);
    for (kind, word) in Kind::WORDS {
        resources.add(&[word], state.count(*kind) as f64);
    }
    let leased = state
        .entries_of(Kind::Workload)
        .filter(|entry| entry.lease.is_some());
    [
        resources,
        Family::gauge(
            "store_revision",
            "Revision of the store that is served: that of the last change.",
            &[],
        )
        .with(state.revision.0 as f64),
        Family::gauge(
            "store_faults",
            "Items of the store that are no valid resources and are left out. Must stay 0.",
            &[],
        )
        .with(state.faults().count() as f64),
        Family::gauge("leases", "Servers that are registered with a lease.", &[]).with(leased.count() as f64),
    ]
    .into()
}
