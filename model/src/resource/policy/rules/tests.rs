// SPDX-License-Identifier: Apache-2.0
//! What a policy's limits, health and locality become.

use std::time::Duration;

use nodemesh_abi::{Caps, Port, Rate};
use serde_json::{Value, json};

use super::*;
use crate::{
    manifest::Manifest,
    resource::{
        Resource,
        policy::{HealthCheckFrom, HealthCheckKind},
    },
};

/// The rules of a spec; checked to have fields that read back as the same rules.
fn rules(spec: Value) -> Arc<ServiceRules> {
    let found = read(spec);
    assert_eq!(read(found.to_fields().into()), found, "{:?}", found.to_fields());
    found
}

fn read(mut spec: Value) -> Arc<ServiceRules> {
    spec["targetRef"] = json!({"kind": "Service"});
    let manifest = Manifest::from_values([json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "p"}, "spec": spec,
    })]);
    assert!(manifest.errors().is_empty(), "{}", manifest.errors());
    match manifest.resources().next() {
        Some(Resource::TrafficPolicy(policy)) => Arc::clone(&policy.rules),
        other => panic!("{other:?} is no policy"),
    }
}

#[test]
fn a_policy_that_says_nothing_is_as_no_policy() {
    let defaults = ServiceRules::default();
    assert!(defaults.to_fields().is_empty());
    assert_eq!(*rules(json!({})), defaults);
    assert_eq!(*rules(json!({"outlierDetection": {}})), defaults);
    let expected = Rules {
        connect_failures: 1,
        request_failures: 5,
        eject_ns: 1_000_000_000,
        eject_max_ns: 60_000_000_000,
        eject_percent: 50,
        excess_errno: 11,
        ..Rules::default()
    };
    assert_eq!(defaults.kernel, expected);
    let silence = Silence {
        streams: 2,
        minimum: Duration::from_secs(2),
    };
    assert_eq!(defaults.silence, Some(silence));
    assert_eq!((defaults.health_check, defaults.until_first_token), (None, false));
    assert_eq!((defaults.tiers.len(), defaults.on_removal), (0, OnRemoval::Keep));
}

#[test]
fn limits_are_rates_and_caps() {
    let found = rules(json!({"limits": {
        "connectionsPerSecond": 100, "connections": 1000, "requests": 200, "excess": "refuse",
        "perClient": {"connectionsPerSecond": 10, "burst": 3, "requests": 4},
        "perBackend": {"connections": 64, "connectionsPerSecond": 20},
    }}));
    let expected = Rules {
        rate: Rate::new(100, 100),
        caps: Caps {
            connections: 1000,
            requests: 200,
        },
        client_rate: Rate::new(10, 3),
        client_caps: Caps {
            connections: 0,
            requests: 4,
        },
        backend_caps: Caps {
            connections: 64,
            requests: 0,
        },
        backend_rate: Rate::new(20, 20),
        excess_errno: 111,
        ..ServiceRules::default().kernel
    };
    assert_eq!(found.kernel, expected);
}

#[test]
fn every_rate_reads_back_as_itself() {
    for rate in (1..1_000_000_u32).step_by(997).chain([999_999, 1_000_000]) {
        rules(
            json!({"limits": {"connectionsPerSecond": rate, "perClient": {"connectionsPerSecond": rate, "burst": 1}}}),
        );
    }
}

#[test]
fn each_part_of_outlier_detection_can_be_turned_off() {
    let found = rules(json!({"outlierDetection": {
        "connectFailures": 0, "requestFailures": 0, "serverErrors": true, "silence": {"streams": 0},
        "baseEjectionTime": "500ms", "maxEjectionTime": "2s", "maxEjectionPercent": 100,
    }}));
    let kernel = found.kernel;
    assert_eq!(
        (
            kernel.connect_failures,
            kernel.request_failures,
            kernel.server_errors
        ),
        (0, 0, 1)
    );
    assert_eq!(
        (kernel.eject_ns, kernel.eject_max_ns, kernel.eject_percent),
        (500_000_000, 2_000_000_000, 100)
    );
    assert_eq!(found.silence, None);
    let long = rules(json!({"outlierDetection": {"baseEjectionTime": "5m"}}));
    assert_eq!(
        long.kernel.eject_max_ns, 300_000_000_000,
        "the default is never less than the first ejection"
    );
}

#[test]
fn health_checks_have_defaults_that_fit_each_other() {
    let check = |spec: Value| rules(json!({"healthChecks": spec})).health_check.clone().unwrap();
    let http = check(json!({"kind": "http"}));
    let times = |check: &HealthCheck| (check.interval, check.timeout);
    assert_eq!(times(&http), (Duration::from_secs(5), Duration::from_secs(1)));
    assert_eq!(
        (http.kind, http.port, &*http.path),
        (HealthCheckKind::Http, None, "/health")
    );
    assert_eq!((http.healthy_threshold, http.unhealthy_threshold), (1, 3));
    assert_eq!(http.from, HealthCheckFrom::BackendNode);
    let quick = check(json!({"kind": "tcp", "port": 9000, "interval": "200ms", "from": "every-node"}));
    assert_eq!(
        times(&quick),
        (Duration::from_millis(200), Duration::from_millis(200))
    );
    assert_eq!(
        (quick.port, &*quick.path, quick.from),
        (Some(9000), "", HealthCheckFrom::EveryNode)
    );
}

#[test]
fn slow_start_locality_and_removal_are_told() {
    let found = rules(json!({
        "slowStart": {"window": "30s"}, "locality": {"tiers": ["node", "zone"], "strict": true}, "onRemoval": "close",
        "shortcut": {"enabled": true, "exceptPorts": [8001]},
    }));
    let short = |port| found.kernel.is_short(Port::new(port), false);
    assert!(short(8000) && !short(8001) && !rules(json!({})).kernel.is_short(Port::new(8000), false));
    assert_eq!(
        (found.kernel.slow_start_ns, found.until_first_token),
        (30_000_000_000, false)
    );
    assert_eq!(
        (&*found.tiers, found.kernel.spill_load),
        (&[LocalityLevel::Node, LocalityLevel::Zone][..], 0)
    );
    assert_eq!(found.on_removal, OnRemoval::Close);
    assert_eq!([1, 2].map(|tier| found.asks(tier)), [true, false]);
    assert!(rules(json!({"locality": {"tiers": ["node"]}})).asks(1));
    assert!(rules(json!({"slowStart": {"untilFirstToken": true}})).until_first_token);
}
