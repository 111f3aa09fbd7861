// SPDX-License-Identifier: Apache-2.0
//! `envoy.config.core.v3.HealthCheck`: how an endpoint is asked whether it is well.
//!
//! A proxy asks all endpoints itself, so what is read is asked by every node. Invariant: one check is taken; others are noted.

use std::time::Duration;

use nodemesh_model::{HealthCheck, HealthCheckFrom, HealthCheckKind, Keyword as _};
use serde_json::{Value, json};

use super::{clamped, text, time, wire_time};
use crate::{
    from_xds::notes::{IGNORED, Notes, Place, Read},
    xds::{
        envoy::{
            config::core::v3::{
                HealthCheck as Wire, RequestMethod,
                health_check::{GrpcHealthCheck, HealthChecker, HttpHealthCheck, TcpHealthCheck},
            },
            r#type::v3::Int64Range,
        },
        google::protobuf::{Duration as WireDuration, UInt32Value},
    },
};

/// The answers that are good ones, here; in Envoy 200 alone if nothing is said.
const GOOD: Int64Range = Int64Range { start: 200, end: 300 };

/// The message of `check`.
pub(crate) fn write(check: &HealthCheck) -> Wire {
    let number = |value: u32| Some(UInt32Value { value });
    let checker = match check.kind {
        HealthCheckKind::Tcp => HealthChecker::TcpHealthCheck(TcpHealthCheck::default()),
        HealthCheckKind::Grpc => HealthChecker::GrpcHealthCheck(GrpcHealthCheck::default()),
        HealthCheckKind::Http => HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: check.path.to_string(),
            expected_statuses: vec![GOOD],
            ..HttpHealthCheck::default()
        }),
    };
    Wire {
        timeout: Some(wire_time(check.timeout)),
        interval: Some(wire_time(check.interval)),
        unhealthy_threshold: number(check.unhealthy_threshold),
        healthy_threshold: number(check.healthy_threshold),
        alt_port: check.port.and_then(|port| number(port.into())),
        health_checker: Some(checker),
        ..Wire::default()
    }
}

/// The field `healthChecks` of the checks at `place`; `None` without one that nodemesh has.
pub(crate) fn read(wire: &[Wire], place: Place<'_>, notes: &mut Notes) -> Read<Option<Value>> {
    let mut taken = None;
    for (index, wire) in wire.iter().enumerate() {
        let place = place.index("health_checks", index);
        if taken.is_some() {
            notes.add(place, "", IGNORED);
            continue;
        }
        let Some((kind, path)) = checker(wire, place, notes) else {
            continue;
        };
        taken = Some(check(wire, kind, path, place, notes)?);
    }
    Ok(taken)
}

fn check(
    wire: &Wire,
    kind: HealthCheckKind,
    path: Option<&str>,
    place: Place<'_>,
    notes: &mut Notes,
) -> Read<Value> {
    notes.ignored(
        place,
        [
            ("tls_options", wire.tls_options.is_some()),
            (
                "transport_socket_match_criteria",
                wire.transport_socket_match_criteria.is_some(),
            ),
        ],
    );
    let given = |of: Option<WireDuration>, field: &str| match time(of) {
        Some(time) if !time.is_zero() => Ok(time),
        _ => place.field(field).refuse("is 0 or missing; say how long"),
    };
    let threshold = |of: Option<UInt32Value>, field: &str| match of {
        Some(count) if count.value > 0 => Ok(count.value.min(1_000)),
        _ => place
            .field(field)
            .refuse("is 0 or missing; say how many in a row"),
    };
    let longest = Duration::from_secs(3_600);
    let intervals = Duration::from_millis(100)..=longest;
    let interval = clamped(
        given(wire.interval, "interval")?,
        &intervals,
        place,
        "interval",
        notes,
    );
    let timeouts = Duration::from_millis(10)..=interval;
    let timeout = clamped(
        given(wire.timeout, "timeout")?,
        &timeouts,
        place,
        "timeout",
        notes,
    );
    let port = match wire.alt_port {
        None => None,
        Some(port) if (1..=u16::MAX.into()).contains(&port.value) => Some(port.value),
        Some(_) => return place.field("alt_port").refuse("is no port; use 1 to 65535"),
    };
    Ok(json!({
        "kind": kind.word(),
        "port": port,
        "path": path,
        "interval": text(interval),
        "timeout": text(timeout),
        "healthyThreshold": threshold(wire.healthy_threshold, "healthy_threshold")?,
        "unhealthyThreshold": threshold(wire.unhealthy_threshold, "unhealthy_threshold")?,
        "from": HealthCheckFrom::EveryNode.word(),
    }))
}

/// What is sent, and the path of a request; `None` if nodemesh does not have it, which is noted.
fn checker<'a>(
    wire: &'a Wire,
    place: Place<'_>,
    notes: &mut Notes,
) -> Option<(HealthCheckKind, Option<&'a str>)> {
    match &wire.health_checker {
        Some(HealthChecker::TcpHealthCheck(tcp)) => {
            notes.ignored(
                place.field("tcp_health_check"),
                [
                    ("send", tcp.send.is_some()),
                    ("receive", !tcp.receive.is_empty()),
                    ("proxy_protocol_config", tcp.proxy_protocol_config.is_some()),
                ],
            );
            Some((HealthCheckKind::Tcp, None))
        }
        Some(HealthChecker::GrpcHealthCheck(grpc)) => {
            notes.ignored(
                place.field("grpc_health_check"),
                [
                    ("service_name", !grpc.service_name.is_empty()),
                    ("authority", !grpc.authority.is_empty()),
                    ("initial_metadata", !grpc.initial_metadata.is_empty()),
                ],
            );
            Some((HealthCheckKind::Grpc, None))
        }
        Some(HealthChecker::HttpHealthCheck(http)) => {
            let place = place.field("http_health_check");
            let is_path = http.path.starts_with('/')
                && http.path.len() <= 1024
                && http.path.bytes().all(|byte| byte.is_ascii_graphic());
            if !is_path {
                notes.add(place, "path", "the check is ignored: this is no path");
                return None;
            }
            note_http(http, place, notes);
            Some((HealthCheckKind::Http, Some(&http.path)))
        }
        Some(HealthChecker::CustomHealthCheck(_)) | None => {
            notes.add(place, "", IGNORED);
            None
        }
    }
}

fn note_http(http: &HttpHealthCheck, place: Place<'_>, notes: &mut Notes) {
    let gets = [RequestMethod::MethodUnspecified, RequestMethod::Get];
    let gets = gets.iter().any(|method| i32::from(*method) == http.method);
    let is_usual = http.expected_statuses.is_empty() || http.expected_statuses == [GOOD];
    notes.ignored(
        place,
        [
            ("host", !http.host.is_empty()),
            ("send", http.send.is_some()),
            ("receive", !http.receive.is_empty()),
            ("request_headers_to_add", !http.request_headers_to_add.is_empty()),
            ("expected_statuses", !is_usual),
            ("retriable_statuses", !http.retriable_statuses.is_empty()),
            ("codec_client_type", http.codec_client_type != 0),
            ("service_name_matcher", http.service_name_matcher.is_some()),
            ("method", !gets),
        ],
    );
}
