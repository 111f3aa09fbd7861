// SPDX-License-Identifier: Apache-2.0
//! What differs between two sets of resources, by pointer, and which services that makes stale. Called by `desired`.
//!
//! Invariant: a service is stale if and only if its own allocation, that of its effective policy, that of a workload it selects or
//! selected, or that of an access policy about it is another one than before.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::ControlFlow,
    sync::Arc,
};

use nodemesh_abi::limits::MAX_BACKENDS;

use super::select;
use crate::{
    name::ResourceName,
    resource::{Service, Target, Workload, access_policy::AccessTarget},
    resources::Resources,
};

/// More matches than the old and the new resources can have together: the new ones will be refused.
const TOO_MANY: usize = 2 * MAX_BACKENDS;

/// What differs.
pub(super) struct Changes<'a> {
    /// Services that are no more.
    pub(super) gone: Vec<&'a Service>,
    /// The stale services that were there before, as they were.
    pub(super) outdated: Vec<&'a Service>,
    /// The services to compile, by name.
    pub(super) stale: Vec<&'a Service>,
    /// Workloads that came, went or changed: before and after.
    pub(super) workloads: Vec<(Option<&'a Workload>, Option<&'a Workload>)>,
    /// Whether an access policy came, went or changed.
    pub(super) access: bool,
}

/// Compares `old` and `new`.
pub(super) fn between<'a>(old: &'a Resources, new: &'a Resources) -> Changes<'a> {
    let mut gone = Vec::new();
    let mut stale = BTreeSet::new();
    differences(old.services(), new.services(), |before, after| {
        match (before, after) {
            (Some(service), None) => gone.push(service),
            (_, Some(service)) => {
                stale.insert(&service.metadata.name);
            }
            (None, None) => {}
        }
    });
    let mut workloads = Vec::new();
    differences(old.workloads(), new.workloads(), |before, after| {
        workloads.push((before, after));
    });
    add_by_policy(old, new, &mut stale);
    let access = add_by_access(old, new, &mut stale);
    add_by_workload(new, &workloads, &mut stale);
    Changes {
        gone,
        outdated: stale
            .iter()
            .filter_map(|name| old.services().get(*name).map(Arc::as_ref))
            .collect(),
        stale: stale
            .iter()
            .filter_map(|name| new.services().get(*name).map(Arc::as_ref))
            .collect(),
        workloads,
        access,
    }
}

/// Adds the services whose effective policy is another one.
fn add_by_policy<'a>(old: &Resources, new: &'a Resources, stale: &mut BTreeSet<&'a ResourceName>) {
    let mut targets = Vec::new();
    differences(old.targets(), new.targets(), |before, after| {
        targets.extend(before.or(after).map(|policy| &policy.target));
    });
    for target in targets {
        match target {
            Target::Service(name) => stale.extend(new.services().get_key_value(name).map(|(name, _)| name)),
            Target::Namespace(namespace) => {
                stale.extend(
                    new.services_of(namespace)
                        .map(|service| &service.metadata.name)
                        .filter(|name| {
                            old.policy_of(name).map(Arc::as_ptr) != new.policy_of(name).map(Arc::as_ptr)
                        }),
                );
            }
        }
    }
}

/// Adds the services that a changed access policy is or was about; whether there is such a policy.
fn add_by_access<'a>(old: &Resources, new: &'a Resources, stale: &mut BTreeSet<&'a ResourceName>) -> bool {
    let mut targets = BTreeSet::new();
    differences(old.access_policies(), new.access_policies(), |before, after| {
        targets.extend(
            [before, after]
                .into_iter()
                .flatten()
                .map(|policy| policy.target.clone()),
        );
    });
    for target in &targets {
        match target {
            AccessTarget::Mesh => stale.extend(new.services().keys()),
            AccessTarget::Namespace(namespace) => {
                stale.extend(new.services_of(namespace).map(|service| &service.metadata.name));
            }
            AccessTarget::Service(name) => {
                stale.extend(new.services().get_key_value(name).map(|(name, _)| name));
            }
        }
    }
    !targets.is_empty()
}

/// Adds the services that select one of the changed workloads, or did before it changed.
fn add_by_workload<'a>(
    new: &'a Resources,
    changed: &[(Option<&'a Workload>, Option<&'a Workload>)],
    stale: &mut BTreeSet<&'a ResourceName>,
) {
    let mut by_namespace: BTreeMap<&str, Vec<&Workload>> = BTreeMap::new();
    for workload in changed
        .iter()
        .flat_map(|(before, after)| [before, after])
        .filter_map(|side| *side)
    {
        by_namespace
            .entry(workload.metadata.name.namespace())
            .or_default()
            .push(workload);
    }
    for (namespace, workloads) in by_namespace {
        let candidates: Vec<&Service> = new
            .services_of(namespace)
            .map(Arc::as_ref)
            .filter(|service| service.selector.is_some() && !stale.contains(&service.metadata.name))
            .collect();
        let mut matches = 0;
        let few = select::for_each_match(&candidates, workloads, |position, _| {
            stale.insert(&candidates[position].metadata.name);
            matches += 1;
            if matches > TOO_MANY {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        if few.is_break() {
            stale.extend(candidates.iter().map(|service| &service.metadata.name));
        }
    }
}

/// Hands the old and the new value of each key to `each` whose values are not the same allocation.
fn differences<'a, K: Ord, T>(
    old: &'a BTreeMap<K, Arc<T>>,
    new: &'a BTreeMap<K, Arc<T>>,
    mut each: impl FnMut(Option<&'a T>, Option<&'a T>),
) {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    loop {
        match (old.peek(), new.peek()) {
            (None, None) => return,
            // One allocation has one key: most steps compare no names.
            (Some((_, before)), Some((_, after))) if Arc::ptr_eq(before, after) => {
                old.next();
                new.next();
            }
            (Some((old_key, _)), Some((new_key, _))) if old_key == new_key => {
                each(
                    old.next().map(|(_, value)| &**value),
                    new.next().map(|(_, value)| &**value),
                );
            }
            (Some((old_key, _)), Some((new_key, _))) if old_key > new_key => {
                each(None, new.next().map(|(_, value)| &**value));
            }
            (None, Some(_)) => each(None, new.next().map(|(_, value)| &**value)),
            (Some(_), _) => each(old.next().map(|(_, value)| &**value), None),
        }
    }
}
