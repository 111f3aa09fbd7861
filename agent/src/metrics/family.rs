// SPDX-License-Identifier: Apache-2.0
//! Every metric family of the agent, declared once. The modules beside this one fill them, `document` turns this file into
//! `docs/metrics.md`, and the tests hold dashboards, rules and a real scrape against it.
//!
//! Invariant: label values are names from the configuration, backend addresses and words of enums; nothing that a client
//! chooses becomes a label.

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only rises, except when what it is about begins anew.
    Counter,
    /// Rises and falls.
    Gauge,
    /// Counts per upper bound, cumulative, with sum and count.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What other systems call the same thing, or nearly the same.
#[derive(Clone, Copy, Debug)]
pub struct Counterpart {
    /// Instrument of OpenTelemetry's semantic conventions; empty if there is none.
    pub otel: &'static str,
    /// Metric of vLLM, as it is scraped; empty if there is none.
    pub vllm: &'static str,
    /// How they differ from ours.
    pub difference: &'static str,
}

/// One family.
#[derive(Clone, Copy, Debug)]
pub struct Family {
    /// Name, with the unit and `_total` as Prometheus' conventions ask.
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// What one of it is.
    pub unit: &'static str,
    /// Names of the labels, in the order in which they are written.
    pub labels: &'static [&'static str],
    /// Help text.
    pub help: &'static str,
    /// Its counterparts elsewhere.
    pub counterpart: Option<Counterpart>,
}

/// Families that are about the same thing.
#[derive(Debug)]
pub struct Group {
    /// Title, for the documentation.
    pub title: &'static str,
    /// What they have in common, for the documentation.
    pub about: &'static str,
    /// Labels that most of them begin with.
    pub labels: &'static [&'static str],
    /// The families.
    pub families: &'static [Family],
}

macro_rules! group {
    ($group:ident $title:literal $about:literal $common:expr, {
        $($const:ident: $kind:ident $name:literal [$unit:literal] $labels:expr, $help:literal
            $(like $otel:literal, $vllm:literal, $difference:literal)?;)+
    }) => {
        $(pub(super) const $const: Family = Family {
            name: $name, kind: Kind::$kind, unit: $unit, labels: $labels, help: $help,
            counterpart: group!(@like $($otel, $vllm, $difference)?),
        };)+
        const $group: Group = Group { title: $title, about: $about, labels: $common, families: &[$($const),+] };
    };
    (@like) => { None };
    (@like $otel:literal, $vllm:literal, $difference:literal) => {
        Some(Counterpart { otel: $otel, vllm: $vllm, difference: $difference })
    };
}

/// Labels of what the meter counts.
pub const METERED: &[&str] = &["namespace", "service", "backend", "vantage", "model"];
/// Labels of what the placement of connections counts.
pub const PLACED: &[&str] = &["namespace", "service", "backend"];

