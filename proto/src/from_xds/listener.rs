// SPDX-License-Identifier: Apache-2.0
//! Listeners: `envoy.config.listener.v3.Listener`. A virtual address and port, and the clusters behind it.
//!
//! Settings of a proxy's own sockets, memory, statistics and drain are passed over without a note: where there is no proxy,
//! their lack changes nothing. Invariant: a listener that is taken has at least one address and one cluster.

use std::net::IpAddr;

use nodemesh_abi::Protocol;
use nodemesh_model::{
    Family, Keyword as _, PacketMode, ResourceName,
    name::dns_label,
    resource::{address, packet, service},
};

use super::{
    address::{Spot, spot},
    decode::decode,
    filter_chain,
    name::service_name,
    notes::{Notes, Place, Read, on},
    udp_proxy,
};
use crate::{
    metadata,
    rules::Limits,
    xds::envoy::config::{
        core::v3::TrafficDirection,
        listener::v3::{AdditionalAddress, Listener as Wire},
    },
};

/// Effect of a field without which a listener means nothing.
pub(super) const NOT_TAKEN: &str = "the listener is not taken";

/// A listener that fits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listener {
    /// The service that it is a part of.
    pub(super) service: ResourceName,
    /// Virtual addresses, at most one per family.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
    pub(super) model: Option<Box<str>>,
    pub(super) port_name: Option<Box<str>>,
    pub(super) packet: Packet,
    pub(super) target: Target,
}

/// What a listener says about the packet path; nothing of it is checked but the types.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Packet {
    pub(super) mode: Option<Box<str>>,
    pub(super) external: Vec<Box<str>>,
    pub(super) node_port: Option<u32>,
}

/// Where a listener's connections go.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Target {
    /// Clusters and their shares, none 0.
    pub(super) clusters: Vec<(Box<str>, u32)>,
    /// Whether the address of the client decides where the algorithm lets it.
    pub(super) hashes_source: bool,
    /// What its filters limit.
    pub(super) limits: Limits,
}

/// Reads the listener `name`; `None` if it is nothing for a node, or does not fit, which is noted.
pub(super) fn read(name: &str, value: &[u8], notes: &mut Notes) -> Read<Option<Listener>> {
    let root = Place::ROOT;
    let wire: Wire = decode(value, root, notes)?;
    if wire.name != name || name.is_empty() {
        return root.field("name").refuse(format_args!(
            "is {:?}, but the resource is {name:?}; give both the same name",
            wire.name
        ));
    }
    // Of gRPC clients, which dial by name and not by address.
    if wire.api_listener.is_some() && wire.address.is_none() {
        return Ok(None);
    }
    note_unsupported(&wire, notes);
    let spot = spot(wire.address.as_ref(), root.field("address"), notes)?;
    let (ip, port, protocol) = match spot {
        Spot::Socket { ip, port, protocol } => (ip, port, protocol),
        Spot::Name(problem) => return root.field("address.socket_address").refuse(problem),
        Spot::Unusable(_) | Spot::Unfit => {
            notes.add(root, "address", NOT_TAKEN);
            return Ok(None);
        }
    };
    let mut addresses = vec![ip];
    for (index, additional) in wire.additional_addresses.iter().enumerate() {
        let place = root.index("additional_addresses", index);
        addresses.extend(additional_address(
            additional,
            &addresses,
            (port, protocol),
            place,
            notes,
        )?);
    }
    if TrafficDirection::try_from(wire.traffic_direction) == Ok(TrafficDirection::Inbound) {
        notes.add(root, "traffic_direction", NOT_TAKEN);
        return Ok(None);
    }
    if wire.listener_specifier.is_some() {
        notes.add(root, "listener_specifier", NOT_TAKEN);
        return Ok(None);
    }
    let target = match protocol {
        Protocol::Tcp => filter_chain::target(&wire, root, notes)?,
        Protocol::Udp => udp_proxy::target(&wire, root, notes)?,
    };
    let Some(target) = target else { return Ok(None) };
    named(&wire, notes, |service, model, port_name, packet| Listener {
        service,
        addresses,
        port,
        protocol,
        model,
        port_name,
        packet,
        target,
    })
    .map(Some)
}

