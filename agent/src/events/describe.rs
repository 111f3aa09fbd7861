// SPDX-License-Identifier: Apache-2.0
//! Turns the numbers of an event into names. Pure.
//!
//! Invariant: a name is told only where the view confirms it; else the address stands alone.

use std::net::IpAddr;

use nodemesh_abi::{
    Ejection, Event as Record, EventKind as Kind, Ip16, Port, Protocol, Refusal, policy::UNKNOWN,
};

use super::{AgentEvent, Backend, Connection};
use crate::{
    admin::report::endpoint,
    api::{Event, EventKind},
    datapath::clock::TimeOfDay,
    names::Names,
};

/// What events are described by.
pub(super) struct Describer<'a> {
    pub(super) names: &'a Names,
    pub(super) clock: TimeOfDay,
}

impl Describer<'_> {
    /// An event of the programs, with its reason; `None` if its kind or reason is none that they write.
    pub(super) fn record(&self, record: &Record) -> Option<(Event, &'static str)> {
        let kind = *Kind::ALL.get(usize::from(record.kind))?;
        let (kind, reason) = cause(kind, usize::from(record.reason))?;
        let mut event = self.event(kind, reason, record.at_ns);
        if record.backend == u32::MAX {
            self.dialled(&mut event, record);
        } else {
            let backend = (record.addr, record.port);
            self.backend(&mut event, backend);
            let known = self.names.of_backend(record.backend, backend);
            event.service = known.map(|known| known.service.to_string());
        }
        self.client(&mut event, (record.client_addr, Port::new(0)), record.identity);
        event.client_pid = (record.tgid != 0).then_some(record.tgid);
        event.client_cgroup = (record.cgroup != 0).then_some(record.cgroup);
        event.count = (record.count > 1).then_some(record.count);
        let ejected_ns = record
            .until_ns
            .checked_sub(record.at_ns)
            .filter(|_| record.until_ns != 0);
        event.ejected_seconds = ejected_ns.map(|ns| ns as f64 / 1e9);
        Some((event, reason))
    }

    /// An event of the agent, with its reason.
    pub(super) fn told(&self, told: &AgentEvent, at_ns: u64) -> (Event, &'static str) {
        let (kind, reason, backend) = match told {
            AgentEvent::DrainBegan(backend) => (EventKind::Draining, "", backend),
            AgentEvent::DrainEnded(backend) => (EventKind::Drained, "", backend),
            AgentEvent::Closed(connection, closing) => {
                (EventKind::Closed, closing.label(), &connection.backend)
            }
        };
        let mut event = self.event(kind, reason, at_ns);
        let Backend { service, endpoint } = backend;
        event.service = Some(service.to_string());
        self.backend(&mut event, *endpoint);
        if let AgentEvent::Closed(connection, _) = told {
            let Connection { tgid, cgroup, .. } = **connection;
            self.client(&mut event, connection.client, connection.identity);
            event.protocol = Some(protocol(connection.protocol));
            event.client_pid = (tgid != 0).then_some(tgid);
            event.client_cgroup = (cgroup != 0).then_some(cgroup);
        }
        (event, reason)
    }

    fn event(&self, kind: EventKind, reason: &str, at_ns: u64) -> Event {
        let mut event = Event::new(kind, self.clock.text(at_ns), at_ns);
        event.reason = (!reason.is_empty()).then(|| reason.to_owned());
        event
    }

    /// What the client dialled.
    fn dialled(&self, event: &mut Event, record: &Record) {
        event.service_address = Some(endpoint(record.addr, record.port));
        event.protocol = Some(protocol(record.protocol));
        let known = self.names.of_service(record.service, record.addr);
        event.service = known.map(|known| known.service.to_string());
    }

    fn backend(&self, event: &mut Event, backend: (Ip16, Port)) {
        event.backend = Some(endpoint(backend.0, backend.1));
        let workload = self.names.workload_at(backend.0);
        event.backend_workload = workload.map(ToString::to_string);
    }

    fn client(&self, event: &mut Event, (addr, port): (Ip16, Port), identity: u32) {
        if identity != UNKNOWN {
            event.client_identity = self.names.identity(identity).map(str::to_owned);
        }
        if addr.is_unspecified() {
            return;
        }
        event.client = Some(if port.get() == 0 {
            IpAddr::from(addr).to_string()
        } else {
            endpoint(addr, port)
        });
        event.client_workload = self.names.workload_at(addr).map(ToString::to_string);
    }
}

/// The kind in the words of the API, and the word for the number of the reason.
fn cause(kind: Kind, reason: usize) -> Option<(EventKind, &'static str)> {
    Some(match kind {
        Kind::Refused => (EventKind::Refused, Refusal::ALL.get(reason)?.label()),
        Kind::Audited => (EventKind::Audited, Refusal::Policy.label()),
        Kind::Dropped => (EventKind::Dropped, Refusal::Policy.label()),
        Kind::Ejected => (EventKind::Ejected, Ejection::ALL.get(reason)?.label()),
        Kind::Probed => (EventKind::Probed, ""),
        Kind::Readmitted => (EventKind::Readmitted, ""),
    })
}

fn protocol(number: u16) -> String {
    let is_udp = number == Protocol::Udp as u16;
    if is_udp { "UDP" } else { "TCP" }.to_owned()
}
