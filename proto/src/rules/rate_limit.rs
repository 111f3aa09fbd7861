// SPDX-License-Identifier: Apache-2.0
//! `envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit`: how many connections a listener takes in a second.
//!
//! Invariant: a bucket that is always empty is not read as one without a limit.

use std::time::Duration;

use nodemesh_abi::Rate;

use super::{Limits, clamped, time, wire_time};
use crate::{
    from_xds::{
        decode::decode,
        notes::{Notes, Place, Read},
    },
    xds::{
        envoy::{
            config::core::v3::RuntimeFeatureFlag,
            extensions::filters::network::local_ratelimit::v3::LocalRateLimit, r#type::v3::TokenBucket,
        },
        google::protobuf::UInt32Value,
    },
};

/// The filter for `rate`; `None` without one.
pub(crate) fn write(rate: Rate, stat_prefix: &str) -> Option<LocalRateLimit> {
    let per_second = 1_000_000_000_u64.checked_div(rate.interval_ns)?;
    let burst = rate.tolerance_ns / rate.interval_ns + 1;
    let bucket = TokenBucket {
        max_tokens: u32::try_from(burst).unwrap_or(u32::MAX),
        tokens_per_fill: Some(UInt32Value {
            value: u32::try_from(per_second).unwrap_or(u32::MAX),
        }),
        fill_interval: Some(wire_time(Duration::from_secs(1))),
    };
    Some(LocalRateLimit {
        stat_prefix: stat_prefix.to_owned(),
        token_bucket: Some(bucket),
        ..LocalRateLimit::default()
    })
}

/// The limit of the filter at `place`; `None` if it admits nothing at all.
pub(crate) fn read(value: &[u8], place: Place<'_>, notes: &mut Notes) -> Read<Option<Limits>> {
    limits(&decode(value, place, notes)?, place, notes)
}

pub(super) fn limits(wire: &LocalRateLimit, place: Place<'_>, notes: &mut Notes) -> Read<Option<Limits>> {
    let LocalRateLimit {
        token_bucket,
        runtime_enabled,
        share_key,
        stat_prefix: _,
    } = wire;
    if is_off(runtime_enabled.as_ref()) {
        return Ok(Some(Limits::default()));
    }
    notes.ignored(place, [("share_key", !share_key.is_empty())]);
    let place = place.field("token_bucket");
    let Some(bucket) = token_bucket else {
        return place.refuse("is missing; say how many connections are taken");
    };
    let tokens = bucket.tokens_per_fill.map_or(1, |tokens| tokens.value);
    let interval = time(bucket.fill_interval).unwrap_or_default();
    if interval.is_zero() {
        return place.field("fill_interval").refuse("is 0 or missing; use 1s");
    }
    if bucket.max_tokens == 0 || tokens == 0 {
        return Ok(None);
    }
    let per_second = u128::from(tokens) * 1_000_000_000 / interval.as_nanos();
    let per_second = u32::try_from(per_second).unwrap_or(u32::MAX);
    let range = 1..=1_000_000;
    let per_second = clamped(per_second, &range, place, "tokens_per_fill", notes);
    let burst = clamped(bucket.max_tokens, &range, place, "max_tokens", notes);
    Ok(Some(Limits {
        rate: Some((per_second, burst)),
        ..Limits::default()
    }))
}

/// Whether a filter is switched off.
pub(super) fn is_off(flag: Option<&RuntimeFeatureFlag>) -> bool {
    flag.and_then(|flag| flag.default_value)
        .is_some_and(|default| !default.value)
}