group! { STREAMS "Requests and streams"
    "Counted in the kernel from the bytes of each mesh connection, at both ends: `vantage`. A backend and vantage that never had a \
     connection have no series." METERED, {
    IN_FLIGHT: Gauge "nodemesh_requests_in_flight" ["requests"] METERED,
        "Requests that have begun and not ended."
        like "http.server.active_requests", "vllm:num_requests_running + vllm:num_requests_waiting",
        "Begins with the first byte of the request, so requests that the engine has not accepted yet are in it.";
    BYTES_IN_FLIGHT: Gauge "nodemesh_request_bytes_in_flight" ["bytes"] METERED,
        "Bytes of the requests in flight that were sent so far.";
    STALLED: Gauge "nodemesh_stalled_streams" ["requests"] METERED,
        "Open requests that have been silent for longer than the usual pace of their backend allows.";
    LAST_BYTE_AGE: Gauge "nodemesh_last_byte_age_seconds" ["seconds"] METERED,
        "Time since the last byte of the open request that has been silent for longest, 0 without one.";
    REQUESTS: Counter "nodemesh_requests_total" ["requests"] &["namespace", "service", "backend", "vantage", "model", "outcome"],
        "Finished requests."
        like "count of gen_ai.server.request.duration, by error.type", "vllm:request_success_total",
        "Failures are counted too; `outcome` says more than `finished_reason`, which only the engine knows.";
    FIRST_BYTE: Histogram "nodemesh_time_to_first_byte_seconds" ["seconds"] METERED,
        "Time from the last byte of the request to the first byte of the response."
        like "gen_ai.client.operation.time_to_first_chunk", "",
        "Headers count: a server that sends them early has a short one.";
    FIRST_TOKEN: Histogram "nodemesh_time_to_first_token_seconds" ["seconds"] METERED,
        "Time from the last byte of the request to the first token of the response."
        like "gen_ai.server.time_to_first_token", "vllm:time_to_first_token_seconds",
        "Same bounds as vLLM. At the server ours begins when the application has read the request, vLLM's after it was parsed; at the client ours \
         contains the network and the wait in the server's queues. Under TLS the token is found by the largest gap.";
    GAP: Histogram "nodemesh_inter_token_latency_seconds" ["seconds"] METERED,
        "Time between two emissions of a streamed response, from the first token on."
        like "gen_ai.server.time_per_output_token, gen_ai.client.operation.time_per_output_chunk", "vllm:inter_token_latency_seconds",
        "Same bounds as vLLM. Several tokens in one write are one emission; OpenTelemetry's is a mean per request.";
    DURATION: Histogram "nodemesh_stream_duration_seconds" ["seconds"] METERED,
        "Time from the first byte of the request to the last byte of the response."
        like "gen_ai.server.request.duration, gen_ai.client.operation.duration", "vllm:e2e_request_latency_seconds",
        "Bounds of both. Ours contains the sending of the request.";
    REQUEST_SIZE: Histogram "nodemesh_request_size_bytes" ["bytes"] METERED,
        "Bytes of a request, with its head and TLS framing."
        like "http.server.request.body.size", "vllm:request_prompt_tokens",
        "Bytes on the socket, not of the body, and not tokens.";
    RESPONSE_SIZE: Histogram "nodemesh_response_size_bytes" ["bytes"] METERED,
        "Bytes of a response, with its head and TLS framing."
        like "http.server.response.body.size", "vllm:request_generation_tokens",
        "Bytes on the socket, not of the body, and not tokens.";
    CHUNKS: Counter "nodemesh_chunks_total" ["chunks"] METERED,
        "Emissions of streamed responses, from the first token on."
        like "sum of gen_ai.client.token.usage with gen_ai.token.type=output", "vllm:generation_tokens_total",
        "Several tokens in one write are one chunk.";
    CANCELS: Counter "nodemesh_client_cancels_total" ["requests"]
        &["namespace", "service", "backend", "vantage", "model", "phase", "how"],
        "Requests that the client gave up, before the first byte of the response or in the middle of it."
        like "", "vllm:request_success_total{finished_reason=\"abort\"}",
        "Counted when the client closes, not when the engine notices.";
    TRUNCATED: Counter "nodemesh_truncated_streams_total" ["requests"] METERED,
        "Responses that the server broke off in the middle.";
    RACES: Counter "nodemesh_keepalive_races_total" ["requests"] METERED,
        "Requests on a reused connection that met a server which had closed it.";
    AMBIGUOUS: Counter "nodemesh_ambiguous_sockets_total" ["connections"] METERED,
        "Connections whose requests cannot be told apart (pipelining, upgrade, HTTP/2 under TLS): bytes and age only.";
    OPEN: Gauge "nodemesh_open_connections" ["connections"] METERED,
        "Open connections that are metered.";
    METERED_CONNECTIONS: Counter "nodemesh_metered_connections_total" ["connections"] METERED,
        "Connections that were metered.";
    BYTES: Counter "nodemesh_transmit_bytes_total" ["bytes"] &["namespace", "service", "backend", "vantage", "model", "direction"],
        "Bytes of connections in the direction of requests or of responses, with TLS and framing.";
    RETRANSMITS: Counter "nodemesh_retransmits_total" ["segments"] METERED,
        "Segments that were sent again.";
    RTT: Histogram "nodemesh_rtt_seconds" ["seconds"] METERED,
        "Smoothed round-trip time of the connection at the end of each request.";
} }

group! { PLACEMENT "Placement of connections"
    "Counted in the kernel where `connect()` and `sendmsg()` pick a backend." PLACED, {
    OPENED: Counter "nodemesh_connections_opened_total" ["connections"] PLACED,
        "Connections and UDP flows that the kernel placed on a backend.";
    CLOSED: Counter "nodemesh_connections_closed_total" ["connections"] PLACED,
        "Connections that ended after they were established.";
    FAILED: Counter "nodemesh_connections_failed_total" ["connections"] &["namespace", "service", "backend", "reason"],
        "Connections that were never established.";
    ACTIVE: Gauge "nodemesh_connections_active" ["sockets"] PLACED,
        "Sockets placed on a backend that are neither closed nor failed.";
    CONNECT_DURATION: Histogram "nodemesh_connect_duration_seconds" ["seconds"] PLACED,
        "Time from connect() to an established connection, measured in the kernel.";
    EJECTIONS: Counter "nodemesh_backend_ejections_total" ["ejections"] &["namespace", "service", "backend", "reason"],
        "Ejections of a backend.";
    EJECTED: Gauge "nodemesh_backend_ejected" ["1"] &["namespace", "service", "backend", "state"],
        "1 in the state that an ejected backend is in: it waits for its time to be over, or one connection shows what it can.";
    FAILURES: Gauge "nodemesh_backend_failures" ["failures"] &["namespace", "service", "backend", "kind"],
        "Failures of a backend in a row, which eject it when they are as many as the policy says.";
    BACKEND_WEIGHT: Gauge "nodemesh_backend_weight" ["1"] &["namespace", "service", "backend", "state"],
        "Configured weight of a backend, with its state.";
    REFUSALS: Counter "nodemesh_refusals_total" ["connections"] &["namespace", "service", "reason"],
        "Connections and datagrams that the kernel refused with an errno.";
} }

