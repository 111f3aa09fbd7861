// SPDX-License-Identifier: Apache-2.0
//! Every program of the object: its name, how it is loaded and where it is attached. One table, used by `loader`,
//! `attach` and the metrics.
//!
//! Invariant: the table and the object file name the same programs; the loader fails if they do not.

use aya_obj::generated::bpf_attach_type;
use nodemesh_abi::{MeterPath, names::program};

/// How a program meets the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// At a hook of the cgroup root.
    Cgroup(bpf_attach_type),
    /// At a BTF tracepoint, for the whole host.
    Tracepoint(&'static str),
    /// As an iterator over a kind of kernel object, when asked.
    Iterator(&'static str),
    /// At a tcx hook of each interface of the packet path.
    Tcx(bpf_attach_type),
    /// Before it, where XDP is wanted.
    Xdp,
    /// Never attached: run by the agent itself.
    TestRun,
    /// Likewise, as a program for packets.
    PacketTestRun,
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
    /// Whether it is loaded and attached where the meter's byte events take `path`, and there is a packet path or not.
    pub fn is_used(&self, path: MeterPath, has_packet_path: bool) -> bool {
        let is_packet_path = matches!(self.hook, Hook::Tcx(_) | Hook::Xdp | Hook::PacketTestRun);
        match path {
            _ if is_packet_path => has_packet_path,
            MeterPath::Tracepoint => true,
            MeterPath::Packet => !BYTE_EVENTS.contains(&self.name),
        }
    }
}

/// Programs that see the meter's byte events at tracepoints of their own.
const BYTE_EVENTS: [&str; 2] = [program::SEND_LENGTH, program::RECV_LENGTH];

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
    ADOPT: Hook::Iterator("task_file"),
    FLOW_SWEEP: Hook::PacketTestRun,
    FLOW_EGRESS: Hook::Tcx(bpf_attach_type::BPF_TCX_EGRESS),
    FLOW_INGRESS: Hook::Tcx(bpf_attach_type::BPF_TCX_INGRESS),
    FLOW_XDP: Hook::Xdp,
    SOCK_RELEASE: Hook::Cgroup(bpf_attach_type::BPF_CGROUP_INET_SOCK_RELEASE),
    SEND_LENGTH: Hook::Tracepoint("sock_send_length"),
    RECV_LENGTH: Hook::Tracepoint("sock_recv_length"),
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
