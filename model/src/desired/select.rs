// SPDX-License-Identifier: Apache-2.0
//! Which workloads the selectors of services match. Called by `desired` and `changes`.
//!
//! Each selector is filed under the one of its labels that fewest other selectors have, and each workload looks its labels up
//! there: the cost is that of the labels and the matches, not services times workloads.

use std::{collections::HashMap, ops::ControlFlow, sync::Arc};

use crate::{
    keyword::Family,
    resource::{Service, Workload},
    resources::Resources,
};

/// The workloads that `service` selects and has an address family in common with, by name: a scan of its namespace.
pub fn selected<'r>(service: &Service, resources: &'r Resources) -> Vec<&'r Workload> {
    let selected = select(&[service], resources, usize::MAX);
    selected
        .and_then(|mut selected| selected.pop())
        .unwrap_or_default()
}

/// For each of `services`, all of one namespace, the workloads that it selects and has an address family in common with.
///
/// `None` if they are more than `room` together.
pub(super) fn select<'r>(
    services: &[&Service],
    resources: &'r Resources,
    room: usize,
) -> Option<Vec<Vec<&'r Workload>>> {
    let mut selected = vec![Vec::new(); services.len()];
    let Some(first) = services.iter().find(|service| service.selector.is_some()) else {
        return Some(selected);
    };
    let workloads = resources
        .workloads_of(first.metadata.name.namespace())
        .map(Arc::as_ref);
    let mut count = 0;
    let within = for_each_match(services, workloads, |position, workload| {
        let families = &services[position].addresses;
        if families
            .iter()
            .any(|own| workload.address(Family::of(*own)).is_some())
        {
            selected[position].push(workload);
            count += 1;
        }
        if count > room {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    within.is_continue().then_some(selected)
}

/// Hands each pair of a position in `services`, all of one namespace, and one of its `workloads` that it selects to `each`.
pub(super) fn for_each_match<'w>(
    services: &[&Service],
    workloads: impl IntoIterator<Item = &'w Workload>,
    mut each: impl FnMut(usize, &'w Workload) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let index = index(services);
    if index.is_empty() {
        return ControlFlow::Continue(());
    }
    for workload in workloads {
        for label in &workload.metadata.labels {
            for position in index.get(&label).into_iter().flatten() {
                if services[*position].selects(&workload.metadata.labels) {
                    each(*position, workload)?;
                }
            }
        }
    }
    ControlFlow::Continue(())
}

/// Positions in `services` by the rarest label of their selector.
fn index<'s>(services: &[&'s Service]) -> HashMap<(&'s String, &'s String), Vec<usize>> {
    let mut uses: HashMap<(&String, &String), usize> = HashMap::new();
    for label in services
        .iter()
        .filter_map(|service| service.selector.as_ref())
        .flatten()
    {
        *uses.entry(label).or_default() += 1;
    }
    let mut index: HashMap<_, Vec<usize>> = HashMap::new();
    for (position, service) in services.iter().enumerate() {
        let rarest = service.selector.iter().flatten().min_by_key(|label| uses[label]);
        if let Some(label) = rarest {
            index.entry(label).or_default().push(position);
        }
    }
    index
}
