// SPDX-License-Identifier: Apache-2.0
//! `envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit`: how many connections a listener has at once.
//!
//! Read and not written: the same is said of the cluster. Invariant: a filter that is switched off limits nothing.

use super::{Limits, rate_limit::is_off};
use crate::{
    from_xds::{
        decode::decode,
        notes::{Notes, Place, Read, lasts},
    },
    xds::envoy::extensions::filters::network::connection_limit::v3::ConnectionLimit,
};

/// The limit of the filter at `place`.
pub(crate) fn read(value: &[u8], place: Place<'_>, notes: &mut Notes) -> Read<Limits> {
    let ConnectionLimit {
        max_connections,
        delay,
        runtime_enabled,
        stat_prefix: _,
    } = decode(value, place, notes)?;
    if is_off(runtime_enabled.as_ref()) {
        return Ok(Limits::default());
    }
    notes.ignored(place, [("delay", lasts(delay))]);
    let most = max_connections.map_or(0, |most| u32::try_from(most.value).unwrap_or(u32::MAX));
    if most == 0 {
        return place.field("max_connections").refuse("is 0; use at least 1");
    }
    Ok(Limits {
        connections: Some(most).filter(|most| *most <= 100_000_000),
        ..Limits::default()
    })
}
