// SPDX-License-Identifier: Apache-2.0
//! Slow start, of which Envoy has two messages of the same fields: of `lb_config` and of a balancing policy.
//!
//! Invariant: it is written where Envoy has it, which is with round robin and least request.

use std::time::Duration;

use nodemesh_abi::Algorithm;
use nodemesh_model::ServiceRules;

use super::{clamped, time, wire_time};
use crate::{
    from_xds::notes::{Notes, Place},
    xds::{
        envoy::{
            config::{cluster::v3::cluster::SlowStartConfig as OfConfig, core::v3::RuntimeDouble},
            extensions::load_balancing_policies::common::v3::SlowStartConfig,
            r#type::v3::Percent,
        },
        google::protobuf::Duration as WireDuration,
    },
};

/// Percent of its share that an endpoint gets at least, here and by default in Envoy.
const LEAST: f64 = 10.0;

/// The fields of both messages.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a> {
    window: Option<WireDuration>,
    aggression: Option<&'a RuntimeDouble>,
    least: Option<Percent>,
}

impl<'a> From<&'a SlowStartConfig> for Parts<'a> {
    fn from(wire: &'a SlowStartConfig) -> Self {
        Self {
            window: wire.slow_start_window,
            aggression: wire.aggression.as_ref(),
            least: wire.min_weight_percent,
        }
    }
}

impl<'a> From<&'a OfConfig> for Parts<'a> {
    fn from(wire: &'a OfConfig) -> Self {
        Self {
            window: wire.slow_start_window,
            aggression: wire.aggression.as_ref(),
            least: wire.min_weight_percent,
        }
    }
}

/// The window of `rules`, where `algorithm` has one.
pub(crate) fn write(algorithm: Algorithm, rules: &ServiceRules) -> Option<SlowStartConfig> {
    let has_one = matches!(algorithm, Algorithm::RoundRobin | Algorithm::LeastRequest);
    let window = Duration::from_nanos(rules.kernel.slow_start_ns);
    (has_one && !window.is_zero()).then(|| SlowStartConfig {
        slow_start_window: Some(wire_time(window)),
        ..SlowStartConfig::default()
    })
}

/// The window of the message at `place`; `None` without one.
pub(crate) fn read(wire: Parts<'_>, place: Place<'_>, notes: &mut Notes) -> Option<Duration> {
    let has_other = |of: Option<f64>, usual: f64| of.is_some_and(|of| (of - usual).abs() > f64::EPSILON);
    notes.ignored(
        place,
        [
            (
                "aggression",
                has_other(wire.aggression.map(|wire| wire.default_value), 1.0),
            ),
            (
                "min_weight_percent",
                has_other(wire.least.map(|least| least.value), LEAST),
            ),
        ],
    );
    let window = time(wire.window).filter(|window| !window.is_zero())?;
    let range = Duration::from_millis(100)..=Duration::from_secs(86_400);
    Some(clamped(window, &range, place, "slow_start_window", notes))
}
