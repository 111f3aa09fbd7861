// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! The kernel programs of nodemesh: every entry point, each of which parses its context, asks a stage to decide and
//! translates the verdict.
//!
//! ```text
//! connect()  ─► connect4/6 ──► place ─► pick ──► rewrite, record in SK_STORAGE
//! sendmsg()  ─► sendmsg4/6 ──► datagram ─► pick ─► rewrite, record in flows
//! recvmsg()  ─► recvmsg4/6 ──► datagram         ─► the service's address again
//! getpeername() ─► getpeername4/6 ─► lifecycle  ─► the service's address again
//! accept()   ─► sock_ops ───► lifecycle         ─► metered at the server
//! TCP state  ─► set_state ──► lifecycle         ─► established, failed, reset
//! send(), recv() ─► send_length, recv_length ──► meter ─► requests, first tokens, gaps
//! send() of an end ─► hand_over ─► shortcut    ─► the other socket of this node
//! packets    ─► egress, ingress ──► packet      ─► what plaintext shows of them
//! close()    ─► sock_release ► lifecycle        ─► no longer active
//! frames     ─► flow_ingress, flow_egress, flow_xdp ──► flow ─► translated, for clients that no socket hook sees
//! ```
//!
//! Invariant: a socket or datagram that is not for a mesh service leaves every program as it came.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(
    missing_docs,
    reason = "the hook is the documentation of an entry point, and the macros drop comments"
)]
#![expect(
    clippy::needless_pass_by_value,
    reason = "the macros hand each entry point a context of its own"
)]

mod access;
mod adopt;
mod atomic;
mod carry;
mod client;
mod correct;
mod count;
mod datagram;
mod event;
mod flow;
mod health;
mod kernel_sock;
mod lifecycle;
mod limit;
mod listing;
mod log;
mod maps;
mod meter;
mod opaque;
mod packet;
mod pick;
mod place;
mod policy;
mod record;
mod shortcut;
mod sock_addr;
mod stats;
mod turn;
mod verdict;

use aya_ebpf::{
    EbpfContext as _,
    macros::{btf_tracepoint, cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier, sk_msg, sock_ops, xdp},
    programs::{
        BtfTracePointContext, RawTracePointContext, SkBuffContext, SkMsgContext, SockAddrContext,
        SockContext, SockOpsContext, TcContext, XdpContext,
    },
};
use meter::Way;
use sock_addr::{Family, SockAddr};
use verdict::{ALLOW, conclude};

#[cgroup_sock_addr(connect4)]
#[inline(always)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V4);
    conclude(&socket, place::connect(&socket))
}

#[cgroup_sock_addr(connect6)]
#[inline(always)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V6);
    conclude(&socket, place::connect(&socket))
}

#[cgroup_sock_addr(sendmsg4)]
#[inline(always)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V4);
    conclude(&socket, datagram::send(&socket))
}

#[cgroup_sock_addr(sendmsg6)]
#[inline(always)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V6);
    conclude(&socket, datagram::send(&socket))
}

#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V4);
    conclude(&socket, datagram::receive(&socket))
}

#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V6);
    conclude(&socket, datagram::receive(&socket))
}

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V4);
    conclude(&socket, lifecycle::peer_name(&socket))
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    let socket = SockAddr::new(&ctx, Family::V6);
    conclude(&socket, lifecycle::peer_name(&socket))
}

#[cgroup_sock(sock_release)]
#[inline(always)]
pub fn sock_release(ctx: SockContext) -> i32 {
    lifecycle::released(ctx.sock);
    ALLOW
}

#[sock_ops]
#[inline(always)]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    lifecycle::sock_event(ctx.ops);
    ALLOW.cast_unsigned()
}

/// `inet_sock_set_state(const struct sock *sk, const int oldstate, const int newstate)`.
#[btf_tracepoint(function = "inet_sock_set_state")]
#[inline(always)]
pub fn set_state(ctx: BtfTracePointContext) -> i32 {
    lifecycle::state_changed(ctx.arg(0), ctx.arg(1), ctx.arg(2));
    0
}

/// `sock_send_length(struct sock *sk, int ret, int flags)`.
#[btf_tracepoint(function = "sock_send_length")]
#[inline(always)]
pub fn send_length(ctx: BtfTracePointContext) -> i32 {
    meter::transferred(ctx.arg(0), ctx.arg(1), 0, Way::Sent);
    0
}

