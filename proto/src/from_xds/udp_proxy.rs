// SPDX-License-Identifier: Apache-2.0
//! `envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig`: the cluster of a UDP listener.

use super::{
    decode::decode,
    listener::{NOT_TAKEN, Target},
    notes::{IGNORED, Notes, Place, Read, lasts, message_name},
    tcp_proxy::cluster_name,
};
use crate::xds::{
    envoy::{
        config::listener::v3::{Listener, ListenerFilter, listener_filter::ConfigType},
        extensions::filters::udp::udp_proxy::v3::{
            Route, UdpProxyConfig,
            udp_proxy_config::{RouteSpecifier, hash_policy::PolicySpecifier},
        },
    },
    google::protobuf::Any,
    xds::r#type::matcher::v3::{
        Matcher,
        matcher::{OnMatch, on_match},
    },
};

const UDP_PROXY: &str = "envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig";
const ROUTE: &str = "envoy.extensions.filters.udp.udp_proxy.v3.Route";

/// Where the datagrams of a UDP listener go; `None` if that cannot be said, which is noted.
pub(super) fn target(listener: &Listener, place: Place<'_>, notes: &mut Notes) -> Read<Option<Target>> {
    let Some((last, others)) = listener.listener_filters.split_last() else {
        // QUIC, or nothing.
        notes.add(place, "udp_listener_config", NOT_TAKEN);
        return Ok(None);
    };
    for (index, filter) in others.iter().enumerate() {
        let place = place.index("listener_filters", index);
        notes.add(place.key("", kind(filter)), "", IGNORED);
    }
    let place = place.index("listener_filters", others.len());
    match typed_config(last) {
        Some(config) if message_name(config) == UDP_PROXY => {
            proxy(&config.value, place.field("typed_config"), notes)
        }
        _ => {
            notes.add(place.key("", kind(last)), "", NOT_TAKEN);
            Ok(None)
        }
    }
}

#[expect(deprecated, reason = "every field is considered, those on their way out too")]
fn proxy(value: &[u8], place: Place<'_>, notes: &mut Notes) -> Read<Option<Target>> {
    let wire: UdpProxyConfig = decode(value, place, notes)?;
    note_unsupported(&wire, place, notes);
    let cluster = match &wire.route_specifier {
        Some(RouteSpecifier::Cluster(name)) => Some(cluster_name(name, place.field("cluster"))?),
        Some(RouteSpecifier::Matcher(matcher)) => route(matcher, place.field("matcher"), notes)?,
        None => return place.field("matcher").refuse("is missing; name a cluster"),
    };
    let Some(cluster) = cluster else {
        notes.add(place, "matcher", NOT_TAKEN);
        return Ok(None);
    };
    let mut hashes_source = false;
    for (index, policy) in wire.hash_policies.iter().enumerate() {
        match policy.policy_specifier {
            Some(PolicySpecifier::SourceIp(true)) => hashes_source = true,
            _ => notes.add(place.index("hash_policies", index), "", IGNORED),
        }
    }
    Ok(Some(Target {
        clusters: vec![(cluster, 1)],
        hashes_source,
        ..Target::default()
    }))
}

/// The cluster of a matcher that has but one answer, or whose answer to all else is taken.
fn route(matcher: &Matcher, place: Place<'_>, notes: &mut Notes) -> Read<Option<Box<str>>> {
    notes.ignored(place, [("matcher_type", matcher.matcher_type.is_some())]);
    let action = match matcher.on_no_match.as_deref() {
        Some(OnMatch {
            on_match: Some(on_match::OnMatch::Action(action)),
            ..
        }) => action.typed_config.as_ref(),
        _ => None,
    };
    let Some(action) = action.filter(|action| message_name(action) == ROUTE) else {
        return Ok(None);
    };
    let place = place.field("on_no_match.action.typed_config");
    let route: Route = decode(&action.value, place, notes)?;
    cluster_name(&route.cluster, place.field("cluster")).map(Some)
}

fn note_unsupported(wire: &UdpProxyConfig, place: Place<'_>, notes: &mut Notes) {
    let UdpProxyConfig {
        idle_timeout,
        use_original_src_ip,
        use_per_packet_load_balancing,
        access_log,
        proxy_access_log,
        session_filters,
        tunneling_config,
        // Read by `proxy`.
        hash_policies: _,
        route_specifier: _,
        // Of a proxy alone.
        stat_prefix: _,
        upstream_socket_config: _,
        access_log_options: _,
    } = wire;
    notes.ignored(
        place,
        [
            ("idle_timeout", lasts(*idle_timeout)),
            ("use_original_src_ip", *use_original_src_ip),
            ("use_per_packet_load_balancing", *use_per_packet_load_balancing),
            ("access_log", !access_log.is_empty()),
            ("proxy_access_log", !proxy_access_log.is_empty()),
            ("session_filters", !session_filters.is_empty()),
            ("tunneling_config", tunneling_config.is_some()),
        ],
    );
}

/// The message that configures `filter`, or its name.
fn kind(filter: &ListenerFilter) -> &str {
    typed_config(filter).map_or(&filter.name, message_name)
}

fn typed_config(filter: &ListenerFilter) -> Option<&Any> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => Some(config),
        _ => None,
    }
}
