// SPDX-License-Identifier: Apache-2.0
//! Random limits, health and locality of a traffic policy.
//!
//! Invariant: parts that Envoy's types express, and such that they do not, both come up alone.

use proptest::{option, prelude::*, sample::select};
use serde_json::{Map, Value, json};

/// Some of the fields.
pub(super) fn fields() -> impl Strategy<Value = Map<String, Value>> {
    let parts = (
        option::weighted(0.4, limits()),
        option::weighted(0.4, outliers()),
        option::weighted(0.4, health_check()),
        option::weighted(0.4, slow_start()),
        option::weighted(0.3, locality()),
        option::weighted(0.3, select(vec!["keep", "close"]).prop_map(Value::from)),
        option::weighted(0.3, shortcut()),
    );
    parts.prop_map(
        |(limits, outliers, health_check, slow_start, locality, on_removal, shortcut)| {
            let parts = [
                ("limits", limits),
                ("outlierDetection", outliers),
                ("healthChecks", health_check),
                ("slowStart", slow_start),
                ("locality", locality),
                ("onRemoval", on_removal),
                ("shortcut", shortcut),
            ];
            let given = parts
                .into_iter()
                .filter_map(|(name, part)| Some((name.to_owned(), part?)));
            given.collect()
        },
    )
}

fn number() -> impl Strategy<Value = u32> {
    prop_oneof![1..64_u32, 1..1_000_000_u32]
}

/// Limits of all clients or of one.
fn of_clients() -> impl Strategy<Value = Value> {
    let rate = option::of((number(), option::of(number())));
    (rate, option::of(number()), option::of(number())).prop_map(|(rate, connections, requests)| {
        let (rate, burst) = rate.unzip();
        let connections = connections.or((rate, requests).eq(&(None, None)).then_some(64));
        json!({
            "connectionsPerSecond": rate, "burst": burst.flatten(), "connections": connections,
            "requests": requests,
        })
    })
}

/// The limits of one client, which are no more than those of all.
fn within(mut one: Value, all: &Value) -> Value {
    for name in ["connectionsPerSecond", "connections", "requests"] {
        if let (Some(own), Some(most)) = (one[name].as_u64(), all[name].as_u64()) {
            one[name] = own.min(most).into();
        }
    }
    one
}

fn limits() -> impl Strategy<Value = Value> {
    (
        of_clients(),
        option::weighted(0.2, of_clients()),
        option::weighted(0.4, of_clients()),
        option::weighted(0.3, select(vec!["again", "refuse"])),
    )
        .prop_map(|(mut limits, client, backend, excess)| {
            limits["perClient"] = client.map(|client| within(client, &limits)).into();
            limits["perBackend"] = backend.into();
            limits["excess"] = excess.into();
            limits
        })
}

fn outliers() -> impl Strategy<Value = Value> {
    let failures = || option::of(prop_oneof![Just(0_u32), 1..10_u32]);
    let silence = (0..4_u32, option::of(100..10_000_u32)).prop_map(|(streams, minimum)| {
        let minimum = minimum.map(|minimum| format!("{minimum}ms"));
        json!({"streams": streams, "minimum": minimum})
    });
    (
        failures(),
        failures(),
        any::<bool>(),
        option::of(100..5_000_u32),
        option::of(5_000..100_000_u32),
        option::of(1..=100_u32),
        option::weighted(0.3, silence),
    )
        .prop_map(|(connect, request, errors, base, longest, percent, silence)| {
            let time = |time: Option<u32>| time.map(|time| format!("{time}ms"));
            json!({
                "connectFailures": connect, "requestFailures": request, "serverErrors": errors,
                "baseEjectionTime": time(base), "maxEjectionTime": time(longest),
                "maxEjectionPercent": percent, "silence": silence,
            })
        })
}

fn health_check() -> impl Strategy<Value = Value> {
    let path = option::of(select(vec!["/health", "/v1/ready?deep=1"]));
    (
        select(vec!["tcp", "http", "grpc"]),
        option::of(1..=u16::MAX),
        path,
        option::of((100..60_000_u32, 10..=100_u32)),
        option::of(1..1_000_u32),
        select(vec![None, Some("backend-node"), Some("every-node")]),
    )
        .prop_map(|(kind, port, path, times, threshold, from)| {
            let (interval, timeout) = times.unzip();
            let time = |time: Option<u32>| time.map(|time| format!("{time}ms"));
            json!({
                "kind": kind, "port": port, "path": path.filter(|_| kind == "http"),
                "interval": time(interval), "timeout": time(timeout),
                "unhealthyThreshold": threshold, "from": from,
            })
        })
}

fn shortcut() -> impl Strategy<Value = Value> {
    proptest::collection::vec(1..=u16::MAX, 0..=7).prop_map(|except| {
        if except.is_empty() {
            json!({"enabled": false})
        } else {
            json!({"enabled": true, "exceptPorts": except})
        }
    })
}

fn slow_start() -> impl Strategy<Value = Value> {
    (100..100_000_u32, any::<bool>()).prop_map(|(window, until_first_token)| {
        json!({"window": format!("{window}ms"), "untilFirstToken": until_first_token})
    })
}

fn locality() -> impl Strategy<Value = Value> {
    let tiers = select(vec![
        vec!["node"],
        vec!["zone", "region"],
        vec!["node", "zone", "region"],
    ]);
    (tiers, option::of(1..1_000_u32), option::of(proptest::bool::ANY))
        .prop_map(|(tiers, spill, strict)| json!({"tiers": tiers, "spillRequests": spill, "strict": strict}))
}
