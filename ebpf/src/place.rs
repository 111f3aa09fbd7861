// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//! `connect()`: is the address a mesh service, who calls, may they, which backend, and the record of it.
//!
//! Invariant: an address that is no service costs one lookup in a hash and one in the socket, and changes nothing.

use aya_ebpf::helpers::generated::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};
use nodemesh_abi::{Refusal, Rules, Service, ServiceKey, Settings};

use crate::{
    client::Client,
    event, lifecycle,
    limit::{self, Taken},
    log, maps,
    pick::{Picked, pick},
    policy,
    sock_addr::{Endpoint, SockAddr},
    stats,
    verdict::Verdict,
};

/// A client at the door of a service.
pub struct Call<'a> {
    /// Its socket.
    pub socket: &'a SockAddr<'a>,
    /// Who it is.
    pub client: &'a Client,
    /// What it dialled.
    pub service: &'a Service,
    /// Where that is.
    pub dialled: Endpoint,
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub now: u64,
}

/// What a call was given.
pub struct Placed {
    /// The backend.
    pub picked: Picked,
    /// What it holds of the service's limits.
    pub taken: Taken,
}

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
    let call = Call {
        socket,
        client: &client,
        service: &service,
        dialled,
        now: now(),
    };
    match call.choose(&settings, true) {
        Ok(placed) => {
            lifecycle::placed(&call, &placed);
            Verdict::Rewrite(placed.picked.endpoint)
        }
        Err(refusal) => call.refuse(refusal),
    }
}

impl Call<'_> {
    /// Asks policy and limits, picks a backend and tells the log; counts a refusal. What it is given is counted for a connection if
    /// `holds`.
    #[inline(always)]
    pub fn choose(&self, settings: &Settings, holds: bool) -> Result<Placed, Refusal> {
        let choice = self.admit(holds);
        match &choice {
            Ok(placed) => log::placed(self.socket, settings, self.dialled, placed.picked.endpoint),
            Err(refusal) => {
                log::refused(self.socket, settings, self.dialled, *refusal);
                stats::refused(self.service.id, *refusal);
                event::refused(self, *refusal);
            }
        }
        choice
    }

    #[inline(always)]
    fn admit(&self, holds: bool) -> Result<Placed, Refusal> {
        let service = self.service;
        if service.policy != 0 && !policy::admits(self) {
            return Err(Refusal::Policy);
        }
        let identity = self.client.identity;
        let taken = match maps::rules.get(service.rules) {
            Some(rules) => limit::admit(rules, service.rules, identity, self.now)?,
            None => Taken(0),
        };
        match pick(service, self.now, holds, || {
            self.client.key(self.socket, service.client_key)
        }) {
            Ok(picked) => {
                if !holds {
                    taken.give_back(service.rules, identity);
                }
                Ok(Placed { picked, taken })
            }
            Err(refusal) => {
                taken.give_back(service.rules, identity);
                if let Some(rules) = maps::rules.get(service.rules) {
                    limit::return_tokens(rules, service.rules, identity);
                }
                Err(refusal)
            }
        }
    }

    /// The verdict for a refusal.
    #[inline(always)]
    pub fn refuse(&self, refusal: Refusal) -> Verdict {
        let excess = maps::rules
            .get(self.service.rules)
            .map_or(0, |rules: &Rules| rules.excess_errno);
        Verdict::Refuse(refusal, excess)
    }
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

/// Whether this program, at a tracepoint, is the one that acts: while an upgrade lasts, its predecessor is attached too. Not for those that
/// count each event: [`crate::turn`].
#[inline(always)]
pub fn is_in_force(settings: &Settings) -> bool {
    settings.epoch_in_force() == maps::EPOCH.load()
}

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: the helper takes no pointer.
    unsafe { bpf_ktime_get_ns() }
}

/// The same as of the last tick of the kernel's clock, some milliseconds ago at most: costs a read of memory.
#[inline(always)]
pub fn coarse_now() -> u64 {
    // SAFETY: the helper takes no pointer.
    unsafe { bpf_ktime_get_coarse_ns() }
}
