// SPDX-License-Identifier: Apache-2.0
//! Answer of `GET /v1/connections`: filtered, sorted and limited on the kernel's records, described only when they are sent.
//!
//! Invariant: a list of 200,000 connections is never held as text.

#[cfg(test)]
mod tests;

use std::{cmp::Reverse, collections::HashMap, net::SocketAddr, sync::Arc};

use anyhow::{Context as _, Result};
use axum::{
    body::{Body, Bytes},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use nodemesh_abi::{
    ConnectionState, Ip16, ListedConnection, Phase, Port, Track, Vantage, Wire, meter::MeterFlags,
};
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    packet,
    report::{endpoint, protocol},
};
use crate::{
    api::{self, ConnectionQuery, Path, Sort},
    datapath::{
        flow_maps::FlowReader,
        listing::{ConnectionLister, ListError},
    },
    names::Names,
    reconcile::view::View,
    sweep::{Sweep, activity::quiet_ns},
};

/// Bytes of text that are sent at once.
const CHUNK: usize = 128 * 1024;

/// What a record is described by.
pub struct Describer {
    names: Names,
    sweep: Arc<Sweep>,
    now: u64,
    query: ConnectionQuery,
    /// `query.backend`, parsed.
    backend: Option<(Ip16, Port)>,
}

/// The connections that a query selects, in its order.
pub struct Selected {
    describer: Describer,
    records: Vec<ListedConnection>,
    /// Those of the packet path.
    flows: Vec<Track>,
    /// Indices into `records`, and from its length on into `flows`.
    order: Vec<u32>,
}

impl Describer {
    /// Describes as of `now`, nanoseconds of `CLOCK_MONOTONIC`.
    pub fn new(query: ConnectionQuery, view: Arc<View>, sweep: Arc<Sweep>, now: u64) -> Result<Self> {
        let backend = query.backend.as_deref().map(parse_endpoint).transpose()?;
        Ok(Self {
            names: Names::of(view),
            sweep,
            now,
            query,
            backend,
        })
    }

    /// Selects from what `list` shows, and from the flows that `list_flows` does.
    pub fn select(
        self,
        list: impl FnOnce(&mut dyn FnMut(&ListedConnection)) -> Result<(), ListError>,
        list_flows: impl FnOnce(&mut dyn FnMut(&Track)) -> Result<()>,
    ) -> Result<Selected> {
        let (mut records, mut flows) = (Vec::new(), Vec::new());
        if self.query.path != Some(Path::Packet) {
            list(&mut |record| {
                if self.matches(record) {
                    records.push(*record);
                }
            })?;
        }
        if self.query.path != Some(Path::Socket) {
            list_flows(&mut |flow| {
                if self.matches_flow(flow) {
                    flows.push(*flow);
                }
            })?;
        }
        let of_records = records.iter().map(|record| self.sort_key(record));
        let of_flows = flows.iter().map(|flow| self.flow_sort_key(flow));
        let keys = of_records.chain(of_flows).zip(0..);
        let mut keys: Vec<(Reverse<u64>, u32)> = keys.map(|(key, index)| (Reverse(key), index)).collect();
        keys.sort_unstable();
        keys.truncate(self.query.limit.unwrap_or(usize::MAX));
        Ok(Selected {
            describer: self,
            records,
            flows,
            order: keys.into_iter().map(|(_, index)| index).collect(),
        })
    }

    fn matches(&self, record: &ListedConnection) -> bool {
        let (query, connection) = (&self.query, &record.connection);
        let meter = &connection.meter;
        let vantage = Vantage::from_raw(meter.vantage);
        let backend = (connection.backend_addr, connection.backend_port);
        query.vantage.is_none_or(|wanted| wanted == vantage.into())
            && query.phase.is_none_or(|wanted| wanted == phase(record))
            && self.backend.is_none_or(|wanted| wanted == backend)
            && query
                .older_than
                .is_none_or(|seconds| self.seconds_since(connection.opened_ns) > seconds)
            && (!query.stalled || self.is_stalled(record))
            && query
                .service
                .as_ref()
                .is_none_or(|wanted| self.has_service(record, wanted))
    }

    fn matches_flow(&self, flow: &Track) -> bool {
        let query = &self.query;
        query.vantage.is_none_or(|wanted| wanted == api::Vantage::Node)
            && query.phase.is_none_or(|wanted| wanted == api::Phase::Opaque)
            && self
                .backend
                .is_none_or(|wanted| wanted == packet::backend(flow, &self.names))
            && query
                .older_than
                .is_none_or(|seconds| packet::since(flow.opened, self.now) as f64 / 1e9 > seconds)
            && !query.stalled
            && query.service.as_ref().is_none_or(|wanted| {
                let dialled = || endpoint(flow.service, flow.service_port);
                match packet::service(flow, &self.names) {
                    Some(service) => service == wanted,
                    None => dialled() == *wanted,
                }
            })
    }

