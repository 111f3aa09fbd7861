// SPDX-License-Identifier: Apache-2.0
//! What a cluster asks for that nodemesh lacks. Called by `cluster`.
//!
//! Settings of HTTP, of name resolution and of a proxy's own memory and statistics are passed over without a note: connections are
//! balanced, not requests, and names are not resolved at all, which the discovery type tells.

use crate::{
    from_xds::{
        filter_chain::is_raw,
        notes::{Notes, Place, some},
    },
    xds::envoy::config::cluster::v3::{
        Cluster as Wire,
        cluster::{CommonLbConfig, common_lb_config::LocalityConfigSpecifier},
    },
};

/// Notes what `wire` asks for that nodemesh lacks.
#[expect(deprecated, reason = "every field is considered, those on their way out too")]
#[expect(clippy::too_many_lines, reason = "a line for each field of the message")]
pub(super) fn note(wire: &Wire, notes: &mut Notes) {
    if let Some(common) = &wire.common_lb_config {
        note_common(common, Place::ROOT.field("common_lb_config"), notes);
    }
    let Wire {
        transport_socket_matches,
        transport_socket_matcher,
        connect_timeout,
        upstream_bind_config,
        lb_subset_config,
        transport_socket,
        upstream_connection_options,
        close_connections_on_host_health_failure,
        filters,
        upstream_config,
        preconnect_policy,
        // Read elsewhere.
        name: _,
        eds_cluster_config: _,
        lb_policy: _,
        load_assignment: _,
        circuit_breakers: _,
        outlier_detection: _,
        health_checks: _,
        common_lb_config: _,
        metadata: _,
        load_balancing_policy: _,
        cluster_discovery_type: _,
        lb_config: _,
        // Of HTTP, of name resolution, or of a proxy's memory and statistics; load is reported in any case.
        alt_stat_name: _,
        stats_matcher: _,
        per_connection_buffer_limit_bytes: _,
        per_connection_buffer_high_watermark_timeout: _,
        max_requests_per_connection: _,
        upstream_http_protocol_options: _,
        common_http_protocol_options: _,
        http_protocol_options: _,
        http2_protocol_options: _,
        typed_extension_protocol_options: _,
        dns_refresh_rate: _,
        dns_jitter: _,
        dns_failure_refresh_rate: _,
        respect_dns_ttl: _,
        dns_lookup_family: _,
        dns_resolvers: _,
        use_tcp_for_dns_lookups: _,
        dns_resolution_config: _,
        typed_dns_resolver_config: _,
        wait_for_warm_on_init: _,
        cleanup_interval: _,
        protocol_selection: _,
        ignore_health_on_host_removal: _,
        lrs_server: _,
        lrs_report_endpoint_metrics: _,
        track_timeout_budgets: _,
        track_cluster_stats: _,
        connection_pool_per_downstream_connection: _,
        queuing_policies: _,
    } = wire;
    let encrypts = transport_socket
        .as_ref()
        .is_some_and(|socket| !is_raw(socket.config_type.as_ref()));
    notes.ignored(
        Place::ROOT,
        [
            ("transport_socket_matches", !transport_socket_matches.is_empty()),
            ("transport_socket_matcher", transport_socket_matcher.is_some()),
            // Of an application's own connections the application decides; 5 s is what a proxy does if nothing is said.
            (
                "connect_timeout",
                connect_timeout.is_some_and(|timeout| timeout.seconds != 5 || timeout.nanos != 0),
            ),
            ("upstream_bind_config", upstream_bind_config.is_some()),
            ("lb_subset_config", lb_subset_config.is_some()),
            ("transport_socket", encrypts),
            (
                "upstream_connection_options",
                upstream_connection_options.is_some(),
            ),
            (
                "close_connections_on_host_health_failure",
                *close_connections_on_host_health_failure,
            ),
            ("filters", !filters.is_empty()),
            ("upstream_config", upstream_config.is_some()),
            ("preconnect_policy", preconnect_policy.is_some()),
        ],
    );
}

fn note_common(wire: &CommonLbConfig, place: Place<'_>, notes: &mut Notes) {
    let CommonLbConfig {
        healthy_panic_threshold,
        ignore_new_hosts_until_first_hc,
        close_connections_on_host_set_change,
        consistent_hashing_lb_config,
        override_host_status,
        locality_config_specifier,
        // Of a proxy alone.
        update_merge_window: _,
    } = wire;
    let by_zone = matches!(
        locality_config_specifier,
        Some(LocalityConfigSpecifier::ZoneAwareLbConfig(_))
    );
    let panics = healthy_panic_threshold.is_some_and(|percent| percent.value != 0.0);
    let hashing = consistent_hashing_lb_config
        .is_some_and(|hashing| hashing.use_hostname_for_hashing || some(hashing.hash_balance_factor));
    notes.ignored(
        place,
        [
            ("healthy_panic_threshold", panics),
            (
                "ignore_new_hosts_until_first_hc",
                *ignore_new_hosts_until_first_hc,
            ),
            (
                "close_connections_on_host_set_change",
                *close_connections_on_host_set_change,
            ),
            ("consistent_hashing_lb_config", hashing),
            ("override_host_status", override_host_status.is_some()),
            ("zone_aware_lb_config", by_zone),
        ],
    );
}
