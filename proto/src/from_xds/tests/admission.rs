// SPDX-License-Identifier: Apache-2.0
//! Limits and health in Envoy's own types, access policies in documents, and filters that must not be dropped.

use std::sync::Arc;

use nodemesh_model::{Frontend, HealthCheckFrom, HealthCheckKind, ServiceRules};
use serde_json::json;

use super::{
    envoy::{chain, endpoint, filter, listener, static_cluster, tcp_proxy},
    wire::{Sent, all_told, assert_no_complaint, desired_of, merged, named, received, sent, unsupported},
};
use crate::{
    from_xds::Received,
    pack::any,
    type_url,
    xds::{
        envoy::{
            config::{
                cluster::v3::{CircuitBreakers, Cluster, OutlierDetection, circuit_breakers::Thresholds},
                core::v3::{
                    HealthCheck,
                    health_check::{HealthChecker, HttpHealthCheck},
                },
                listener::v3::{Filter, Listener},
                rbac::v3::Rbac as Rules,
            },
            extensions::filters::network::{
                connection_limit::v3::ConnectionLimit, local_ratelimit::v3::LocalRateLimit, rbac::v3::Rbac,
                tcp_proxy::v3::tcp_proxy::ClusterSpecifier,
            },
            r#type::v3::TokenBucket,
        },
        google::protobuf::{Any, Duration, UInt32Value, UInt64Value},
    },
};

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

fn filtered(first: Vec<Filter>) -> Sent {
    let proxy = any(&tcp_proxy(ClusterSpecifier::Cluster("c".to_owned())));
    let filters = first
        .into_iter()
        .chain([filter("envoy.filters.network.tcp_proxy", proxy)]);
    named(Listener {
        filter_chains: vec![chain(filters.collect())],
        ..listener("l", "10.96.0.10", 80, "c")
    })
}

fn rules_of(messages: &[Sent]) -> Arc<ServiceRules> {
    let assembled = received(messages).assemble();
    assert_no_complaint(&assembled);
    let desired = desired_of(&assembled);
    let frontend: &Arc<Frontend> = desired.frontends.values().next().unwrap();
    Arc::clone(&frontend.rules)
}

/// A cluster with the limits, the ejection and the health check that Envoy has.
fn guarded_cluster() -> Sent {
    let thresholds = |connections, requests| Thresholds {
        max_connections: Some(number(connections)),
        max_requests: requests,
        ..Thresholds::default()
    };
    let check = HealthCheck {
        timeout: Some(seconds(1)),
        interval: Some(seconds(10)),
        unhealthy_threshold: Some(number(2)),
        healthy_threshold: Some(number(1)),
        health_checker: Some(HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: "/ready".to_owned(),
            ..HttpHealthCheck::default()
        })),
        ..HealthCheck::default()
    };
    named(Cluster {
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds(100, Some(number(u32::MAX)))],
            per_host_thresholds: vec![thresholds(8, None)],
        }),
        outlier_detection: Some(OutlierDetection {
            consecutive_5xx: Some(number(7)),
            base_ejection_time: Some(seconds(3)),
            ..OutlierDetection::default()
        }),
        health_checks: vec![check],
        ..static_cluster("c", vec![endpoint("10.1.0.1", 80)])
    })
}

#[test]
fn what_another_control_plane_says_of_limits_and_health_holds() {
    let bucket = TokenBucket {
        max_tokens: 20,
        tokens_per_fill: Some(number(50)),
        fill_interval: Some(Duration {
            seconds: 0,
            nanos: 500_000_000,
        }),
    };
    let rate = any(&LocalRateLimit {
        token_bucket: Some(bucket),
        ..LocalRateLimit::default()
    });
    let most = any(&ConnectionLimit {
        max_connections: Some(UInt64Value { value: 64 }),
        ..ConnectionLimit::default()
    });
    let rules = rules_of(&[
        filtered(vec![filter("rate", rate), filter("most", most)]),
        guarded_cluster(),
    ]);
    let kernel = &rules.kernel;
    assert_eq!(kernel.rate, nodemesh_abi::Rate::new(100, 20));
    assert_eq!((kernel.caps.connections, kernel.caps.requests), (64, 0));
    assert_eq!(kernel.backend_caps.connections, 8);
    assert_eq!(
        (
            kernel.connect_failures,
            kernel.request_failures,
            kernel.server_errors
        ),
        (7, 7, 1)
    );
    assert_eq!((kernel.eject_ns, kernel.eject_percent), (3_000_000_000, 10));
    let check = rules.health_check.as_ref().unwrap();
    assert_eq!((check.kind, &*check.path), (HealthCheckKind::Http, "/ready"));
    assert_eq!(
        (check.unhealthy_threshold, check.from),
        (2, HealthCheckFrom::EveryNode)
    );
}

