// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! `connect()`: is the address a mesh service, who calls, which backend, and the record of it.
//!
//! Invariant: an address that is no service costs one lookup in a hash and one in the socket, and changes nothing.

use nodemesh_abi::{Refusal, Service, ServiceKey, Settings};

use crate::{
    client::Client,
    lifecycle, log, maps,
    pick::{Picked, pick},
    sock_addr::{Endpoint, SockAddr},
    stats,
    verdict::Verdict,
};

/// Places a connection.
#[inline(always)]
pub fn connect(socket: &SockAddr<'_>) -> Verdict {
    let dialled = socket.endpoint();
    let Some(service) = find(dialled, socket.protocol()) else {
        // A socket that an earlier call placed may dial elsewhere now (UDP, or TCP after a failure).
        lifecycle::replaced(socket);
        return Verdict::Pass;
    };
    let settings = current_settings();
    let Some(client) = Client::identify(socket, &settings) else {
        return Verdict::Pass;
    };
    lifecycle::replaced(socket);
    match choose(socket, &settings, &client, &service, dialled) {
        Ok(picked) => {
            lifecycle::placed(socket, &service, &client, dialled, &picked);
            Verdict::Rewrite(picked.endpoint)
        }
        Err(refusal) => Verdict::Refuse(refusal),
    }
}

/// Picks a backend and tells the log; counts a refusal.
#[inline(always)]
pub fn choose(
    socket: &SockAddr<'_>,
    settings: &Settings,
    client: &Client,
    service: &Service,
    dialled: Endpoint,
) -> Result<Picked, Refusal> {
    let choice = pick(service, || client.key(socket, service.client_key));
    match &choice {
        Ok(picked) => log::placed(socket, settings, dialled, picked.endpoint),
        Err(refusal) => {
            log::refused(socket, settings, dialled, *refusal);
            stats::refused(service.id, *refusal);
        }
    }
    choice
}

/// The service at `dialled`.
#[inline(always)]
pub fn find(dialled: Endpoint, protocol: u8) -> Option<Service> {
    let key = ServiceKey::new(dialled.addr, dialled.port, protocol);
    // The kernel may give a replaced element to a later update without waiting for readers: one that an interrupt holds up
    // between the lookup and the copy, for longer than two system calls, could see another service's row.
    // SAFETY: copied at once; an update by the agent replaces the element, it does not write into it.
    unsafe { maps::services.get(key) }.copied()
}

/// The agent's settings; all zero if they cannot be read, which exempts nothing and logs nothing.
#[inline(always)]
pub fn current_settings() -> Settings {
    maps::settings.get(0).copied().unwrap_or_default()
}
