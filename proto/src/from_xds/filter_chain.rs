// SPDX-License-Identifier: Apache-2.0
//! Filter chains and their network filters: `envoy.config.listener.v3.FilterChain`.
//!
//! Invariant: the one chain that is taken is one that takes every connection.

use prost::Message as _;

use super::{
    listener::{NOT_TAKEN, Target},
    notes::{IGNORED, Notes, Place, Read, message_name, on},
    tcp_proxy,
};
use crate::xds::{
    envoy::{
        config::listener::v3::{
            Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter::ConfigType,
            listener_filter::ConfigType as ListenerConfigType,
        },
        extensions::filters::network::rbac::v3::Rbac,
    },
    google::protobuf::Any,
};

const TCP_PROXY: &str = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
const RBAC: &str = "envoy.extensions.filters.network.rbac.v3.RBAC";
const EXT_AUTHZ: &str = "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz";
/// Listener filters that look at a connection for the sake of filter chain matches alone.
const INSPECTORS: [&str; 2] = [
    "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector",
];
const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";

/// Where the connections of a TCP listener go; `None` if that cannot be said, which is noted.
pub(super) fn target(listener: &Listener, place: Place<'_>, notes: &mut Notes) -> Read<Option<Target>> {
    for (index, filter) in listener.listener_filters.iter().enumerate() {
        if !is_inspector(filter) {
            notes.add(place.index("listener_filters", index), "", IGNORED);
        }
    }
    let mut fitting = None;
    for (index, chain) in listener.filter_chains.iter().enumerate() {
        let place = place.index("filter_chains", index);
        let matches_all = chain
            .filter_chain_match
            .as_ref()
            .is_none_or(|matcher| *matcher == FilterChainMatch::default());
        if !matches_all {
            notes.add(place, "filter_chain_match", "the chain is ignored");
        } else if fitting.is_some() {
            return place
                .refuse("matches the same connections as an earlier chain; give it a filter_chain_match");
        } else {
            fitting = Some((index, chain));
        }
    }
    match (fitting, &listener.default_filter_chain) {
        (Some((index, chain)), _) => self::chain(chain, place.index("filter_chains", index), notes),
        (None, Some(chain)) => self::chain(chain, place.field("default_filter_chain"), notes),
        (None, None) => {
            notes.add(place, "filter_chains", NOT_TAKEN);
            Ok(None)
        }
    }
}

fn is_inspector(filter: &ListenerFilter) -> bool {
    match &filter.config_type {
        Some(ListenerConfigType::TypedConfig(config)) => INSPECTORS.contains(&message_name(config)),
        _ => false,
    }
}

#[expect(deprecated, reason = "every field is considered, those on their way out too")]
fn chain(chain: &FilterChain, place: Place<'_>, notes: &mut Notes) -> Read<Option<Target>> {
    let FilterChain {
        filters,
        use_proxy_proto,
        transport_socket,
        // Seen to by the caller, without effect, or of the transport socket.
        filter_chain_match: _,
        metadata: _,
        transport_socket_connect_timeout: _,
        name: _,
    } = chain;
    let encrypts = transport_socket
        .as_ref()
        .is_some_and(|socket| !is_raw(socket.config_type.as_ref()));
    notes.ignored(
        place,
        [
            ("use_proxy_proto", on(*use_proxy_proto)),
            ("transport_socket", encrypts),
        ],
    );
    let Some((last, others)) = filters.split_last() else {
        notes.add(place, "filters", NOT_TAKEN);
        return Ok(None);
    };
    for (index, filter) in others.iter().enumerate() {
        let place = place.index("filters", index);
        if denies(filter) {
            // Taken without it, the listener would let everybody in.
            notes.add(place.key("", kind(filter)), "", NOT_TAKEN);
            return Ok(None);
        }
        notes.add(place.key("", kind(filter)), "", IGNORED);
    }
    let place = place.index("filters", others.len());
    match typed_config(last) {
        Some(config) if message_name(config) == TCP_PROXY => {
            tcp_proxy::target(&config.value, place.field("typed_config"), notes).map(Some)
        }
        _ => {
            notes.add(place.key("", kind(last)), "", NOT_TAKEN);
            Ok(None)
        }
    }
}

/// Whether `filter` decides who may connect: RBAC with rules, or an authorization service.
fn denies(filter: &Filter) -> bool {
    let Some(config) = typed_config(filter) else {
        return false;
    };
    match message_name(config) {
        // One that cannot be read may have rules.
        RBAC => {
            Rbac::decode(&*config.value).map_or(true, |rbac| rbac.rules.is_some() || rbac.matcher.is_some())
        }
        name => name == EXT_AUTHZ,
    }
}

/// Whether a transport socket is plain TCP.
pub(super) fn is_raw(
    config: Option<&crate::xds::envoy::config::core::v3::transport_socket::ConfigType>,
) -> bool {
    use crate::xds::envoy::config::core::v3::transport_socket::ConfigType;
    matches!(config, Some(ConfigType::TypedConfig(config)) if message_name(config) == RAW_BUFFER)
}

/// The message that configures `filter`, or its name.
fn kind(filter: &Filter) -> &str {
    typed_config(filter).map_or(&filter.name, message_name)
}

fn typed_config(filter: &Filter) -> Option<&Any> {
    match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => Some(config),
        _ => None,
    }
}