group! { PACKET_PATH "The packet path"
    "Counted in the kernel where packets of clients outside the mesh are translated; 0 on a node without a packet path. Flows are counted \
     on their backends as connections are, above." &[], {
    PACKETS: Counter "nodemesh_packet_path_packets_total" ["packets"] &["verdict"],
        "Packets by what became of them: sent on, passed untouched, or dropped, with the reason. Packets for nobody's service are not counted.";
    PACKET_BYTES: Counter "nodemesh_packet_path_bytes_total" ["bytes"] &["verdict"],
        "Bytes of these packets, from the IP header on.";
    FLOW_EVENTS: Counter "nodemesh_flow_events_total" ["flows"] &["event"],
        "Flows that were opened, that ended, or that had to make room for others.";
    FLOW_TABLE_ENTRIES: Gauge "nodemesh_flow_table_entries" ["flows"] &[],
        "Flows in the kernel's table.";
    FLOW_TABLE_LIMIT: Gauge "nodemesh_flow_table_limit" ["flows"] &[],
        "Flows that the table has room for, 0 without a packet path.";
    FLOWS: Gauge "nodemesh_flows" ["flows"] &["state"],
        "Flows by state, as of the last look, at most a second ago.";
    PACKET_INTERFACE: Gauge "nodemesh_packet_interface_attached" ["1"] &["interface", "xdp"],
        "1 if the kernel runs the programs of the packet path on an interface that is named or matched, 0 if not; with how XDP runs there.";
    PACKET_PROBLEMS: Gauge "nodemesh_packet_path_problems" ["problems"] &[],
        "What keeps the packet path from working as it is asked to; `nodemesh status` tells each.";
} }