/// `sock_recv_length(struct sock *sk, int ret, int flags)`; told of `MSG_PEEK` too.
#[btf_tracepoint(function = "sock_recv_length")]
#[inline(always)]
pub fn recv_length(ctx: BtfTracePointContext) -> i32 {
    meter::transferred(ctx.arg(0), ctx.arg(1), ctx.arg(2), Way::Received);
    0
}

/// Never drops: a message goes to the peer's socket, or to TCP.
#[sk_msg]
#[inline(always)]
pub fn hand_over(ctx: SkMsgContext) -> u32 {
    shortcut::send::message(ctx.msg)
}

/// `tcp_retransmit_skb(const struct sock *sk, const struct sk_buff *skb, ...)`.
#[btf_tracepoint(function = "tcp_retransmit_skb")]
pub fn retransmit(ctx: BtfTracePointContext) -> i32 {
    meter::retransmitted(ctx.arg(0));
    0
}

#[cgroup_skb(egress)]
#[inline(always)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    packet::seen(ctx.skb.skb, Way::Sent)
}

#[cgroup_skb(ingress)]
#[inline(always)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    packet::seen(ctx.skb.skb, Way::Received)
}

#[classifier]
pub fn flow_ingress(ctx: TcContext) -> i32 {
    flow::ingress(ctx.skb.skb)
}

#[classifier]
pub fn flow_egress(ctx: TcContext) -> i32 {
    flow::egress(ctx.skb.skb)
}

// Not for frames in several buffers: for these the generic hook makes a copy behind which (Linux 6.18) programs of tcx see no link-layer
// header.
#[xdp]
pub fn flow_xdp(ctx: XdpContext) -> u32 {
    flow::early(ctx.ctx)
}

/// Never attached: run through `BPF_PROG_TEST_RUN`, as often as it takes to look at every row.
#[classifier]
pub fn flow_sweep(_ctx: TcContext) -> i32 {
    flow::sweep();
    0
}

/// One call per socket that has a record, one with a null socket at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn list_conns(ctx: *mut core::ffi::c_void) -> i32 {
    listing::emit(ctx)
}

/// As `list_conns`, but settles quiet exchanges and lists connections with open requests only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn sweep(ctx: *mut core::ffi::c_void) -> i32 {
    listing::sweep(ctx)
}

/// As `list_conns`, but writes nothing: counts connections where caps are new.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn enlist(ctx: *mut core::ffi::c_void) -> i32 {
    listing::enlist(ctx)
}

/// As `list_conns`, but writes nothing: lets connections that are open take the shortcut.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn rejoin(ctx: *mut core::ffi::c_void) -> i32 {
    shortcut::rejoin::visit(ctx)
}

/// As `list_conns`, over the map of another version: copies each record.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/bpf_sk_storage_map")]
pub extern "C" fn carry(ctx: *mut core::ffi::c_void) -> i32 {
    carry::record(ctx)
}

/// One call per open file of each process, one with a null file at the end.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task_file")]
pub extern "C" fn adopt(ctx: *mut core::ffi::c_void) -> i32 {
    adopt::file(ctx)
}

/// Never attached: run through `BPF_PROG_TEST_RUN` with (row, in flight, request bytes) as arguments.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub extern "C" fn correct(ctx: *mut core::ffi::c_void) -> i32 {
    correct::row(&RawTracePointContext::new(ctx.cast()))
}

/// Never attached: run through `BPF_PROG_TEST_RUN` with (backend, generation, nanoseconds or 0, reason) as arguments.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub extern "C" fn judge(ctx: *mut core::ffi::c_void) -> i32 {
    correct::backend(&RawTracePointContext::new(ctx.cast()))
}

/// Never attached: run once through `BPF_PROG_TEST_RUN` by the agent, in the agent's own context. Written without the macro,
/// which drops the return value.
#[unsafe(no_mangle)]
#[unsafe(link_section = "raw_tp/sys_enter")]
pub extern "C" fn whoami(ctx: *mut core::ffi::c_void) -> i32 {
    RawTracePointContext::new(ctx.cast()).tgid().cast_signed()
}

/// Helpers such as `bpf_probe_read_kernel` are for programs under a licence compatible with the GPL.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 4] = *b"GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // The verifier rejects an endless loop: a program in which a panic is reachable does not load.
    loop {}
}
