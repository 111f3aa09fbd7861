// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! `connect()`: is the address a mesh service, who calls, which backend, and the record of it.
//!
//! Invariant: an address that is no service costs one hash lookup and changes nothing.

use nodemesh_abi::{Protocol, Service, ServiceKey, Settings};

use crate::{
    client::Client,
    lifecycle, log, maps,
    pick::pick,
    sock_addr::{Endpoint, SockAddr},
    stats,
    verdict::Verdict,
};

/// Places a connection.
#[inline(always)]
pub fn connect(socket: &SockAddr<'_>) -> Verdict {
    let dialled = socket.endpoint();
    let protocol = socket.protocol();
    let Some(service) = find(dialled, protocol) else {
        // A socket that a former call placed now dials elsewhere (a UDP socket, or TCP after a failure).
        if protocol == Protocol::Udp as u8 {
            lifecycle::replaced(socket);
        }
        return Verdict::Pass;
    };
    let settings = current_settings();
    let Some(client) = Client::identify(socket, &settings) else {
        return Verdict::Pass;
    };
    lifecycle::replaced(socket);
    match pick(&service, || client.key(socket, service.client_key)) {
        Ok(picked) => {
            log::placed(socket, &settings, dialled, picked.endpoint);
            lifecycle::placed(socket, &service, &client, dialled, &picked);
            Verdict::Rewrite(picked.endpoint)
        }
        Err(refusal) => {
            log::refused(socket, &settings, dialled, refusal);
            stats::refused(service.id, refusal);
            Verdict::Refuse(refusal)
        }
    }
}

/// The service at `dialled`.
#[inline(always)]
pub fn find(dialled: Endpoint, protocol: u8) -> Option<Service> {
    let key = ServiceKey::new(dialled.addr, dialled.port, protocol);
    // SAFETY: copied at once; an update by the agent replaces the element, it does not write into it.
    unsafe { maps::services.get(key) }.copied()
}

/// The agent's settings; all zero if they cannot be read, which exempts nothing and logs nothing.
#[inline(always)]
pub fn current_settings() -> Settings {
    maps::settings.get(0).copied().unwrap_or_default()
}
