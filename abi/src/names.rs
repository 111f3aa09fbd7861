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
        /// Sees a connection established, failed or reset.
        SET_STATE = "set_state";
        /// Lists the connections.
        LIST_CONNECTIONS = "list_conns";
        /// Tells the agent its process id in the initial pid namespace.
        WHOAMI = "whoami";
    }
}

/// Read-only global that holds [`crate::SockOffsets`].
pub const SOCK_OFFSETS: &str = "SOCK_OFFSETS";
