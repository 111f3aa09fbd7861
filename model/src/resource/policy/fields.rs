// SPDX-License-Identifier: Apache-2.0
//! Rules back to the fields that they are read from; the counterpart of [`ServiceRules::read`].
//!
//! Invariant: defaults are left out, so equal rules have equal fields, and the fields read back as the same rules.

use std::time::Duration;

use nodemesh_abi::{Caps, Rate, Rules};
use serde_json::{Map, Value, json};

use super::{
    health_check::{self, HealthCheck, HealthCheckFrom, HealthCheckKind},
    limits::Excess,
    outlier,
    rules::{OnRemoval, ServiceRules},
};
use crate::keyword::Keyword as _;

impl ServiceRules {
    /// The fields of a `TrafficPolicy`'s spec that these rules come from.
    pub fn to_fields(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        let mut put = |name: &str, value: Map<String, Value>| {
            if !value.is_empty() {
                fields.insert(name.to_owned(), value.into());
            }
        };
        put("limits", limits(&self.kernel));
        put("outlierDetection", outlier_detection(self));
        put(
            "healthChecks",
            self.health_check.as_ref().map(health_checks).unwrap_or_default(),
        );
        let mut slow_start = Map::new();
        if self.kernel.slow_start_ns != 0 {
            slow_start.insert(
                "window".to_owned(),
                time(Duration::from_nanos(self.kernel.slow_start_ns)),
            );
        }
        if self.until_first_token {
            slow_start.insert("untilFirstToken".to_owned(), true.into());
        }
        put("slowStart", slow_start);
        let mut locality = Map::new();
        if !self.tiers.is_empty() {
            let words: Vec<_> = self.tiers.iter().map(|level| level.word()).collect();
            locality.insert("tiers".to_owned(), json!(words));
            number(&mut locality, "spillRequests", self.kernel.spill_load, 0);
            if self.is_strict {
                locality.insert("strict".to_owned(), true.into());
            }
        }
        put("locality", locality);
        if self.kernel.shortcut != 0 {
            let except = self.kernel.shortcut_except.iter().map(|port| port.get());
            let except: Vec<u16> = except.filter(|port| *port != 0).collect();
            let mut shortcut = json!({"enabled": true});
            if !except.is_empty() {
                shortcut["exceptPorts"] = except.into();
            }
            fields.insert("shortcut".to_owned(), shortcut);
        }
        if self.on_removal != OnRemoval::default() {
            fields.insert("onRemoval".to_owned(), self.on_removal.word().into());
        }
        fields
    }
}

fn number(fields: &mut Map<String, Value>, name: &str, value: u32, default: u32) {
    if value != default {
        fields.insert(name.to_owned(), value.into());
    }
}

fn time(duration: Duration) -> Value {
    humantime::format_duration(duration).to_string().into()
}

fn limits(rules: &Rules) -> Map<String, Value> {
    let mut fields = rate_and_caps(rules.rate, rules.caps);
    let mut put = |name: &str, value: Map<String, Value>| {
        if !value.is_empty() {
            fields.insert(name.to_owned(), value.into());
        }
    };
    put("perClient", rate_and_caps(rules.client_rate, rules.client_caps));
    put(
        "perBackend",
        rate_and_caps(rules.backend_rate, rules.backend_caps),
    );
    if rules.excess_errno == Excess::Refuse.errno() {
        fields.insert("excess".to_owned(), Excess::Refuse.word().into());
    }
    fields
}

fn rate_and_caps(rate: Rate, caps: Caps) -> Map<String, Value> {
    let mut fields = Map::new();
    if let Some(per_second) = 1_000_000_000_u64.checked_div(rate.interval_ns) {
        fields.insert("connectionsPerSecond".to_owned(), per_second.into());
        let burst = rate.tolerance_ns / rate.interval_ns + 1;
        if burst != per_second {
            fields.insert("burst".to_owned(), burst.into());
        }
    }
    number(&mut fields, "connections", caps.connections, 0);
    number(&mut fields, "requests", caps.requests, 0);
    fields
}

fn outlier_detection(rules: &ServiceRules) -> Map<String, Value> {
    let kernel = &rules.kernel;
    let mut fields = Map::new();
    number(
        &mut fields,
        "connectFailures",
        kernel.connect_failures,
        outlier::CONNECT_FAILURES,
    );
    number(
        &mut fields,
        "requestFailures",
        kernel.request_failures,
        outlier::REQUEST_FAILURES,
    );
    if kernel.server_errors != 0 {
        fields.insert("serverErrors".to_owned(), true.into());
    }
    let (base, longest) = (
        Duration::from_nanos(kernel.eject_ns),
        Duration::from_nanos(kernel.eject_max_ns),
    );
    if base != outlier::BASE {
        fields.insert("baseEjectionTime".to_owned(), time(base));
    }
    if longest != outlier::LONGEST.max(base) {
        fields.insert("maxEjectionTime".to_owned(), time(longest));
    }
    number(
        &mut fields,
        "maxEjectionPercent",
        kernel.eject_percent,
        outlier::PERCENT,
    );
    let mut silence = Map::new();
    number(
        &mut silence,
        "streams",
        rules.silence.map_or(0, |silence| silence.streams),
        outlier::STREAMS,
    );
    if let Some(minimum) = rules
        .silence
        .map(|silence| silence.minimum)
        .filter(|time| *time != outlier::MINIMUM)
    {
        silence.insert("minimum".to_owned(), time(minimum));
    }
    if !silence.is_empty() {
        fields.insert("silence".to_owned(), silence.into());
    }
    fields
}

fn health_checks(check: &HealthCheck) -> Map<String, Value> {
    let mut fields = Map::new();
    fields.insert("kind".to_owned(), check.kind.word().into());
    if let Some(port) = check.port {
        fields.insert("port".to_owned(), port.into());
    }
    if check.kind == HealthCheckKind::Http && *check.path != *health_check::PATH {
        fields.insert("path".to_owned(), (*check.path).into());
    }
    if check.interval != health_check::INTERVAL {
        fields.insert("interval".to_owned(), time(check.interval));
    }
    if check.timeout != health_check::TIMEOUT.min(check.interval) {
        fields.insert("timeout".to_owned(), time(check.timeout));
    }
    number(
        &mut fields,
        "healthyThreshold",
        check.healthy_threshold,
        health_check::HEALTHY,
    );
    number(
        &mut fields,
        "unhealthyThreshold",
        check.unhealthy_threshold,
        health_check::UNHEALTHY,
    );
    if check.from != HealthCheckFrom::default() {
        fields.insert("from".to_owned(), check.from.word().into());
    }
    fields
}