group! { NODE "The node"
    "How the agent and the kernel's programs are doing." &[], {
    TABLE_ENTRIES: Gauge "nodemesh_connection_table_entries" ["connections"] &[],
        "Connections in the kernel's table.";
    TABLE_LIMIT: Gauge "nodemesh_connection_table_limit" ["connections"] &[],
        "Most connections that are tracked at once, 0 for no limit.";
    TABLE_UNTRACKED: Counter "nodemesh_connection_table_untracked_total" ["connections"] &[],
        "Connections that were placed but neither counted nor metered, since the table was full.";
    ADOPTED: Gauge "nodemesh_adopted_connections" ["connections"] &[],
        "Connections older than the agent that it took into the table at its start.";
    METER_PATH: Gauge "nodemesh_meter_path_info" ["1"] &["path"],
        "1, labelled with where the meter's events come from.";
    STREAMS_LOST: Counter "nodemesh_http2_streams_lost_total" ["streams"] &[],
        "HTTP/2 streams that were not metered for lack of memory.";
    ACCESS_RECORDS: Counter "nodemesh_access_log_records_total" ["lines"] &[],
        "Lines written to the access log.";
    ACCESS_LOST: Counter "nodemesh_access_log_lost_total" ["lines"] &[],
        "Records of the access log that were lost because their reader or writer was behind.";
    EVENTS: Counter "nodemesh_events_total" ["events"] &["kind", "reason"],
        "How often what `nodemesh monitor` tells of happened, since the agent started; the reason is empty for a kind that needs none.";
    EVENTS_LOST: Counter "nodemesh_events_lost_total" ["events"] &["stage"],
        "Events that were lost: for all readers where they were recorded or named, or for a reader that was behind.";
    CORRECTIONS: Counter "nodemesh_in_flight_corrections_total" ["corrections"] &[],
        "Corrections of a number of requests in flight that differed from the records. Must stay 0.";
    SWEEP_DURATION: Gauge "nodemesh_sweep_duration_seconds" ["seconds"] &[],
        "Duration of the last pass over the open requests.";
    MAP_ENTRIES: Gauge "nodemesh_map_entries" ["entries"] &["map"],
        "Entries in use in a kernel map.";
    MAP_CAPACITY: Gauge "nodemesh_map_capacity" ["entries"] &["map"],
        "Entries that a kernel map has room for.";
    NOT_PROGRAMMED: Gauge "nodemesh_frontends_not_programmed" ["frontends"] &["reason"],
        "Addresses of services that are not in the kernel as configured.";
    INTERNAL_ERRORS: Counter "nodemesh_datapath_errors_total" ["errors"] &["reason"],
        "Internal errors of the kernel programs.";
    ATTACHED_PROGRAMS: Gauge "nodemesh_attached_programs" ["1"] &["program"],
        "1 if the kernel runs a program at its hook, 0 if it does not and the agent cannot put that right.";
    ATTACHMENT_REPAIRS: Counter "nodemesh_attachment_repairs_total" ["repairs"] &["fault"],
        "What was put right of what is attached and pinned, by what another tool had done to it.";
    PROGRAM_RUNS: Counter "nodemesh_program_runs_total" ["runs"] &["program"],
        "Runs of a kernel program while statistics are on.";
    PROGRAM_TIME: Counter "nodemesh_program_run_seconds_total" ["seconds"] &["program"],
        "Time spent in a kernel program while statistics are on.";
    CONFIG_GENERATION: Gauge "nodemesh_config_generation" ["1"] &[],
        "Number of the configuration that the kernel has.";
    CONFIG_VALID: Gauge "nodemesh_config_last_reload_successful" ["1"] &[],
        "1 if the last reload took effect, 0 if an earlier configuration stays in force.";
    CONFIG_TIME: Gauge "nodemesh_config_last_reload_success_timestamp_seconds" ["seconds"] &[],
        "Unix time of the last reload that took effect.";
    CONFIG_RELOADS: Counter "nodemesh_config_reloads_total" ["reloads"] &["outcome"],
        "Reloads of the configuration.";
    CONFIG_SOURCE: Gauge "nodemesh_config_source_info" ["1"] &["source"],
        "1, labelled with where the configuration comes from.";
    CONTROL_CONNECTED: Gauge "nodemesh_control_connected" ["1"] &[],
        "1 while the agent is connected to a control plane.";
    CONTROL_CONNECTIONS: Counter "nodemesh_control_connections_total" ["connections"] &[],
        "Connections to a control plane that were opened.";
    CONTROL_UPDATED: Gauge "nodemesh_control_last_update_timestamp_seconds" ["seconds"] &[],
        "Unix time at which something was last received from a control plane, 0 before that.";
    CONTROL_SAVED: Gauge "nodemesh_control_last_save_timestamp_seconds" ["seconds"] &[],
        "Unix time at which the control plane's state was last written to disk, 0 before that.";
    CONTROL_NACKS: Counter "nodemesh_control_nacks_total" ["responses"] &[],
        "Responses of a control plane that were refused, in part or as a whole.";
    CONTROL_RESOURCES: Gauge "nodemesh_control_resources" ["resources"] &["problem"],
        "Resources of the control plane that are refused, fields of them that have no effect, services that wait for a resource.";
    BUILD_INFO: Gauge "nodemesh_build_info" ["1"] &["version", "commit", "abi"],
        "1, labelled with what is running.";
} }

group! { SHORTCUT "Shortcut"
    "Messages between two sockets of this node that may go past TCP. Counted once per `send()` of a socket that is enrolled."
    &[], {
    SHORT_MESSAGES: Counter "nodemesh_shortcut_messages_total" ["messages"] &["route"],
        "Messages of enrolled sockets: `shortcut`, or why they went by TCP.";
    SHORT_BYTES: Counter "nodemesh_shortcut_bytes_total" ["bytes"] &["route"],
        "Their bytes.";
    SHORT_SOCKETS: Gauge "nodemesh_shortcut_sockets" ["sockets"] &[],
        "Sockets that are enrolled.";
    SHORT_STATE: Gauge "nodemesh_shortcut_state_info" ["1"] &["state", "reason"],
        "1, labelled with whether the shortcut may be taken on this node, and why.";
    SHORT_PROPERTY: Gauge "nodemesh_shortcut_property" ["1"] &["property", "effect"],
        "1 if a property of the self-test holds on this kernel, 0 if not; `effect` is what follows if it does not.";
} }

/// All of them.
pub const GROUPS: [Group; 5] = [STREAMS, PLACEMENT, PACKET_PATH, NODE, SHORTCUT];

/// Every family, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Family> {
    GROUPS.iter().flat_map(|group| group.families)
}
