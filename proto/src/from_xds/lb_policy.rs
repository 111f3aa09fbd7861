// SPDX-License-Identifier: Apache-2.0
//! The balancing policy of a cluster: `lb_policy` with `lb_config`, or `load_balancing_policy`, which goes before.
//!
//! Invariant: of `load_balancing_policy` the first entry that nodemesh has is taken, as by every reader of xDS.

use std::time::Duration;

use nodemesh_abi::Algorithm;
use nodemesh_model::{Problem, resource::policy::table_size};

use super::{
    address::unknown_value,
    decode::decode,
    notes::{Notes, Place, Read, message_name, on, some},
};
use crate::{
    rules::slow_start,
    xds::{
        envoy::{
            config::cluster::v3::{
                Cluster, LoadBalancingPolicy,
                cluster::{
                    LbConfig, LbPolicy, LeastRequestLbConfig, RoundRobinLbConfig,
                    common_lb_config::LocalityConfigSpecifier as CommonLocality,
                },
            },
            extensions::load_balancing_policies::{
                common::v3::{LocalityLbConfig, locality_lb_config::LocalityConfigSpecifier},
                least_request::v3::LeastRequest,
                maglev::v3::Maglev,
                random::v3::Random,
                ring_hash::v3::RingHash,
                round_robin::v3::RoundRobin,
                wrr_locality::v3::WrrLocality,
            },
        },
        google::protobuf::{UInt32Value, UInt64Value},
    },
};

const AS_MAGLEV: &str = "taken as maglev";
const AS_LEAST_REQUEST: &str = "taken as least-request";
/// Replicas that least-request compares, here and by default in Envoy.
const CHOICES: u32 = 2;
/// Most policies within policies.
const MAX_DEPTH: usize = 4;

/// How a replica is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Balancer {
    pub(super) algorithm: Algorithm,
    /// Size of the Maglev table; `None` lets the number of replicas decide.
    pub(super) table_size: Option<u32>,
    /// Whether a locality without a weight gets nothing, and the others by their weight.
    pub(super) weighs_localities: bool,
}

/// A balancer, and the window of its slow start.
type Found = (Balancer, Option<Duration>);

impl Balancer {
    const fn new(algorithm: Algorithm) -> Self {
        Self {
            algorithm,
            table_size: None,
            weighs_localities: false,
        }
    }
}

/// Reads the policy of `cluster`.
pub(super) fn balancer(cluster: &Cluster, place: Place<'_>, notes: &mut Notes) -> Read<Found> {
    let locality = cluster
        .common_lb_config
        .as_ref()
        .and_then(|common| common.locality_config_specifier.as_ref());
    let weighs = matches!(locality, Some(CommonLocality::LocalityWeightedLbConfig(_)));
    let (mut balancer, slow_start) = match &cluster.load_balancing_policy {
        Some(policy) => {
            let place = place.field("load_balancing_policy");
            if let Some(balancer) = first_known(policy, place, notes, MAX_DEPTH)? {
                balancer
            } else {
                notes.add(place, "", AS_LEAST_REQUEST);
                (Balancer::new(Algorithm::LeastRequest), None)
            }
        }
        None => by_enumeration(cluster, place, notes)?,
    };
    balancer.weighs_localities |= weighs;
    Ok((balancer, slow_start))
}