    fn flow_sort_key(&self, flow: &Track) -> u64 {
        match self.query.sort {
            Sort::Age => packet::since(flow.opened, self.now),
            Sort::Bytes => flow.bytes_up.saturating_add(flow.bytes_down),
            Sort::Quiet => packet::since(flow.seen, self.now),
            Sort::Request | Sort::Requests | Sort::Rtt | Sort::Retransmits => 0,
        }
    }

    fn sort_key(&self, record: &ListedConnection) -> u64 {
        let meter = &record.connection.meter;
        match self.query.sort {
            Sort::Age => self.now.saturating_sub(record.connection.opened_ns),
            Sort::Bytes => meter.bytes_up.saturating_add(meter.bytes_down),
            Sort::Quiet => quiet_ns(meter, self.now),
            Sort::Request => self.request_age_ns(record).unwrap_or_default(),
            Sort::Requests => meter.requests.into(),
            Sort::Rtt => record.rtt_us.into(),
            Sort::Retransmits => record.retransmits.into(),
        }
    }

    fn seconds_since(&self, moment: u64) -> f64 {
        self.now.saturating_sub(moment) as f64 / 1e9
    }

    fn is_stalled(&self, record: &ListedConnection) -> bool {
        let limits = self.sweep.limits(record.connection.traffic);
        limits.is_stalled(&record.connection.meter, self.now)
    }

    /// Age of the open request; `None` without one and for HTTP/2, whose streams have records of their own.
    fn request_age_ns(&self, record: &ListedConnection) -> Option<u64> {
        let meter = &record.connection.meter;
        let is_open = matches!(Phase::from_raw(meter.phase), Phase::Request | Phase::Response);
        is_open.then(|| self.now.saturating_sub(meter.exchange.start_ns))
    }

    fn service<'a>(&'a self, record: &ListedConnection) -> Option<&'a str> {
        let connection = &record.connection;
        let placed = (connection.backend_addr, connection.backend_port);
        self.names
            .of_backend(connection.backend, placed)
            .or_else(|| self.names.of_service(connection.service, connection.service_addr))
            .map(|known| known.service.as_str())
    }

    fn has_service(&self, record: &ListedConnection, wanted: &str) -> bool {
        match self.service(record) {
            Some(service) => service == wanted,
            None => dialled(record) == wanted,
        }
    }

    /// What the API tells of a record.
    fn describe(&self, record: &ListedConnection, addresses: &mut Addresses) -> api::Connection {
        let connection = &record.connection;
        let meter = &connection.meter;
        let connecting = ConnectionState::from_raw(connection.state) == ConnectionState::Connecting;
        let service_address = dialled(record);
        api::Connection {
            service: self.service(record).unwrap_or(&service_address).to_owned(),
            protocol: protocol(connection.protocol as u8),
            client: (connection.client_port.get() != 0)
                .then(|| endpoint(connection.client_addr, connection.client_port)),
            client_workload: self.names.workload(connection.workload).map(ToString::to_string),
            client_cgroup: connection.cgroup,
            client_pid: connection.tgid,
            service_address,
            backend: addresses.text(connection.backend_addr, connection.backend_port),
            state: if connecting { "connecting" } else { "established" }.to_owned(),
            age_seconds: self.seconds_since(connection.opened_ns),
            vantage: Vantage::from_raw(meter.vantage).into(),
            path: Path::Socket,
            seen_as: None,
            wire: Wire::from_raw(meter.wire).label().to_owned(),
            tcp_state: tcp_state(record.tcp_state).to_owned(),
            adopted: meter.flags & MeterFlags::ADOPTED != 0,
            phase: phase(record),
            requests_in_flight: meter.open,
            requests_total: meter.requests,
            stalled: self.is_stalled(record),
            request_age_seconds: self.request_age_ns(record).map(|ns| ns as f64 / 1e9),
            quiet_seconds: (meter.last_ns != 0).then(|| self.seconds_since(meter.last_ns)),
            request_bytes: meter.bytes_up,
            response_bytes: meter.bytes_down,
            unread_bytes: record.unread,
            rtt_seconds: (record.rtt_us != 0).then(|| f64::from(record.rtt_us) / 1e6),
            retransmits: record.retransmits,
            cookie: connection.cookie,
        }
    }
}

