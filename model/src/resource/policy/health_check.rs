// SPDX-License-Identifier: Apache-2.0
//! How the agent asks a backend whether it is well: `healthChecks` of a traffic policy.
//!
//! Invariant: a check ends before the next one is due.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use super::range::{duration, number};
use crate::{
    invalid::{AdmissionProblem, Findings, Problem},
    keyword::{self, Keyword},
    resource::address,
    wire,
};

pub(super) const INTERVAL: Duration = Duration::from_secs(5);
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);
pub(super) const HEALTHY: u32 = 1;
pub(super) const UNHEALTHY: u32 = 3;
pub(super) const PATH: &str = "/health";
/// Longest path, bytes.
const MAX_PATH: usize = 1024;

const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(3_600);
const THRESHOLDS: RangeInclusive<u32> = 1..=1_000;

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthCheckKind {
    /// A connection: it must be established.
    Tcp,
    /// `GET`: the status must be 200 to 299.
    Http,
    /// `grpc.health.v1.Health/Check`: the status must be `SERVING`.
    Grpc,
}

impl Keyword for HealthCheckKind {
    const WORDS: &'static [(Self, &'static str)] =
        &[(Self::Tcp, "tcp"), (Self::Http, "http"), (Self::Grpc, "grpc")];
}

/// Which agents check a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HealthCheckFrom {
    /// The one of its node.
    #[default]
    BackendNode,
    /// All of them.
    EveryNode,
}

impl Keyword for HealthCheckFrom {
    const WORDS: &'static [(Self, &'static str)] = &[
        (Self::BackendNode, "backend-node"),
        (Self::EveryNode, "every-node"),
    ];
}

/// An active health check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HealthCheck {
    /// What is sent.
    pub kind: HealthCheckKind,
    /// Where to; `None` for the backend's own port.
    pub port: Option<u16>,
    /// Path of the request; empty unless the kind is [`HealthCheckKind::Http`].
    pub path: Arc<str>,
    /// From the beginning of one check to that of the next.
    pub interval: Duration,
    /// How long an answer may take, at most [`Self::interval`].
    pub timeout: Duration,
    /// Answers in a row that readmit a backend.
    pub healthy_threshold: u32,
    /// Failures in a row that eject it.
    pub unhealthy_threshold: u32,
    /// Who checks.
    pub from: HealthCheckFrom,
}

impl HealthCheck {
    /// Reads `spec.healthChecks`.
    pub(super) fn read(wire: wire::HealthCheck, findings: &mut Findings) -> Option<Self> {
        let at = |name: &'static str| format!("spec.healthChecks.{name}");
        let kind = findings.check(at("kind"), keyword::parse(&wire.kind));
        let port = wire.port.map(address::port).transpose();
        let port = findings.check(at("port"), port);
        let path = findings.check(at("path"), path(kind, wire.path));
        let interval = duration(wire.interval.as_deref(), INTERVAL, INTERVALS);
        let interval = findings.check(at("interval"), interval);
        let is_given = wire.timeout.is_some();
        let timeout = duration(wire.timeout.as_deref(), TIMEOUT, TIMEOUTS);
        let timeout = findings.check(at("timeout"), timeout);
        let mut threshold = |name, found, default| {
            let number = number(found, THRESHOLDS, "");
            Some(findings.check(at(name), number)?.unwrap_or(default))
        };
        let healthy_threshold = threshold("healthyThreshold", wire.healthy_threshold, HEALTHY);
        let unhealthy_threshold = threshold("unhealthyThreshold", wire.unhealthy_threshold, UNHEALTHY);
        let from = wire
            .from
            .as_deref()
            .map_or(Ok(HealthCheckFrom::default()), keyword::parse);
        let from = findings.check(at("from"), from);
        let (interval, mut timeout) = (interval?, timeout?);
        if !is_given {
            timeout = timeout.min(interval);
        }
        if timeout > interval {
            let problem = AdmissionProblem::LongerThan {
                found: timeout,
                other: "interval",
                most: interval,
            };
            findings.add(at("timeout"), problem.into());
        }
        Some(Self {
            kind: kind?,
            port: port?,
            path: path?,
            interval,
            timeout,
            healthy_threshold: healthy_threshold?,
            unhealthy_threshold: unhealthy_threshold?,
            from: from?,
        })
    }
}

fn path(kind: Option<HealthCheckKind>, found: Option<String>) -> Result<Arc<str>, Problem> {
    match (kind, found) {
        (Some(HealthCheckKind::Http), None) => Ok(PATH.into()),
        (Some(HealthCheckKind::Http) | None, Some(path)) => {
            let is_path = path.starts_with('/')
                && path.len() <= MAX_PATH
                && path.bytes().all(|byte| byte.is_ascii_graphic());
            if is_path {
                Ok(path.into())
            } else {
                Err(AdmissionProblem::Path { found: path }.into())
            }
        }
        (Some(kind), Some(_)) => Err(AdmissionProblem::PathUnused { kind: kind.word() }.into()),
        (_, None) => Ok("".into()),
    }
}
