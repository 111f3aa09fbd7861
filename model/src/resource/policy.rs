// SPDX-License-Identifier: Apache-2.0
//! A traffic policy: how connections to a service, or to every service of a namespace, are placed.
//!
//! Invariant: a table size is a prime of [`TABLE_SIZES`] and belongs to `maglev`.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use nodemesh_abi::{Algorithm, ClientKeySource};

use super::Metadata;
use crate::{
    invalid::{Findings, Problem},
    keyword::{self, Keyword, Kind},
    name::{ResourceName, dns_label},
    wire,
};

mod fields;
mod health_check;
mod limits;
mod outlier;
mod range;
mod rules;
mod shortcut;
mod slow_start;
mod tiers;

pub use health_check::{HealthCheck, HealthCheckFrom, HealthCheckKind};
pub use limits::Excess;
pub use outlier::Silence;
pub use rules::{OnRemoval, ServiceRules};

/// Sizes that a Maglev table may be given; the upper one is 16 MiB of slots.
pub const TABLE_SIZES: RangeInclusive<u32> = 251..=1_048_573;
/// Longest session affinity, seconds.
pub const MAX_AFFINITY_S: u32 = 86_400;

/// How connections are placed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TrafficPolicy {
    /// Name and labels.
    pub metadata: Metadata,
    /// What it applies to.
    pub target: Target,
    /// The choice of the replica.
    pub load_balancer: LoadBalancer,
    /// What identifies a client.
    pub client_key: ClientKeySource,
    /// Seconds that a client stays with its replica after its last connection; 0 without affinity.
    pub affinity_timeout_s: u32,
    /// Limits, health and locality.
    pub rules: Arc<ServiceRules>,
}

/// The services that a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Every service of the namespace without a policy of its own.
    Namespace(Box<str>),
    /// One service.
    Service(ResourceName),
}

/// The choice of the replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoadBalancer {
    /// The algorithm.
    pub algorithm: Algorithm,
    /// Size of the Maglev table; `None` lets the number of backends decide.
    pub table_size: Option<u32>,
}

impl Default for LoadBalancer {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::LeastRequest,
            table_size: None,
        }
    }
}

impl TryFrom<wire::Document<wire::TrafficPolicySpec>> for TrafficPolicy {
    type Error = Findings;

    fn try_from(document: wire::Document<wire::TrafficPolicySpec>) -> Result<Self, Findings> {
        let mut findings = Findings::default();
        let spec = document.spec;
        let metadata = Metadata::validate(document.metadata, &mut findings);
        let target = target(&spec.target_ref, metadata.as_ref(), &mut findings);
        let load_balancer = load_balancer(spec.load_balancer, &mut findings);
        let client_key = spec
            .client_key
            .as_deref()
            .map_or(Ok(ClientKeySource::Workload), keyword::parse);
        let client_key = findings.check("spec.clientKey", client_key);
        let timeout = spec
            .session_affinity
            .map_or(Ok(0), |affinity| affinity_timeout(&affinity.timeout));
        let timeout = findings.check("spec.sessionAffinity.timeout", timeout);
        let rules = rules::Parts {
            limits: spec.limits,
            outlier_detection: spec.outlier_detection,
            health_checks: spec.health_checks,
            slow_start: spec.slow_start,
            locality: spec.locality,
            on_removal: spec.on_removal,
            shortcut: spec.shortcut,
        };
        let rules = Arc::new(ServiceRules::read(rules, &mut findings));
        match (metadata, target, client_key, timeout) {
            (Some(metadata), Some(target), Some(client_key), Some(affinity_timeout_s))
                if findings.is_empty() =>
            {
                Ok(Self {
                    metadata,
                    target,
                    load_balancer,
                    client_key,
                    affinity_timeout_s,
                    rules,
                })
            }
            _ => Err(findings),
        }
    }
}

fn target(wire: &wire::TargetRef, metadata: Option<&Metadata>, findings: &mut Findings) -> Option<Target> {
    if wire.kind != Kind::Service.word() {
        let known = vec![Kind::Service.word()];
        findings.add(
            "spec.targetRef.kind",
            Problem::UnknownWord {
                found: wire.kind.clone(),
                known,
            },
        );
    }
    if let Some(name) = &wire.name {
        findings.check("spec.targetRef.name", dns_label(name))?;
    }
    let namespace = metadata?.name.namespace();
    match &wire.name {
        None => Some(Target::Namespace(namespace.into())),
        Some(name) => ResourceName::new(namespace, name).ok().map(Target::Service),
    }
}

fn load_balancer(wire: Option<wire::LoadBalancer>, findings: &mut Findings) -> LoadBalancer {
    let Some(wire) = wire else {
        return LoadBalancer::default();
    };
    let mut balancer = LoadBalancer::default();
    if let Some(word) = wire.algorithm {
        match findings.check("spec.loadBalancer.algorithm", keyword::parse(&word)) {
            Some(algorithm) => balancer.algorithm = algorithm,
            // Whether a table size belongs there cannot be told.
            None => return balancer,
        }
    }
    if let Some(size) = wire.table_size {
        let size = match balancer.algorithm {
            Algorithm::Maglev => table_size(size),
            other => Err(Problem::TableSizeUnused {
                algorithm: other.word(),
            }),
        };
        balancer.table_size = findings.check("spec.loadBalancer.tableSize", size);
    }
    balancer
}

/// Reads the size of a Maglev table: a prime of [`TABLE_SIZES`].
pub fn table_size(found: i64) -> Result<u32, Problem> {
    let size = u32::try_from(found)
        .ok()
        .filter(|size| TABLE_SIZES.contains(size))
        .ok_or(Problem::TableSizeRange { found })?;
    // The range ends with a prime, so there always is a next one.
    match (size..=*TABLE_SIZES.end()).find(|candidate| is_prime(*candidate)) {
        Some(prime) if prime == size => Ok(size),
        next => Err(Problem::TableSizeNotPrime {
            found: size,
            next: next.unwrap_or(*TABLE_SIZES.end()),
        }),
    }
}

fn is_prime(number: u32) -> bool {
    number >= 2 && (2..=number.isqrt()).all(|divisor| !number.is_multiple_of(divisor))
}

fn affinity_timeout(text: &str) -> Result<u32, Problem> {
    let timeout = humantime::parse_duration(text).map_err(|error| Problem::Duration {
        found: text.to_owned(),
        reason: error.to_string(),
    })?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(MAX_AFFINITY_S.into());
    if timeout.subsec_nanos() == 0 && allowed.contains(&timeout) {
        Ok(timeout.as_secs() as u32)
    } else {
        Err(Problem::AffinityRange {
            found: text.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primes_are_told_apart() {
        let primes: Vec<u32> = (0..40).filter(|number| is_prime(*number)).collect();
        assert_eq!(primes, [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37]);
        for prime in [251, 16_381, 131_071, *TABLE_SIZES.end()] {
            assert_eq!(table_size(prime.into()), Ok(prime));
        }
    }

    #[test]
    fn affinity_lasts_whole_seconds_up_to_a_day() {
        assert_eq!(affinity_timeout("3h"), Ok(10_800));
        assert_eq!(affinity_timeout("1m 30s"), Ok(90));
        assert_eq!(affinity_timeout("1day"), Ok(MAX_AFFINITY_S));
        for text in ["0s", "1500ms", "86401s", "500ms", "3", "-1s", ""] {
            assert!(affinity_timeout(text).is_err(), "{text}");
        }
    }
}