#[test]
fn a_listener_whose_filter_refuses_clients_is_not_taken_without_it() {
    let deny_all = any(&Rbac {
        rules: Some(Rules::default()),
        ..Rbac::default()
    });
    let cluster = named(static_cluster("c", vec![endpoint("10.1.0.1", 80)]));
    let never = any(&LocalRateLimit {
        token_bucket: Some(TokenBucket {
            max_tokens: 0,
            fill_interval: Some(seconds(1)),
            ..TokenBucket::default()
        }),
        ..LocalRateLimit::default()
    });
    let discovered = Filter {
        name: "envoy.filters.network.rbac".to_owned(),
        ..Filter::default()
    };
    for first in [filter("rbac", deny_all), filter("never", never), discovered] {
        let mut received = received(&[filtered(vec![]), cluster.clone()]);
        assert_eq!(all_told(&received.assemble()).len(), 1);
        let (name, any) = filtered(vec![first]);
        received.put(&any.type_url, &name, &any.value).unwrap();
        let assembled = received.assemble();
        assert_eq!(all_told(&assembled), [""; 0], "the former, open one is gone too");
        let told = unsupported(&assembled);
        assert!(told[0].ends_with("the listener is not taken"), "{told:?}");
    }
}

fn llama(policy: &serde_json::Value) -> Vec<Sent> {
    let document = |kind: &str, spec: &serde_json::Value| {
        json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": kind, "metadata": {"name": "llama"}, "spec": spec,
        })
    };
    let service = json!({
        "addresses": ["10.96.0.1"], "ports": [{"port": 80}], "backends": [{"address": "10.1.0.1"}],
    });
    let mut spec = policy.clone();
    spec["targetRef"] = json!({"kind": "Service", "name": "llama"});
    sent(&merged(vec![
        document("Service", &service),
        document("TrafficPolicy", &spec),
    ]))
}

fn documents(sent: &[Sent]) -> usize {
    let of_type = sent
        .iter()
        .filter(|(_, any)| any.type_url == type_url::POLICY_DOCUMENT);
    of_type.count()
}

#[test]
fn a_document_is_sent_for_what_envoy_lacks_and_waited_for() {
    let plain = llama(&json!({"limits": {"connections": 64, "connectionsPerSecond": 10}}));
    assert_eq!(documents(&plain), 0, "Envoy has all of this");
    let own = llama(&json!({"limits": {"connections": 64, "perClient": {"requests": 4}}}));
    assert_eq!(documents(&own), 1);
    let (document, others): (Vec<Sent>, Vec<Sent>) = own
        .into_iter()
        .partition(|(_, any)| any.type_url == type_url::POLICY_DOCUMENT);
    let mut received = received(&others);
    let partly = received.assemble();
    assert_eq!(
        all_told(&partly),
        [""; 0],
        "half of the limits are not the limits"
    );
    assert_eq!(partly.incomplete[0].resource, "TrafficPolicy/default/llama");
    super::wire::put_all(&mut received, &document);
    let assembled = received.assemble();
    assert_no_complaint(&assembled);
    let desired = desired_of(&assembled);
    let rules = &desired.frontends.values().next().unwrap().rules;
    assert_eq!(
        (rules.kernel.caps.connections, rules.kernel.client_caps.requests),
        (64, 4)
    );
    assert!(received.remove(type_url::POLICY_DOCUMENT, "TrafficPolicy/default/llama"));
    assert_eq!(all_told(&received.assemble()).len(), 1, "it stays as it was");
}

#[test]
fn a_document_that_is_no_policy_of_its_name_is_refused() {
    let mut received = Received::default();
    let mut refused = |name: &str, document: &str| {
        let Any { value, .. } = any(&crate::v1::PolicyDocument {
            document: document.to_owned(),
        });
        let rejected = received.put(type_url::POLICY_DOCUMENT, name, &value).unwrap_err();
        format!("{}: {}", rejected.field, rejected.reason)
    };
    let policy = |action: &str| {
        json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": "AccessPolicy", "metadata": {"name": "a"},
            "spec": {"targetRef": {"kind": "Service"}, "rules": [{"action": action}]},
        })
        .to_string()
    };
    assert!(refused("AccessPolicy/default/a", "{").contains("is no JSON document"));
    assert!(refused("AccessPolicy/default/a", "[]").contains("document"));
    assert!(refused("AccessPolicy/default/b", &policy("deny")).contains("give both the same name"));
    assert!(
        refused("AccessPolicy/default/a", &policy("forbid")).starts_with("document.spec.rules[0].action")
    );
    assert!(received.names(type_url::POLICY_DOCUMENT).is_empty());
}
