// SPDX-License-Identifier: Apache-2.0
//! `envoy.config.cluster.v3.OutlierDetection`: when an endpoint is ejected because of what its connections show.
//!
//! Failures to connect are Envoy's failures of local origin; failed requests are its 5xx, or its gateway failures where an answer of
//! the server's own is none. Invariant: a cluster without the message is one of nodemesh's defaults, in both directions.

use std::time::Duration;

use nodemesh_model::ServiceRules;
use serde_json::{Value, json};

use super::{clamped, text, time, wire_time};
use crate::{
    from_xds::notes::{Notes, Place, lasts, on, some},
    xds::{envoy::config::cluster::v3::OutlierDetection, google::protobuf::UInt32Value},
};

/// Failures in a row, seconds and percent that hold in Envoy where nothing is said.
const FAILURES: u32 = 5;
const BASE: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(300);
const PERCENT: u32 = 10;

/// What the message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outliers {
    connect_failures: u32,
    request_failures: u32,
    server_errors: bool,
    base: Duration,
    longest: Duration,
    percent: u32,
}

impl Outliers {
    fn of(rules: &ServiceRules) -> Self {
        let kernel = &rules.kernel;
        Self {
            connect_failures: kernel.connect_failures,
            request_failures: kernel.request_failures,
            server_errors: kernel.server_errors != 0,
            base: Duration::from_nanos(kernel.eject_ns),
            longest: Duration::from_nanos(kernel.eject_max_ns),
            percent: kernel.eject_percent,
        }
    }

    /// The field `outlierDetection`.
    pub(super) fn field(&self) -> Value {
        json!({
            "connectFailures": self.connect_failures,
            "requestFailures": self.request_failures,
            "serverErrors": self.server_errors,
            "baseEjectionTime": text(self.base),
            "maxEjectionTime": text(self.longest),
            "maxEjectionPercent": self.percent,
        })
    }
}

/// The message of `rules`; `None` if they eject by the defaults.
pub(crate) fn write(rules: &ServiceRules) -> Option<OutlierDetection> {
    let outliers = Outliers::of(rules);
    if outliers == Outliers::of(&ServiceRules::shared_default()) {
        return None;
    }
    let number = |value: u32| Some(UInt32Value { value });
    let failures = |value: u32| number(value).filter(|_| value != 0);
    let enforced = |value: u32| number(if value == 0 { 0 } else { 100 });
    let (of_server, of_gateway) = if outliers.server_errors {
        (outliers.request_failures, 0)
    } else {
        (0, outliers.request_failures)
    };
    Some(OutlierDetection {
        consecutive_5xx: failures(of_server),
        enforcing_consecutive_5xx: enforced(of_server),
        consecutive_gateway_failure: failures(of_gateway),
        enforcing_consecutive_gateway_failure: enforced(of_gateway),
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: failures(outliers.connect_failures),
        enforcing_consecutive_local_origin_failure: enforced(outliers.connect_failures),
        enforcing_success_rate: number(0),
        enforcing_local_origin_success_rate: number(0),
        base_ejection_time: Some(wire_time(outliers.base)),
        max_ejection_time: Some(wire_time(outliers.longest)),
        max_ejection_percent: number(outliers.percent),
        ..OutlierDetection::default()
    })
}

/// Reads the message at `place`.
pub(crate) fn read(wire: &OutlierDetection, place: Place<'_>, notes: &mut Notes) -> Outliers {
    note(wire, place, notes);
    let failures = |count: Option<UInt32Value>, enforced: Option<UInt32Value>, usual: u32| {
        let is_on = enforced.map_or(usual, |percent| percent.value) > 0;
        let count = count.map_or(FAILURES, |count| count.value);
        if is_on { count.min(1_000_000) } else { 0 }
    };
    let of_server = failures(wire.consecutive_5xx, wire.enforcing_consecutive_5xx, 100);
    let of_gateway = failures(
        wire.consecutive_gateway_failure,
        wire.enforcing_consecutive_gateway_failure,
        0,
    );
    let of_connect = failures(
        wire.consecutive_local_origin_failure,
        wire.enforcing_consecutive_local_origin_failure,
        100,
    );
    let times = Duration::from_millis(100)..=Duration::from_secs(86_400);
    let base = time(wire.base_ejection_time).unwrap_or(BASE);
    let base = clamped(base, &times, place, "base_ejection_time", notes);
    let longest = time(wire.max_ejection_time).unwrap_or(LONGEST).max(base);
    Outliers {
        connect_failures: if wire.split_external_local_origin_errors {
            of_connect
        } else {
            of_server
        },
        request_failures: if of_server > 0 { of_server } else { of_gateway },
        server_errors: of_server > 0,
        base,
        longest: clamped(longest, &times, place, "max_ejection_time", notes),
        // Envoy ejects one endpoint at least, whatever the share.
        percent: wire
            .max_ejection_percent
            .map_or(PERCENT, |percent| percent.value)
            .clamp(1, 100),
    }
}

/// Notes what is asked for beside; rates of success only if they are asked for in so many words, since they are Envoy's default.
fn note(wire: &OutlierDetection, place: Place<'_>, notes: &mut Notes) {
    notes.ignored(
        place,
        [
            ("enforcing_success_rate", some(wire.enforcing_success_rate)),
            (
                "enforcing_local_origin_success_rate",
                some(wire.enforcing_local_origin_success_rate),
            ),
            (
                "enforcing_failure_percentage",
                some(wire.enforcing_failure_percentage),
            ),
            (
                "enforcing_failure_percentage_local_origin",
                some(wire.enforcing_failure_percentage_local_origin),
            ),
            ("max_ejection_time_jitter", lasts(wire.max_ejection_time_jitter)),
            ("always_eject_one_host", on(wire.always_eject_one_host)),
            ("monitors", !wire.monitors.is_empty()),
        ],
    );
}
