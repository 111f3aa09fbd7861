// SPDX-License-Identifier: Apache-2.0
//! How much a service, one of its clients and one of its backends take: `limits` of a traffic policy.
//!
//! Invariant: a limit is at least 1; no limit is the absence of the field, never 0.

use std::ops::RangeInclusive;

use nodemesh_abi::{Caps, Rate, Rules};

use super::range::number;
use crate::{
    invalid::{AdmissionProblem, Findings},
    keyword::{self, Keyword},
    wire,
};

/// Connections per second and bucket sizes that may be given: the interval of a rate stays exact to 0.1 %.
const RATES: RangeInclusive<u32> = 1..=1_000_000;
/// Connections and requests at once that may be given.
const COUNTS: RangeInclusive<u32> = 1..=100_000_000;
const NO_LIMIT: &str = ", or leave it out for no limit";

/// What a client is told whose connection is beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Excess {
    /// `EAGAIN`: it may try again.
    #[default]
    Again,
    /// `ECONNREFUSED`: clients that know no `EAGAIN` at connect treat it as a server that is down.
    Refuse,
}

impl Keyword for Excess {
    const WORDS: &'static [(Self, &'static str)] = &[(Self::Again, "again"), (Self::Refuse, "refuse")];
}

impl Excess {
    /// The `errno` of `connect()`.
    pub const fn errno(self) -> u32 {
        match self {
            Self::Again => 11,
            Self::Refuse => 111,
        }
    }
}

/// Reads `spec.limits` into `rules`.
pub(super) fn read(wire: wire::Limits, rules: &mut Rules, findings: &mut Findings) {
    const FIELDS: &str = "connectionsPerSecond, connections, requests, perClient and perBackend";
    let excess = wire
        .excess
        .as_deref()
        .map_or(Ok(Excess::default()), keyword::parse);
    if let Some(excess) = findings.check("spec.limits.excess", excess) {
        rules.excess_errno = excess.errno();
    }
    let before = findings.is_empty();
    let of_service = wire::PartLimits {
        connections_per_second: wire.connections_per_second,
        burst: wire.burst,
        connections: wire.connections,
        requests: wire.requests,
    };
    let is_limited = [
        of_service.connections_per_second,
        of_service.connections,
        of_service.requests,
    ]
    .iter()
    .any(Option::is_some);
    if !is_limited
        && wire.per_client.is_none()
        && wire.per_backend.is_none()
        && before
        && wire.burst.is_none()
    {
        findings.add("spec.limits", AdmissionProblem::NoLimit { fields: FIELDS }.into());
    }
    (rules.rate, rules.caps) = rate_and_caps(&of_service, "spec.limits", findings);
    (rules.client_rate, rules.client_caps) = part(wire.per_client, "spec.limits.perClient", findings);
    (rules.backend_rate, rules.backend_caps) = part(wire.per_backend, "spec.limits.perBackend", findings);
    contradictions(rules, findings);
}

/// What one client or backend takes.
fn part(wire: Option<wire::PartLimits>, field: &str, findings: &mut Findings) -> (Rate, Caps) {
    let Some(wire) = wire else {
        return Default::default();
    };
    if let wire::PartLimits {
        connections_per_second: None,
        burst: None,
        connections: None,
        requests: None,
    } = wire
    {
        let fields = "connectionsPerSecond, connections and requests";
        findings.add(field, AdmissionProblem::NoLimit { fields }.into());
    }
    rate_and_caps(&wire, field, findings)
}

/// A client can have no more than all clients together: what it is given beyond that is a mistake in one of the two. A backend may: it
/// takes over when others are gone.
fn contradictions(rules: &Rules, findings: &mut Findings) {
    let per_second = |rate: Rate| {
        1_000_000_000_u64
            .checked_div(rate.interval_ns)
            .unwrap_or_default()
    };
    for (name, one, all) in [
        (
            "connectionsPerSecond",
            per_second(rules.client_rate),
            per_second(rules.rate),
        ),
        (
            "connections",
            rules.client_caps.connections.into(),
            rules.caps.connections.into(),
        ),
        (
            "requests",
            rules.client_caps.requests.into(),
            rules.caps.requests.into(),
        ),
    ] {
        if all != 0 && one > all {
            let field = format!("spec.limits.perClient.{name}");
            findings.add(&field, AdmissionProblem::MoreThanAll { one, all }.into());
        }
    }
}

fn rate_and_caps(wire: &wire::PartLimits, field: &str, findings: &mut Findings) -> (Rate, Caps) {
    let rate = number(wire.connections_per_second, RATES, NO_LIMIT);
    let rate = findings
        .check(format_args!("{field}.connectionsPerSecond"), rate)
        .flatten();
    let place = format!("{field}.burst");
    let burst = number(
        wire.burst,
        RATES,
        ", or leave it out for as many as connectionsPerSecond",
    );
    let burst = findings.check(&place, burst).flatten();
    if wire.connections_per_second.is_none() && wire.burst.is_some() {
        findings.add(&place, AdmissionProblem::BurstWithoutRate.into());
    }
    let rate = rate.map_or(Rate::default(), |rate| Rate::new(rate, burst.unwrap_or(rate)));
    (rate, caps(wire.connections, wire.requests, field, findings))
}

fn caps(connections: Option<i64>, requests: Option<i64>, field: &str, findings: &mut Findings) -> Caps {
    let mut read = |name: &str, found: Option<i64>| {
        let number = number(found, COUNTS, NO_LIMIT);
        findings
            .check(format_args!("{field}.{name}"), number)
            .flatten()
            .unwrap_or_default()
    };
    Caps {
        connections: read("connections", connections),
        requests: read("requests", requests),
    }
}
