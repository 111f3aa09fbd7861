// SPDX-License-Identifier: Apache-2.0
//! Every program of the object: its name, how it is loaded and where it is attached. One table, used by `loader`,
//! `attach` and the metrics.
//!
//! Invariant: the table and the object file name the same programs; the loader fails if they do not.

use aya_obj::generated::bpf_attach_type;
use nodemesh_abi::{
    MeterPath,
    names::{map, program},
};

/// How a program meets the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// At a hook of the cgroup root.
    Cgroup(bpf_attach_type),
    /// At a BTF tracepoint, for the whole host.
    Tracepoint(&'static str),
    /// At every socket that is put into this map of sockets.
    Sockets(&'static str),
    /// At a tcx hook of the interfaces of the packet path.
    Tcx(bpf_attach_type),
    /// At the XDP hook of those where that is wanted.
    Xdp,
    /// As an iterator over a kind of kernel object, when asked.
    Iterator(&'static str),
    /// Never attached: run by the agent itself.
    TestRun,
    /// The same, and looks like a program for packets.
    PacketTestRun,
}

impl Hook {
    /// Whether a program stays attached there.
    pub fn stays(self) -> bool {
        matches!(self, Self::Cgroup(_) | Self::Tracepoint(_) | Self::Sockets(_))
    }
}

/// One program.
#[derive(Clone, Copy, Debug)]
pub struct ProgramSpec {
    /// Name in the object and in the kernel.
    pub name: &'static str,
    /// Where it belongs.
    pub hook: Hook,
}

impl ProgramSpec {
    /// Whether it is loaded, and attached if it has a hook.
    pub fn is_used(&self, using: Use) -> bool {
        match self.name {
            program::CARRY => using.carries,
            // Without the tracepoints, nobody would see what is read.
            program::HAND_OVER | program::REJOIN => using.meter_path == MeterPath::Tracepoint,
            _ if self.is_of_packet_path() => using.has_packet_path,
            name if BYTE_EVENTS.contains(&name) => using.meter_path == MeterPath::Tracepoint,
            name if PACKETS.contains(&name) => using.meter_path != MeterPath::Off,
            _ => true,
        }
    }

    /// Whether it is loaded only where there is a packet path.
    fn is_of_packet_path(&self) -> bool {
        self.is_at_interfaces() || self.hook == Hook::PacketTestRun
    }

    /// Whether its hooks are those of interfaces, each with a link of its own.
    pub fn is_at_interfaces(&self) -> bool {
        matches!(self.hook, Hook::Tcx(_) | Hook::Xdp)
    }

    /// Whether it stays attached to a hook of which there is one.
    pub fn is_attached(&self) -> bool {
        self.hook.stays()
    }
}

/// What decides which programs are used.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// Where the meter's byte events come from.
    pub meter_path: MeterPath,
    /// Whether records of another version of the ABI are to be copied.
    pub carries: bool,
    /// Whether there is a packet path.
    pub has_packet_path: bool,
}

/// The programs that the kernel verifies for longest, in this order. Only the duration of a start depends on it.
pub const SLOWEST: &[&str] = &[
    program::EGRESS,
    program::INGRESS,
    program::RECV_LENGTH,
    program::CONNECT4,
    program::FLOW_INGRESS,
    program::CONNECT6,
    program::SENDMSG6,
    program::SET_STATE,
    program::SENDMSG4,
    program::SEND_LENGTH,
    program::HAND_OVER,
];

/// Programs that see the meter's byte events at tracepoints of their own.
const BYTE_EVENTS: [&str; 2] = [program::SEND_LENGTH, program::RECV_LENGTH];

/// Programs that read requests in packets.
const PACKETS: [&str; 2] = [program::EGRESS, program::INGRESS];

/// The tracepoints of [`MeterPath::Tracepoint`].
pub fn byte_event_tracepoints() -> impl Iterator<Item = &'static str> {
    PROGRAMS.iter().filter_map(|spec| match spec.hook {
        Hook::Tracepoint(name) if BYTE_EVENTS.contains(&spec.name) => Some(name),
        _ => None,
    })
}

macro_rules! specs {
    ($($name:ident: $hook:expr),+ $(,)?) => { &[$(ProgramSpec { name: program::$name, hook: $hook }),+] };
}

/// All programs, in the order of attachment: whoever ends a record is there before whoever begins one.
pub const PROGRAMS: &[ProgramSpec] = specs! {
    WHOAMI: Hook::TestRun,
    CORRECT: Hook::TestRun,
    JUDGE: Hook::TestRun,
    LIST_CONNECTIONS: Hook::Iterator("bpf_sk_storage_map"),
    SWEEP: Hook::Iterator("bpf_sk_storage_map"),
    ENLIST: Hook::Iterator("bpf_sk_storage_map"),
    REJOIN: Hook::Iterator("bpf_sk_storage_map"),
    CARRY: Hook::Iterator("bpf_sk_storage_map"),
    ADOPT: Hook::Iterator("task_file"),
    FLOW_SWEEP: Hook::PacketTestRun,
    FLOW_EGRESS: Hook::Tcx(bpf_attach_type::BPF_TCX_EGRESS),
    FLOW_INGRESS: Hook::Tcx(bpf_attach_type::BPF_TCX_INGRESS),
    FLOW_XDP: Hook::Xdp,
    SOCK_RELEASE: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE),
    SEND_LENGTH: Hook::Tracepoint("sock_send_length"),
    RECV_LENGTH: Hook::Tracepoint("sock_recv_length"),
    HAND_OVER: Hook::Sockets(map::SHORT_SOCKS),
    EGRESS: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET_EGRESS),
    INGRESS: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET_INGRESS),
    RETRANSMIT: Hook::Tracepoint("tcp_retransmit_skb"),
    SET_STATE: Hook::Tracepoint("inet_sock_set_state"),
    SOCK_OPS: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_SOCK_OPS),
    GETPEERNAME4: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET4_GETPEERNAME),
    GETPEERNAME6: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET6_GETPEERNAME),
    RECVMSG4: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_UDP4_RECVMSG),
    RECVMSG6: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_UDP6_RECVMSG),
    SENDMSG4: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG),
    SENDMSG6: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG),
    CONNECT4: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET4_CONNECT),
    CONNECT6: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET6_CONNECT),
};
