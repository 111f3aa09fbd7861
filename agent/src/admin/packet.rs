// SPDX-License-Identifier: Apache-2.0
//! The packet path's part of the status, and its flows as connections.

use std::net::IpAddr;

use nodemesh_abi::{
    FlowEvent, Ip16, Port, Track,
    flow::{FlowState, TrackMode, track::ticks},
};

use super::report::{Node, endpoint, protocol};
use crate::{api, names::Names};

impl Node {
    /// How the packet path is; `None` where it is off.
    pub(super) fn packet_status(&self) -> Option<api::PacketStatus> {
        let state = self.packet();
        if !state.is_on {
            return None;
        }
        let nat = state
            .settings
            .into_iter()
            .flat_map(|settings| [settings.nat4, settings.nat6]);
        let labelled = |(label, count): (&str, u64)| (label.to_owned(), count);
        let counts = self.flows.counts().unwrap_or_default();
        let interfaces = state.interfaces.iter().map(|interface| api::PacketInterface {
            name: interface.name.clone(),
            effective: interface.is_effective,
            xdp: interface.xdp.map(|run| run.word().to_owned()),
        });
        let events = FlowEvent::ALL.iter().zip(counts).map(|(event, count)| {
            let (packets, bytes) = (count.packets, count.bytes);
            (event.label().to_owned(), api::PacketEvent { packets, bytes })
        });
        let states = FlowState::ALL.iter().zip(state.by_state);
        let states = states.filter(|(state, _)| **state != FlowState::Free);
        let sources = state.sources.iter().map(|(address, source)| api::PacketSource {
            address: address.to_string(),
            opened: source.opened,
            refused: source.refused,
        });
        Some(api::PacketStatus {
            interfaces: interfaces.collect(),
            problems: state.problems.clone(),
            nat_addresses: nat
                .filter(is_given)
                .map(|address| IpAddr::from(address).to_string())
                .collect(),
            flows: self.flows.state().map_or(state.flows, |table| table.entries),
            flow_limit: state.limit,
            states: states
                .map(|(state, count)| labelled((state.label(), count)))
                .collect(),
            events: events.collect(),
            sources: sources.collect(),
            under_pressure: state.is_under_pressure(),
        })
    }
}

fn is_given(address: &Ip16) -> bool {
    !address.is_unspecified()
}

/// Nanoseconds since a time of a row, `now` being nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn since(moment: u32, now: u64) -> u64 {
    let passed = ticks(now).wrapping_sub(moment);
    // Another CPU may have written a moment later than this one's clock says.
    if passed > u32::MAX / 2 {
        0
    } else {
        u64::from(passed) << 20
    }
}

/// What the API tells of a flow.
pub(super) fn describe(flow: &Track, names: &Names, now: u64) -> api::Connection {
    let state = FlowState::from_raw(flow.life().raw_state());
    let service_address = endpoint(flow.service, flow.service_port);
    let backend = backend(flow, names);
    api::Connection {
        service: service(flow, names).unwrap_or(&service_address).to_owned(),
        protocol: protocol(flow.protocol),
        client: Some(endpoint(flow.client, flow.client_port)),
        client_workload: None,
        client_cgroup: 0,
        client_pid: 0,
        backend: endpoint(backend.0, backend.1),
        state: state.label().to_owned(),
        age_seconds: since(flow.opened, now) as f64 / 1e9,
        vantage: api::Vantage::Node,
        path: api::Path::Packet,
        seen_as: Some(endpoint(flow.nat, flow.nat_port)),
        wire: "unknown".to_owned(),
        tcp_state: state.label().to_owned(),
        adopted: false,
        phase: api::Phase::Opaque,
        requests_in_flight: 0,
        requests_total: 0,
        stalled: false,
        request_age_seconds: None,
        quiet_seconds: Some(since(flow.seen, now) as f64 / 1e9),
        request_bytes: flow.bytes_up,
        response_bytes: flow.bytes_down,
        unread_bytes: 0,
        rtt_seconds: None,
        retransmits: 0,
        cookie: 0,
        service_address,
    }
}

/// Where the backend of a flow listens.
pub(super) fn backend(flow: &Track, names: &Names) -> (Ip16, Port) {
    let translated = (flow.backend, flow.backend_port);
    // Packets that are not translated do not tell whom they are sent to.
    let is_direct = flow.mode == TrackMode::Direct as u8;
    let known = is_direct.then(|| names.address_of(flow.backend_id)).flatten();
    known.unwrap_or(translated)
}

/// The service of a flow, if it is known.
pub(super) fn service<'a>(flow: &Track, names: &'a Names) -> Option<&'a str> {
    names
        .of_backend(flow.backend_id, backend(flow, names))
        .or_else(|| names.of_service(flow.service_id, flow.service))
        .map(|known| known.service.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_row_goes_round() {
        let now = (1_u64 << 52) + (5 << 20);
        assert_eq!(since(ticks(now - (7 << 20)), now), 7 << 20);
        assert_eq!(
            since(ticks(now + (1 << 20)), now),
            0,
            "written by another CPU a moment later"
        );
    }
}
