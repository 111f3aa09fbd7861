// SPDX-License-Identifier: Apache-2.0
//! Clusters: how a replica is chosen.
//!
//! Said twice: by `lb_policy`, which every reader knows, and by `load_balancing_policy`, of which a reader takes the first entry
//! that it supports; without it gRPC refuses a cluster of any policy but round robin.

use nodemesh_abi::{Algorithm, ClientKeySource};
use nodemesh_model::{Keyword, LoadBalancer, Service, ServicePort, ServiceRules, TrafficPolicy};

use super::ads;
use crate::{
    metadata::{self, Field},
    names::cluster_name,
    pack::any,
    rules::{breakers, health_check, outlier, slow_start},
    xds::{
        envoy::{
            config::{
                cluster::v3::{
                    Cluster, LoadBalancingPolicy,
                    cluster::{
                        ClusterDiscoveryType, CommonLbConfig, DiscoveryType, EdsClusterConfig, LbConfig,
                        LbPolicy, MaglevLbConfig,
                    },
                    load_balancing_policy::Policy,
                },
                core::v3::{Metadata, TypedExtensionConfig},
            },
            extensions::load_balancing_policies::{
                least_request::v3::LeastRequest, maglev::v3::Maglev, random::v3::Random,
                round_robin::v3::RoundRobin,
            },
            r#type::v3::Percent,
        },
        google::protobuf::{Any, UInt64Value},
    },
};

pub(super) fn cluster(
    service: &Service,
    port: &ServicePort,
    policy: Option<&TrafficPolicy>,
    document: Option<&str>,
) -> Cluster {
    let balancer = policy.map_or_else(LoadBalancer::default, |policy| policy.load_balancer);
    let default = ServiceRules::shared_default();
    let rules = policy.map_or(&default, |policy| &policy.rules);
    let size = balancer.table_size.map(|size| UInt64Value { value: size.into() });
    let lb_config = size.map(|table_size| {
        LbConfig::MaglevLbConfig(MaglevLbConfig {
            table_size: Some(table_size),
        })
    });
    Cluster {
        name: cluster_name(&service.metadata.name, port),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..EdsClusterConfig::default()
        }),
        lb_policy: lb_policy(balancer.algorithm).into(),
        lb_config,
        load_balancing_policy: Some(policies(balancer, rules)),
        circuit_breakers: breakers::write(&rules.kernel),
        outlier_detection: outlier::write(rules),
        health_checks: rules
            .health_check
            .as_ref()
            .map(health_check::write)
            .into_iter()
            .collect(),
        common_lb_config: Some(CommonLbConfig {
            // A replica that is out of rotation gets no connections, however few others there are.
            healthy_panic_threshold: Some(Percent::default()),
            ..CommonLbConfig::default()
        }),
        metadata: settings(port, policy, document),
        ..Cluster::default()
    }
}

const fn lb_policy(algorithm: Algorithm) -> LbPolicy {
    match algorithm {
        Algorithm::Random => LbPolicy::Random,
        Algorithm::RoundRobin => LbPolicy::RoundRobin,
        Algorithm::LeastRequest => LbPolicy::LeastRequest,
        Algorithm::Maglev => LbPolicy::Maglev,
    }
}

/// The policy itself, and round robin for readers that do not have it.
fn policies(balancer: LoadBalancer, rules: &ServiceRules) -> LoadBalancingPolicy {
    let slow_start = slow_start::write(balancer.algorithm, rules);
    let round_robin = RoundRobin {
        slow_start_config: slow_start.clone(),
        ..RoundRobin::default()
    };
    let round_robin = ("round_robin", any(&round_robin));
    let first = match balancer.algorithm {
        Algorithm::RoundRobin => None,
        Algorithm::Random => Some(("random", any(&Random::default()))),
        Algorithm::LeastRequest => {
            let least_request = LeastRequest {
                slow_start_config: slow_start,
                ..LeastRequest::default()
            };
            Some(("least_request", any(&least_request)))
        }
        Algorithm::Maglev => {
            let size = balancer.table_size.map(|size| UInt64Value { value: size.into() });
            let maglev = Maglev {
                table_size: size,
                ..Maglev::default()
            };
            Some(("maglev", any(&maglev)))
        }
    };
    LoadBalancingPolicy {
        policies: first.into_iter().chain([round_robin]).map(policy).collect(),
    }
}

fn policy((name, config): (&str, Any)) -> Policy {
    let config = TypedExtensionConfig {
        name: format!("envoy.load_balancing_policies.{name}"),
        typed_config: Some(config),
    };
    Policy {
        typed_extension_config: Some(config),
    }
}

fn settings(port: &ServicePort, policy: Option<&TrafficPolicy>, document: Option<&str>) -> Option<Metadata> {
    let key = policy.map_or(ClientKeySource::Workload, |policy| policy.client_key);
    let timeout = policy
        .map(|policy| policy.affinity_timeout_s)
        .filter(|seconds| *seconds != 0);
    metadata::write([
        (metadata::CLIENT_KEY, Some(Field::Text(key.word()))),
        (metadata::AFFINITY_TIMEOUT, timeout.map(Field::Number)),
        (metadata::POLICY, document.map(Field::Text)),
        (
            metadata::TARGET_PORT,
            Some(Field::Number(port.target_port.into())),
        ),
    ])
}
