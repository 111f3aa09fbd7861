// SPDX-License-Identifier: Apache-2.0
//! What each replica behind a listener gets: clusters by their share, within them localities by priority and weight, within them
//! endpoints by weight. Called by `service`.
//!
//! As in Envoy, with one difference: the share of a cluster without an available endpoint goes to the others, where a proxy
//! would refuse the connections it draws for it. Invariant: the weights of one cluster that has one locality in use stay as they are,
//! up to the largest that the model takes.

use std::net::IpAddr;

use nodemesh_abi::limits::MAX_WEIGHT;
use nodemesh_model::BackendState;

use super::assignment::{Assignment, Endpoint, Health, Locality};

/// A cluster behind a listener.
#[derive(Clone, Copy)]
pub(super) struct Branch<'a> {
    pub(super) assignment: &'a Assignment,
    /// Whether a locality without a weight gets nothing, and the others by their weight.
    pub(super) weighs_localities: bool,
    pub(super) share: u32,
}

/// A replica behind a listener.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Replica<'a> {
    pub(super) ip: IpAddr,
    pub(super) port: u16,
    pub(super) weight: u32,
    pub(super) state: BackendState,
    pub(super) workload: Option<&'a str>,
    pub(super) place: Option<&'a nodemesh_model::Locality>,
}

/// A replica before its weight is a whole number.
struct Draft<'a> {
    endpoint: &'a Endpoint,
    place: Option<&'a nodemesh_model::Locality>,
    state: BackendState,
    weight: f64,
}

/// The replicas of `branches`, sorted and unique by address and port.
pub(super) fn replicas<'a>(branches: &[Branch<'a>]) -> Vec<Replica<'a>> {
    let mut drafts: Vec<Draft<'a>> = Vec::new();
    for branch in branches {
        let mut drafted = self::drafts(*branch);
        if branches.len() > 1 {
            let total = active_weight(&drafted);
            for draft in &mut drafted {
                draft.weight *= f64::from(branch.share) / total.max(f64::MIN_POSITIVE);
            }
        }
        drafts.append(&mut drafted);
    }
    drafts.sort_by_key(|draft| (draft.endpoint.ip, draft.endpoint.port, draft.state));
    drafts.dedup_by(|later, first| {
        let same = (later.endpoint.ip, later.endpoint.port) == (first.endpoint.ip, first.endpoint.port);
        if same && later.state == first.state {
            first.weight += later.weight;
        }
        same
    });
    whole(&drafts)
}

/// The priority in use: the first that has an available endpoint.
fn priority_in_use(branch: Branch<'_>) -> u32 {
    let localities = branch.assignment.localities.iter();
    localities
        .filter(|locality| is_used(locality, branch) && locality.endpoints.iter().any(is_available))
        .map(|locality| locality.priority)
        .min()
        .unwrap_or(u32::MAX)
}

/// Position of the first locality that waits for those of lower priority to fail.
pub(super) fn unused_priority(branch: Branch<'_>) -> Option<usize> {
    let in_use = priority_in_use(branch);
    let is_spare = |locality: &Locality| locality.priority > in_use && !locality.endpoints.is_empty();
    branch.assignment.localities.iter().position(is_spare)
}

/// The endpoints up to the priority in use; those of the priorities before it are all unavailable, and are kept for what is
/// still connected to them.
fn drafts(branch: Branch<'_>) -> Vec<Draft<'_>> {
    let in_use = priority_in_use(branch);
    let localities = || {
        branch
            .assignment
            .localities
            .iter()
            .filter(move |locality| is_used(locality, branch) && locality.priority <= in_use)
    };
    let chosen = || localities().filter(|locality| locality.priority == in_use);
    let has_healthy = chosen()
        .flat_map(|locality| &locality.endpoints)
        .any(|endpoint| endpoint.health == Health::Healthy);
    let by_weight = chosen().count() > 1
        && !chosen().all(|locality| locality.sums_up)
        && (branch.weighs_localities || chosen().all(|locality| locality.weight.is_some()));
    let mut drafts = Vec::new();
    for locality in localities() {
        let mut drafted: Vec<_> = locality
            .endpoints
            .iter()
            .map(|endpoint| Draft {
                endpoint,
                place: locality.place.as_deref(),
                state: state(endpoint.health, has_healthy),
                weight: endpoint.weight.into(),
            })
            .collect();
        if by_weight {
            let factor = locality_share(locality, &drafted, branch.assignment.overprovisioning);
            for draft in &mut drafted {
                draft.weight *= factor;
            }
        }
        drafts.append(&mut drafted);
    }
    drafts
}

/// What multiplies the weights of `drafts`, the endpoints of `locality`: its weight, less what its unavailable endpoints
/// leave undone, over their sum.
fn locality_share(locality: &Locality, drafts: &[Draft<'_>], overprovisioning: u32) -> f64 {
    let available = drafts
        .iter()
        .filter(|draft| draft.state == BackendState::Active)
        .count();
    let part = available as f64 / drafts.len().max(1) as f64;
    let able = (part * f64::from(overprovisioning) / 100.0).min(1.0);
    f64::from(locality.weight.unwrap_or(0)) * able / active_weight(drafts).max(f64::MIN_POSITIVE)
}

fn is_used(locality: &Locality, branch: Branch<'_>) -> bool {
    !locality.endpoints.is_empty() && (!branch.weighs_localities || locality.weight.is_some())
}

fn is_available(endpoint: &Endpoint) -> bool {
    endpoint.health <= Health::Degraded
}

const fn state(health: Health, has_healthy: bool) -> BackendState {
    match health {
        Health::Healthy => BackendState::Active,
        Health::Degraded if !has_healthy => BackendState::Active,
        Health::Degraded | Health::Draining => BackendState::Draining,
        Health::Unhealthy => BackendState::Unhealthy,
    }
}

fn active_weight(drafts: &[Draft<'_>]) -> f64 {
    let active = drafts.iter().filter(|draft| draft.state == BackendState::Active);
    active.map(|draft| draft.weight).sum()
}

/// Weights as the model takes them; scaled, so that the largest is the largest possible, only if they do not fit.
fn whole<'a>(drafts: &[Draft<'a>]) -> Vec<Replica<'a>> {
    let largest = f64::from(MAX_WEIGHT);
    let fits = |draft: &Draft<'_>| draft.weight.fract() == 0.0 && (1.0..=largest).contains(&draft.weight);
    let active = || drafts.iter().filter(|draft| draft.state == BackendState::Active);
    let scale = if active().all(fits) {
        1.0
    } else {
        largest
            / active()
                .map(|draft| draft.weight)
                .fold(f64::MIN_POSITIVE, f64::max)
    };
    drafts
        .iter()
        .map(
            |Draft {
                 endpoint,
                 place,
                 state,
                 weight,
             }| Replica {
                ip: endpoint.ip,
                port: endpoint.port,
                weight: whole_weight(weight * scale),
                state: *state,
                workload: endpoint.workload.as_deref(),
                place: *place,
            },
        )
        .collect()
}

#[expect(clippy::cast_sign_loss, reason = "clamped to at least 1")]
fn whole_weight(weight: f64) -> u32 {
    weight.round().clamp(1.0, f64::from(MAX_WEIGHT)) as u32
}

#[cfg(test)]
mod tests;
