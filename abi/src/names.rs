// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! Names of maps, programs and globals as they stand in the object file, in bpffs and in metrics.
//!
//! Invariant: map and program names fit the kernel's limit of 15 bytes (`BPF_OBJ_NAME_LEN` less its terminator), so
//! `bpftool` shows them whole.

macro_rules! names {
    ($($(#[$doc:meta])* $const:ident = $name:literal;)+) => {
        $($(#[$doc])* pub const $const: &str = { assert!($name.len() <= 15); $name };)+
    };
}

/// Maps.
pub mod map {
    names! {
        /// `ServiceKey` to `Service`.
        SERVICES = "services";
        /// Service id to an array of `Slot`.
        SLOT_TABLES = "slot_tables";
        /// Service id and tier to an array of `Slot`, see `service::tier_table`.
        TIER_TABLES = "tier_tables";
        /// Service id to `ServiceState`.
        SERVICE_STATES = "service_states";
        /// Backend id to `Backend`.
        BACKENDS = "backends";
        /// Backend id to `BackendState`.
        BACKEND_STATES = "backend_states";
        /// Socket to `Connection`.
        CONNECTIONS = "connections";
        /// `FlowKey` to `FlowValue`.
        FLOWS = "flows";
        /// `AffinityKey` to `AffinityValue`.
        AFFINITY = "affinity";
        /// Cgroup id to `CgroupEntry`.
        CGROUPS = "cgroups";
        /// 0 to `Settings`.
        SETTINGS = "settings";
        /// `InternalError` to a count per CPU.
        ERRORS = "errors";
        /// `EndpointKey` to `Endpoint`.
        ENDPOINTS = "endpoints";
        /// Row of a backend and vantage to `Traffic`.
        TRAFFIC = "traffic";
        /// Socket to `Streams`.
        STREAMS = "streams";
        /// 0 to `TableState`.
        CONN_TABLE = "conn_table";
        /// Prefix to identity.
        IDENTITIES = "identities";
        /// Policy to an array of `AccessWord`.
        POLICIES = "policies";
        /// Number of a service to `Rules`.
        RULES = "rules";
        /// Number of a service to `Held`.
        RULE_STATES = "rule_states";
        /// `ClientRules` to `Held`.
        CLIENTS = "clients";
        /// `NumberKey` to number.
        NUMBERS = "numbers";
        /// `ServiceKey` to `FlowService`.
        FLOW_SERVICES = "flow_services";
        /// Service id to an array of `Slot`: the packet path's Maglev table.
        FLOW_TABLES = "flow_tables";
        /// 0 to `FlowSettings`.
        FLOW_SETTINGS = "flow_settings";
        /// `FlowEvent` to `FlowCount` per CPU.
        FLOW_COUNTS = "flow_counts";
        /// Row to `Track`.
        TRACKS = "tracks";
        /// Number of a set to `IndexSet`.
        TRACK_INDEX = "track_index";
        /// Queue of rows of `tracks` that are free again.
        TRACK_FREE = "track_free";
        /// 0 to `TrackState`.
        TRACK_STATE = "track_state";
        /// Address of a client to `Source`.
        TRACK_SOURCES = "track_sources";
        /// `EventKey` to `EventTally`.
        EVENT_TALLIES = "event_tallies";
        /// Ring buffer of `Event`.
        EVENTS = "events";
        /// Ring buffer of `AccessRecord`.
        ACCESS = "access";
        /// Cookie of a socket to the socket: those that take the shortcut.
        SHORT_SOCKS = "short_socks";
        /// Cookie of a socket to `shortcut::End`.
        SHORT_ENDS = "short_ends";
        /// `shortcut::OfferKey` to `shortcut::Offer`.
        SHORT_OFFERS = "short_offers";
        /// `shortcut::Route` to `shortcut::RouteCount` per CPU.
        SHORT_COUNTS = "short_counts";
        /// `Counting` to `Turn`, per CPU.
        TURNS = "turns";
        /// Ring buffer of `aya-log`.
        LOGS = "AYA_LOGS";
    }
}

/// Programs.
pub mod program {
    names! {
        /// Places TCP and UDP connections, IPv4.
        CONNECT4 = "connect4";
        /// Places TCP and UDP connections, IPv6.
        CONNECT6 = "connect6";
        /// Places datagrams of unconnected sockets, IPv4.
        SENDMSG4 = "sendmsg4";
        /// Places datagrams of unconnected sockets, IPv6.
        SENDMSG6 = "sendmsg6";
        /// Shows the service's address as source of a datagram, IPv4.
        RECVMSG4 = "recvmsg4";
        /// Shows the service's address as source of a datagram, IPv6.
        RECVMSG6 = "recvmsg6";
        /// Shows the service's address as peer, IPv4.
        GETPEERNAME4 = "getpeername4";
        /// Shows the service's address as peer, IPv6.
        GETPEERNAME6 = "getpeername6";
        /// Ends the count of a socket.
        SOCK_RELEASE = "sock_release";
        /// Sees a connection accepted.
        SOCK_OPS = "sock_ops";
        /// Sees a connection established, failed or reset.
        SET_STATE = "set_state";
        /// Meters what an application sends.
        SEND_LENGTH = "send_length";
        /// Meters what an application receives.
        RECV_LENGTH = "recv_length";
        /// Parses what a socket sends; meters it where the tracepoints are missing.
        EGRESS = "egress";
        /// Parses what a socket receives; meters it where the tracepoints are missing.
        INGRESS = "ingress";
        /// Counts segments that are sent again.
        RETRANSMIT = "retransmit";
        /// Hands messages to the other socket of a shortcut.
        HAND_OVER = "hand_over";
        /// Gives the sockets that backends of this node had accepted before a record.
        ADOPT = "adopt";
        /// Lists the connections.
        LIST_CONNECTIONS = "list_conns";
        /// Settles quiet exchanges and lists the connections with open requests.
        SWEEP = "sweep";
        /// Counts open connections that nothing counted when they were opened.
        ENLIST = "enlist";
        /// Lets connections that are open take the shortcut.
        REJOIN = "rejoin";
        /// Copies the records of a former version of the ABI.
        CARRY = "carry";
        /// Adds a difference to a row of `traffic`: the agent's correction of a drift.
        CORRECT = "correct";
        /// Ejects or readmits a backend for the agent.
        JUDGE = "judge";
        /// Translates packets that an interface receives.
        FLOW_INGRESS = "flow_ingress";
        /// Translates the replies that an interface sends.
        FLOW_EGRESS = "flow_egress";
        /// Translates, before the kernel allocates a buffer, what leaves where it came in.
        FLOW_XDP = "flow_xdp";
        /// Ends the flows whose time is over, 64 rows per run.
        FLOW_SWEEP = "flow_sweep";
        /// Tells the agent its process id in the initial pid namespace.
        WHOAMI = "whoami";
    }
}

/// Read-only global that is 1 if the kernel has `bpf_set_retval`, else 0.
pub const HAS_SET_RETVAL: &str = "HAS_SET_RETVAL";

/// Read-only global that holds [`crate::SockOffsets`].
pub const SOCK_OFFSETS: &str = "SOCK_OFFSETS";
/// Read-only global: [`crate::Settings::epoch`] in which the programs at tracepoints are in force.
pub const EPOCH: &str = "EPOCH";
/// Read-only global: bytes of a record that the program `carry` copies.
pub const CARRIED_BYTES: &str = "CARRIED_BYTES";
