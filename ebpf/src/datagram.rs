// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! UDP without `connect()`: a socket keeps its backend for each service that it sends to, and sees the service's address
//! as the source of the answers.
//!
//! Invariant: without a UDP service both hooks return after one array lookup.

use aya_ebpf::{EbpfContext as _, helpers::generated::bpf_get_socket_cookie};
use nodemesh_abi::{FlowDirection, FlowKey, FlowValue, InternalError, Protocol, Service};

use crate::{
    client::Client,
    lifecycle, maps,
    pick::Picked,
    place::{Call, current_settings, find, now},
    sock_addr::{Endpoint, SockAddr},
    stats,
    verdict::Verdict,
};

/// Places a datagram that was sent with an address.
#[inline(always)]
pub fn send(socket: &SockAddr<'_>) -> Verdict {
    let settings = current_settings();
    if settings.udp_services == 0 {
        return Verdict::Pass;
    }
    let dialled = socket.endpoint();
    let Some(service) = find(dialled, Protocol::Udp as u8) else {
        return Verdict::Pass;
    };
    let Some(client) = Client::identify(socket, &settings) else {
        return Verdict::Pass;
    };
    // SAFETY: the helper takes the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(socket.ctx.as_ptr()) };
    if let Some(picked) = known(cookie, dialled, &service) {
        expect_answer(cookie, dialled, &picked);
        return Verdict::Rewrite(picked.endpoint);
    }
    let call = Call {
        socket,
        client: &client,
        service: &service,
        dialled,
        now: now(),
    };
    // The end of a flow cannot be seen, so it holds nothing.
    match call.choose(&settings, false) {
        Ok(placed) => {
            remember(cookie, dialled, &placed.picked);
            Verdict::Rewrite(placed.picked.endpoint)
        }
        Err(refusal) => call.refuse(refusal),
    }
}

/// Gives a received datagram the address that the application sent to.
#[inline(always)]
pub fn receive(socket: &SockAddr<'_>) -> Verdict {
    if current_settings().udp_services == 0 {
        return Verdict::Pass;
    }
    let source = socket.endpoint();
    if let Some(service) = lifecycle::service_endpoint(socket, source) {
        return Verdict::Rewrite(service);
    }
    // SAFETY: the helper takes the hook's own context.
    let cookie = unsafe { bpf_get_socket_cookie(socket.ctx.as_ptr()) };
    match flow(cookie, FlowDirection::Reverse, source) {
        Some(flow) => Verdict::Rewrite(Endpoint {
            addr: flow.addr,
            port: flow.port,
        }),
        None => Verdict::Pass,
    }
}

/// The backend that this socket already talks to for the service at `dialled`.
#[inline(always)]
fn known(cookie: u64, dialled: Endpoint, service: &Service) -> Option<Picked> {
    let flow = flow(cookie, FlowDirection::Forward, dialled)?;
    let picked = Picked::again(flow.backend, flow.generation)?;
    // The address may have been given to another service since.
    (maps::backends.get(picked.id)?.service == service.id).then_some(picked)
}

#[inline(always)]
fn flow(cookie: u64, direction: FlowDirection, endpoint: Endpoint) -> Option<FlowValue> {
    let key = FlowKey::new(cookie, direction, endpoint.addr, endpoint.port);
    // SAFETY: copied at once; a recycled element gives a backend that `known` checks, or an address of the same socket.
    unsafe { maps::flows.get(key) }.copied()
}

#[inline(always)]
fn remember(cookie: u64, dialled: Endpoint, picked: &Picked) {
    let forward = FlowKey::new(cookie, FlowDirection::Forward, dialled.addr, dialled.port);
    if maps::flows
        .insert(forward, value(picked.endpoint, picked), 0)
        .is_err()
    {
        stats::internal_error(InternalError::FlowRecord);
    }
    expect_answer(cookie, dialled, picked);
}

/// Sees to it that an answer from the backend shows the service that was dialled last: two services of one socket may share
/// a backend, and nothing in an answer tells which of them it is for.
#[inline(always)]
fn expect_answer(cookie: u64, dialled: Endpoint, picked: &Picked) {
    let wire = picked.endpoint;
    let expected = value(dialled, picked);
    if flow(cookie, FlowDirection::Reverse, wire).is_some_and(|known| known == expected) {
        return;
    }
    let reverse = FlowKey::new(cookie, FlowDirection::Reverse, wire.addr, wire.port);
    if maps::flows.insert(reverse, expected, 0).is_err() {
        stats::internal_error(InternalError::FlowRecord);
    }
}

#[inline(always)]
fn value(endpoint: Endpoint, picked: &Picked) -> FlowValue {
    FlowValue {
        addr: endpoint.addr,
        backend: picked.id,
        generation: picked.generation,
        port: endpoint.port,
        pad: [0; 6],
    }
}