impl Selected {
    /// Lists the node's connections.
    pub fn list(describer: Describer, lister: &ConnectionLister, flows: &FlowReader) -> Result<Self> {
        describer.select(|visit| lister.scan(visit), |visit| Ok(flows.scan(visit)?))
    }

    fn describe(&self, index: usize, addresses: &mut Addresses) -> api::Connection {
        let Describer { names, now, .. } = &self.describer;
        match self.records.get(index) {
            Some(record) => self.describer.describe(record, addresses),
            None => packet::describe(&self.flows[index - self.records.len()], names, *now),
        }
    }

    /// Hands the JSON to `send` part by part, until it says that nobody wants it.
    pub fn send(&self, mut send: impl FnMut(Vec<u8>) -> bool) -> Result<()> {
        let lines = self.describer.query.lines;
        let mut addresses = Addresses::default();
        let mut text = Vec::with_capacity(CHUNK + CHUNK / 8);
        if !lines {
            text.push(b'[');
        }
        for (position, index) in self.order.iter().enumerate() {
            if !lines && position > 0 {
                text.extend_from_slice(b",\n");
            }
            let connection = self.describe(*index as usize, &mut addresses);
            serde_json::to_writer(&mut text, &connection).context("describe a connection")?;
            if lines {
                text.push(b'\n');
            }
            if text.len() >= CHUNK
                && !send(std::mem::replace(
                    &mut text,
                    Vec::with_capacity(CHUNK + CHUNK / 8),
                ))
            {
                return Ok(());
            }
        }
        if !lines {
            text.extend_from_slice(b"]\n");
        }
        send(text);
        Ok(())
    }
}

/// Parts of an answer that may wait for a slow reader.
const PARTS: usize = 4;

impl IntoResponse for Selected {
    /// The connections as JSON, described on a thread of its own while the reader takes what is there.
    fn into_response(self) -> Response {
        let form = if self.describer.query.lines {
            "application/x-ndjson"
        } else {
            "application/json"
        };
        let (sender, mut receiver) = mpsc::channel::<Result<Bytes>>(PARTS);
        spawn_blocking(move || {
            if let Err(error) = self.send(|part| sender.blocking_send(Ok(part.into())).is_ok()) {
                // The reader sees that the answer breaks off; it may be gone, too.
                let _ = sender.blocking_send(Err(error));
            }
        });
        let parts = stream::poll_fn(move |context| receiver.poll_recv(context));
        ([(header::CONTENT_TYPE, form)], Body::from_stream(parts)).into_response()
    }
}

/// Texts of addresses that come again and again.
#[derive(Default)]
struct Addresses {
    texts: HashMap<(Ip16, Port), String>,
}

impl Addresses {
    fn text(&mut self, addr: Ip16, port: Port) -> String {
        let text = self
            .texts
            .entry((addr, port))
            .or_insert_with(|| endpoint(addr, port));
        text.clone()
    }
}

fn phase(record: &ListedConnection) -> api::Phase {
    let meter = &record.connection.meter;
    api::Phase::of(Phase::from_raw(meter.phase), meter.open)
}

/// What the client dialled, as far as this end knows.
fn dialled(record: &ListedConnection) -> String {
    let connection = &record.connection;
    if Vantage::from_raw(connection.meter.vantage) == Vantage::Server {
        endpoint(connection.backend_addr, connection.backend_port)
    } else {
        endpoint(connection.service_addr, connection.service_port)
    }
}

pub(super) fn parse_endpoint(text: &str) -> Result<(Ip16, Port)> {
    let address: SocketAddr = text.parse().with_context(|| {
        format!("`{text}` is no address of a backend; write ip:port, with brackets around IPv6")
    })?;
    Ok((address.ip().to_canonical().into(), Port::new(address.port())))
}

/// The name that `ss` gives to a number of the kernel's `net/tcp_states.h`.
fn tcp_state(number: u32) -> &'static str {
    const NAMES: [&str; 13] = [
        "UNKNOWN",
        "ESTAB",
        "SYN-SENT",
        "SYN-RECV",
        "FIN-WAIT-1",
        "FIN-WAIT-2",
        "TIME-WAIT",
        "UNCONN",
        "CLOSE-WAIT",
        "LAST-ACK",
        "LISTEN",
        "CLOSING",
        "SYN-RECV",
    ];
    NAMES.get(number as usize).copied().unwrap_or(NAMES[0])
}
