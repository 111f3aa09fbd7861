// SPDX-License-Identifier: Apache-2.0
//! `envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy`: the clusters of a TCP listener.

use super::{
    decode::decode,
    listener::Target,
    notes::{IGNORED, Notes, Place, Read, lasts, on},
};
use crate::xds::envoy::{
    extensions::filters::network::tcp_proxy::v3::{
        TcpProxy,
        tcp_proxy::{ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight},
    },
    r#type::v3::hash_policy::PolicySpecifier,
};

/// The clusters of the filter at `place`.
pub(super) fn target(value: &[u8], place: Place<'_>, notes: &mut Notes) -> Read<Target> {
    let wire: TcpProxy = decode(value, place, notes)?;
    note_unsupported(&wire, place, notes);
    let clusters = match &wire.cluster_specifier {
        Some(ClusterSpecifier::Cluster(name)) => vec![(cluster_name(name, place.field("cluster"))?, 1)],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => {
            weighted_clusters(weighted, place.field("weighted_clusters"), notes)?
        }
        None => return place.field("cluster").refuse("is missing; name a cluster"),
    };
    let mut hashes_source = false;
    for (index, policy) in wire.hash_policy.iter().enumerate() {
        match policy.policy_specifier {
            Some(PolicySpecifier::SourceIp(_)) => hashes_source = true,
            _ => notes.add(place.index("hash_policy", index), "", IGNORED),
        }
    }
    Ok(Target {
        clusters,
        hashes_source,
        ..Target::default()
    })
}

fn weighted_clusters(
    wire: &WeightedCluster,
    place: Place<'_>,
    notes: &mut Notes,
) -> Read<Vec<(Box<str>, u32)>> {
    if wire.clusters.is_empty() {
        return place
            .field("clusters")
            .refuse("is empty; name at least one cluster");
    }
    let mut clusters = Vec::with_capacity(wire.clusters.len());
    for (index, cluster) in wire.clusters.iter().enumerate() {
        let ClusterWeight {
            name,
            weight,
            metadata_match,
        } = cluster;
        let place = place.index("clusters", index);
        notes.ignored(place, [("metadata_match", metadata_match.is_some())]);
        if *weight == 0 {
            return place
                .field("weight")
                .refuse("is 0; use at least 1, or leave the cluster out");
        }
        clusters.push((cluster_name(name, place.field("name"))?, *weight));
    }
    Ok(clusters)
}

/// Reads the name of a cluster.
pub(super) fn cluster_name(name: &str, place: Place<'_>) -> Read<Box<str>> {
    if name.is_empty() {
        return place.refuse("is empty; name a cluster");
    }
    Ok(name.into())
}

#[expect(deprecated, reason = "every field is considered, those on their way out too")]
fn note_unsupported(wire: &TcpProxy, place: Place<'_>, notes: &mut Notes) {
    let TcpProxy {
        on_demand,
        metadata_match,
        idle_timeout,
        downstream_idle_timeout,
        upstream_idle_timeout,
        access_log,
        max_connect_attempts,
        backoff_options,
        tunneling_config,
        max_downstream_connection_duration,
        access_log_options,
        proxy_protocol_tlvs,
        upstream_connect_mode,
        max_early_data_bytes,
        check_drain_close,
        // Read by `target`.
        hash_policy: _,
        cluster_specifier: _,
        // Of a proxy alone, or without effect by themselves.
        stat_prefix: _,
        max_downstream_connection_duration_jitter_percentage: _,
        access_log_flush_interval: _,
        flush_access_log_on_connected: _,
        proxy_protocol_tlv_merge_policy: _,
    } = wire;
    notes.ignored(
        place,
        [
            ("on_demand", on_demand.is_some()),
            ("metadata_match", metadata_match.is_some()),
            ("idle_timeout", lasts(*idle_timeout)),
            ("downstream_idle_timeout", lasts(*downstream_idle_timeout)),
            ("upstream_idle_timeout", lasts(*upstream_idle_timeout)),
            ("access_log", !access_log.is_empty()),
            (
                "max_connect_attempts",
                max_connect_attempts.is_some_and(|attempts| attempts.value > 1),
            ),
            ("backoff_options", backoff_options.is_some()),
            ("tunneling_config", tunneling_config.is_some()),
            (
                "max_downstream_connection_duration",
                lasts(*max_downstream_connection_duration),
            ),
            ("access_log_options", access_log_options.is_some()),
            ("proxy_protocol_tlvs", !proxy_protocol_tlvs.is_empty()),
            ("upstream_connect_mode", *upstream_connect_mode != 0),
            ("max_early_data_bytes", max_early_data_bytes.is_some()),
            ("check_drain_close", on(*check_drain_close)),
        ],
    );
}