fn by_enumeration(cluster: &Cluster, place: Place<'_>, notes: &mut Notes) -> Read<Found> {
    let Ok(policy) = LbPolicy::try_from(cluster.lb_policy) else {
        return place.field("lb_policy").refuse(unknown_value(cluster.lb_policy));
    };
    let mut balancer = Balancer::new(match policy {
        LbPolicy::RoundRobin => Algorithm::RoundRobin,
        LbPolicy::LeastRequest => Algorithm::LeastRequest,
        LbPolicy::Random => Algorithm::Random,
        LbPolicy::Maglev => Algorithm::Maglev,
        LbPolicy::RingHash => {
            notes.add(place, "lb_policy", AS_MAGLEV);
            Algorithm::Maglev
        }
        LbPolicy::ClusterProvided | LbPolicy::LoadBalancingPolicyConfig => {
            notes.add(place, "lb_policy", AS_LEAST_REQUEST);
            Algorithm::LeastRequest
        }
    });
    let mut window = None;
    match &cluster.lb_config {
        Some(LbConfig::MaglevLbConfig(config)) if balancer.algorithm == Algorithm::Maglev => {
            let place = place.field("maglev_lb_config.table_size");
            balancer.table_size = maglev_size(config.table_size, place, notes)?;
        }
        Some(LbConfig::LeastRequestLbConfig(config)) => {
            let LeastRequestLbConfig {
                choice_count,
                active_request_bias,
                slow_start_config,
            } = config;
            let place = place.field("least_request_lb_config");
            notes.ignored(
                place,
                [
                    ("choice_count", has_other_choices(*choice_count)),
                    ("active_request_bias", active_request_bias.is_some()),
                ],
            );
            window = slow_start(slow_start_config.as_ref(), place, notes);
        }
        Some(LbConfig::RoundRobinLbConfig(RoundRobinLbConfig { slow_start_config })) => {
            let place = place.field("round_robin_lb_config");
            window = slow_start(slow_start_config.as_ref(), place, notes);
        }
        // Sizes of a ring that there is not, and settings of another policy than the one that is chosen.
        _ => {}
    }
    Ok((balancer, window))
}

fn first_known(
    policy: &LoadBalancingPolicy,
    place: Place<'_>,
    notes: &mut Notes,
    depth: usize,
) -> Read<Option<Found>> {
    for (index, policy) in policy.policies.iter().enumerate() {
        let config = policy.typed_extension_config.as_ref();
        let Some(config) = config.and_then(|config| config.typed_config.as_ref()) else {
            continue;
        };
        let place = place.index("policies", index);
        let place = place.field("typed_config");
        let Some(kind) = message_name(config).strip_prefix("envoy.extensions.load_balancing_policies.")
        else {
            continue;
        };
        let value = &config.value;
        let known = match kind {
            "round_robin.v3.RoundRobin" => round_robin(decode(value, place, notes)?, place, notes),
            "least_request.v3.LeastRequest" => least_request(decode(value, place, notes)?, place, notes),
            "random.v3.Random" => (random(decode(value, place, notes)?, place, notes), None),
            "maglev.v3.Maglev" => (maglev(&decode(value, place, notes)?, place, notes)?, None),
            "ring_hash.v3.RingHash" => (ring_hash(&decode(value, place, notes)?, place, notes), None),
            "wrr_locality.v3.WrrLocality" if depth > 0 => {
                let WrrLocality {
                    endpoint_picking_policy,
                } = decode(value, place, notes)?;
                let place = place.field("endpoint_picking_policy");
                let inner = endpoint_picking_policy
                    .map(|policy| first_known(&policy, place, notes, depth - 1))
                    .transpose()?
                    .flatten();
                let Some((inner, window)) = inner else { continue };
                let inner = Balancer {
                    weighs_localities: true,
                    ..inner
                };
                (inner, window)
            }
            _ => continue,
        };
        return Ok(Some(known));
    }
    Ok(None)
}

fn round_robin(wire: RoundRobin, place: Place<'_>, notes: &mut Notes) -> Found {
    let RoundRobin {
        slow_start_config,
        locality_lb_config,
    } = wire;
    let window = slow_start(slow_start_config.as_ref(), place, notes);
    let balancer = Balancer {
        weighs_localities: weighs(locality_lb_config, place, notes),
        ..Balancer::new(Algorithm::RoundRobin)
    };
    (balancer, window)
}