/// Reads what the metadata says, and puts the listener together.
fn named(
    wire: &Wire,
    notes: &mut Notes,
    listener: impl FnOnce(ResourceName, Option<Box<str>>, Option<Box<str>>, Packet) -> Listener,
) -> Read<Listener> {
    let known = [
        metadata::NAMESPACE,
        metadata::NAME,
        metadata::MODEL,
        metadata::PORT_NAME,
        metadata::PACKET_PATH,
        metadata::EXTERNAL_ADDRESSES,
        metadata::NODE_PORT,
    ];
    let fields = metadata::read(wire.metadata.as_ref(), &known, &Place::ROOT, notes);
    let namespace = fields.text(metadata::NAMESPACE)?;
    let service = match service_name(&wire.name, namespace, fields.text(metadata::NAME)?) {
        Ok(service) => service,
        Err(problem) => return fields.refuse(metadata::NAME, problem),
    };
    let model = fields.text(metadata::MODEL)?;
    if let Some(Err(problem)) = model.map(service::model_name) {
        return fields.refuse(metadata::MODEL, problem);
    }
    let port_name = fields.text(metadata::PORT_NAME)?;
    if let Some(Err(problem)) = port_name.map(dns_label) {
        return fields.refuse(metadata::PORT_NAME, problem);
    }
    let packet = packet(&fields)?;
    Ok(listener(
        service,
        model.map(Into::into),
        port_name.map(Into::into),
        packet,
    ))
}

/// Reads what the metadata says about the packet path, as far as one listener tells whether it is valid.
fn packet(fields: &metadata::Fields<'_>) -> Read<Packet> {
    let mode = fields.text(metadata::PACKET_PATH)?;
    if let Some(word) = mode.filter(|word| PacketMode::from_word(word).is_none()) {
        let reason = format_args!("is {word:?}; use snat, preserve or dsr");
        return fields.refuse(metadata::PACKET_PATH, reason);
    }
    let external = fields.text(metadata::EXTERNAL_ADDRESSES)?.unwrap_or_default();
    let external: Vec<&str> = external.split(',').filter(|text| !text.is_empty()).collect();
    if let Some(Err(problem)) = external
        .iter()
        .map(|text| address::parse(text))
        .find(Result::is_err)
    {
        return fields.refuse(metadata::EXTERNAL_ADDRESSES, problem);
    }
    let node_port = fields.number(metadata::NODE_PORT)?;
    if let Some(Err(problem)) = node_port.map(|port| packet::node_port(port.into())) {
        return fields.refuse(metadata::NODE_PORT, problem);
    }
    Ok(Packet {
        mode: mode.map(Into::into),
        external: external.into_iter().map(Into::into).collect(),
        node_port,
    })
}

/// Reads one more address; it is taken if it is that of the other family, on the same port.
fn additional_address(
    wire: &AdditionalAddress,
    known: &[IpAddr],
    own: (u16, Protocol),
    place: Place<'_>,
    notes: &mut Notes,
) -> Read<Option<IpAddr>> {
    let AdditionalAddress {
        address,
        socket_options,
        tcp_keepalive,
    } = wire;
    notes.ignored(
        place,
        [
            ("socket_options", socket_options.is_some()),
            ("tcp_keepalive", tcp_keepalive.is_some()),
        ],
    );
    let place = place.field("address");
    match spot(address.as_ref(), place, notes)? {
        Spot::Name(problem) => place.refuse(problem),
        Spot::Socket { ip, port, protocol }
            if (port, protocol) == own && known.iter().all(|known| Family::of(*known) != Family::of(ip)) =>
        {
            Ok(Some(ip))
        }
        _ => {
            notes.add(
                place,
                "",
                "ignored: a service has one address per family, on the same ports",
            );
            Ok(None)
        }
    }
}

#[expect(deprecated, reason = "every field is considered, those on their way out too")]
fn note_unsupported(wire: &Wire, notes: &mut Notes) {
    let Wire {
        fcds_config,
        filter_chain_matcher,
        use_original_dst,
        socket_options,
        access_log,
        enable_mptcp,
        tcp_keepalive,
        // Read by `read` and by the readers of chains and filters.
        name: _,
        address: _,
        additional_addresses: _,
        filter_chains: _,
        default_filter_chain: _,
        metadata: _,
        listener_filters: _,
        traffic_direction: _,
        udp_listener_config: _,
        api_listener: _,
        listener_specifier: _,
        // Of a proxy alone.
        stat_prefix: _,
        stats_matcher: _,
        per_connection_buffer_limit_bytes: _,
        per_connection_buffer_high_watermark_timeout: _,
        deprecated_v1: _,
        drain_type: _,
        listener_filters_timeout: _,
        continue_on_listener_filters_timeout: _,
        transparent: _,
        freebind: _,
        tcp_fast_open_queue_length: _,
        connection_balance_config: _,
        reuse_port: _,
        enable_reuse_port: _,
        tcp_backlog_size: _,
        max_connections_to_accept_per_socket_event: _,
        bind_to_port: _,
        ignore_global_conn_limit: _,
        bypass_overload_manager: _,
    } = wire;
    notes.ignored(
        Place::ROOT,
        [
            ("fcds_config", fcds_config.is_some()),
            ("filter_chain_matcher", filter_chain_matcher.is_some()),
            ("use_original_dst", on(*use_original_dst)),
            ("socket_options", !socket_options.is_empty()),
            ("access_log", !access_log.is_empty()),
            ("enable_mptcp", *enable_mptcp),
            ("tcp_keepalive", tcp_keepalive.is_some()),
        ],
    );
}