#[expect(deprecated, reason = "every field is considered, those on their way out too")]
fn least_request(wire: LeastRequest, place: Place<'_>, notes: &mut Notes) -> Found {
    let LeastRequest {
        choice_count,
        active_request_bias,
        slow_start_config,
        locality_lb_config,
        enable_full_scan,
        selection_method,
    } = wire;
    notes.ignored(
        place,
        [
            ("choice_count", has_other_choices(choice_count)),
            ("active_request_bias", active_request_bias.is_some()),
            ("enable_full_scan", on(enable_full_scan)),
            ("selection_method", selection_method != 0),
        ],
    );
    let window = slow_start(slow_start_config.as_ref(), place, notes);
    let balancer = Balancer {
        weighs_localities: weighs(locality_lb_config, place, notes),
        ..Balancer::new(Algorithm::LeastRequest)
    };
    (balancer, window)
}

fn slow_start<'a, T>(wire: Option<&'a T>, place: Place<'_>, notes: &mut Notes) -> Option<Duration>
where
    slow_start::Parts<'a>: From<&'a T>,
{
    slow_start::read(wire?.into(), place.field("slow_start_config"), notes)
}

fn random(wire: Random, place: Place<'_>, notes: &mut Notes) -> Balancer {
    Balancer {
        weighs_localities: weighs(wire.locality_lb_config, place, notes),
        ..Balancer::new(Algorithm::Random)
    }
}

fn maglev(wire: &Maglev, place: Place<'_>, notes: &mut Notes) -> Read<Balancer> {
    let hashing = wire.consistent_hashing_lb_config.as_ref();
    note_hashing(hashing, place, notes);
    Ok(Balancer {
        algorithm: Algorithm::Maglev,
        table_size: maglev_size(wire.table_size, place.field("table_size"), notes)?,
        weighs_localities: wire.locality_weighted_lb_config.is_some(),
    })
}

fn ring_hash(wire: &RingHash, place: Place<'_>, notes: &mut Notes) -> Balancer {
    notes.add(place, "", AS_MAGLEV);
    note_hashing(wire.consistent_hashing_lb_config.as_ref(), place, notes);
    Balancer {
        weighs_localities: wire.locality_weighted_lb_config.is_some(),
        ..Balancer::new(Algorithm::Maglev)
    }
}

fn note_hashing(
    wire: Option<
        &crate::xds::envoy::extensions::load_balancing_policies::common::v3::ConsistentHashingLbConfig,
    >,
    place: Place<'_>,
    notes: &mut Notes,
) {
    let Some(wire) = wire else { return };
    notes.ignored(
        place.field("consistent_hashing_lb_config"),
        [
            ("use_hostname_for_hashing", wire.use_hostname_for_hashing),
            ("hash_balance_factor", some(wire.hash_balance_factor)),
            ("hash_policy", !wire.hash_policy.is_empty()),
        ],
    );
}

fn weighs(wire: Option<LocalityLbConfig>, place: Place<'_>, notes: &mut Notes) -> bool {
    match wire.and_then(|wire| wire.locality_config_specifier) {
        None => false,
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_)) => true,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_)) => {
            notes.ignored(place, [("locality_lb_config.zone_aware_lb_config", true)]);
            false
        }
    }
}

fn has_other_choices(count: Option<UInt32Value>) -> bool {
    count.is_some_and(|count| count.value != CHOICES)
}

/// Reads the size of a table; one that is valid but out of the range of nodemesh is noted.
fn maglev_size(size: Option<UInt64Value>, place: Place<'_>, notes: &mut Notes) -> Read<Option<u32>> {
    let Some(size) = size else { return Ok(None) };
    match table_size(i64::try_from(size.value).unwrap_or(i64::MAX)) {
        Ok(size) => Ok(Some(size)),
        Err(Problem::TableSizeRange { .. }) => {
            notes.add(place, "", "the number of replicas decides");
            Ok(None)
        }
        Err(problem) => place.refuse(problem),
    }
}
