// SPDX-License-Identifier: Apache-2.0
//! Filters, orders and descriptions of connections, on records made by hand.

use std::net::IpAddr;

use nodemesh_abi::{
    Meter,
    flow::{FlowState, track::ticks},
};
use zerocopy::FromZeros as _;

use super::*;
use crate::sweep::StallLimits;

const SECOND: u64 = 1_000_000_000;
const NOW: u64 = 1_000 * SECOND;

/// A connection to replica `10.0.0.<replica>` with an open response that is silent for `quiet` seconds.
fn streaming(replica: u8, quiet: u64) -> ListedConnection {
    let mut record = ListedConnection::new_zeroed();
    let addr = |last: u8| IpAddr::from([10, 0, 0, last]).into();
    let connection = &mut record.connection;
    connection.state = ConnectionState::Established as u32;
    (connection.backend_addr, connection.backend_port) = (addr(replica), Port::new(9_000));
    (connection.service_addr, connection.service_port) = (addr(200), Port::new(80));
    (connection.client_addr, connection.client_port) = (addr(100), Port::new(40_000));
    connection.opened_ns = NOW - 60 * SECOND;
    connection.protocol = 6;
    connection.meter = Meter {
        phase: Phase::Response as u8,
        wire: Wire::Tls as u8,
        open: 1,
        requests: 3,
        bytes_up: 100,
        bytes_down: 1_000,
        last_ns: NOW - quiet * SECOND,
        ..Meter::default()
    };
    connection.meter.exchange.start_ns = NOW - 20 * SECOND;
    connection.meter.exchange.first_token_ns = NOW - 19 * SECOND;
    record.tcp_state = 1;
    record.rtt_us = 250;
    record
}

/// Rows with traffic whose responses are never silent for more than five seconds.
fn sweep() -> Arc<Sweep> {
    let limits = StallLimits {
        request_ns: 30 * SECOND,
        response_ns: 5 * SECOND,
    };
    Arc::new(Sweep {
        limits: [(0, limits)].into(),
        ..Sweep::default()
    })
}

fn select(query: ConnectionQuery, records: &[ListedConnection]) -> Vec<api::Connection> {
    select_of(query, records, &[])
}

fn select_of(query: ConnectionQuery, records: &[ListedConnection], flows: &[Track]) -> Vec<api::Connection> {
    let describer = Describer::new(query, Arc::default(), sweep(), NOW).unwrap();
    let list = |visit: &mut dyn FnMut(&ListedConnection)| {
        records.iter().for_each(visit);
        Ok(())
    };
    let list_flows = |visit: &mut dyn FnMut(&Track)| {
        flows.iter().for_each(visit);
        Ok(())
    };
    let selected = describer.select(list, list_flows);
    let mut text = Vec::new();
    let send = |part: Vec<u8>| {
        text.extend(part);
        true
    };
    selected.unwrap().send(send).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn backends(query: ConnectionQuery, records: &[ListedConnection]) -> Vec<String> {
    let told = select(query, records).into_iter();
    told.map(|connection| connection.backend.trim_end_matches(":9000").to_owned())
        .collect()
}

#[test]
fn everything_about_a_connection_is_told() {
    let [told] = &select(ConnectionQuery::default(), &[streaming(1, 7)])[..] else {
        panic!("one connection")
    };
    assert_eq!(
        (&*told.service, &*told.service_address),
        ("10.0.0.200:80", "10.0.0.200:80")
    );
    assert_eq!(
        (told.client.as_deref(), &*told.backend),
        (Some("10.0.0.100:40000"), "10.0.0.1:9000")
    );
    assert_eq!(
        (&*told.protocol, &*told.wire, &*told.tcp_state),
        ("TCP", "tls", "ESTAB")
    );
    assert_eq!(
        (told.phase, told.stalled, told.vantage),
        (api::Phase::Stream, true, api::Vantage::Client)
    );
    assert_eq!(
        (told.age_seconds, told.request_age_seconds, told.quiet_seconds),
        (60.0, Some(20.0), Some(7.0))
    );
    assert_eq!((told.request_bytes, told.response_bytes), (100, 1_000));
    assert_eq!(
        (told.requests_in_flight, told.requests_total, told.rtt_seconds),
        (1, 3, Some(0.000_25))
    );
}

#[test]
fn what_is_not_known_is_absent() {
    let mut fresh = streaming(1, 0);
    fresh.connection.client_port = Port::new(0);
    fresh.connection.state = ConnectionState::Connecting as u32;
    fresh.connection.meter = Meter::default();
    (fresh.tcp_state, fresh.rtt_us) = (2, 0);
    let [told] = &select(ConnectionQuery::default(), &[fresh])[..] else {
        panic!("one connection")
    };
    assert_eq!(
        (told.client.as_deref(), told.rtt_seconds, told.quiet_seconds),
        (None, None, None)
    );
    assert_eq!((told.phase, told.request_age_seconds), (api::Phase::Idle, None));
    assert_eq!((&*told.state, &*told.tcp_state), ("connecting", "SYN-SENT"));
    assert_eq!(tcp_state(99), "UNKNOWN");
}

#[test]
fn at_the_server_nobody_knows_what_was_dialled() {
    let mut accepted = streaming(1, 0);
    accepted.connection.service_addr = Ip16::UNSPECIFIED;
    accepted.connection.meter.vantage = Vantage::Server as u8;
    let [told] = &select(ConnectionQuery::default(), &[accepted])[..] else {
        panic!("one connection")
    };
    assert_eq!(
        (&*told.service_address, &*told.service),
        ("10.0.0.1:9000", "10.0.0.1:9000")
    );
    assert_eq!(told.vantage, api::Vantage::Server);
}

/// Four connections, to replicas 1 to 4: one stalled, one a second old, one idle, one at the server's vantage.
fn four() -> [ListedConnection; 4] {
    let mut young = streaming(2, 0);
    young.connection.opened_ns = NOW - SECOND;
    let mut idle = streaming(3, 50);
    idle.connection.meter.phase = Phase::Idle as u8;
    idle.connection.meter.open = 0;
    let mut server = streaming(4, 0);
    server.connection.meter.vantage = Vantage::Server as u8;
    [streaming(1, 9), young, idle, server]
}

#[test]
fn filters_combine() {
    let all = four();
    let none = ConnectionQuery::default;
    for (query, expected) in [
        (none(), vec!["10.0.0.1", "10.0.0.3", "10.0.0.4", "10.0.0.2"]),
        (
            ConnectionQuery {
                phase: Some(api::Phase::Idle),
                ..none()
            },
            vec!["10.0.0.3"],
        ),
        (
            ConnectionQuery {
                vantage: Some(api::Vantage::Server),
                ..none()
            },
            vec!["10.0.0.4"],
        ),
        (
            ConnectionQuery {
                older_than: Some(2.0),
                vantage: Some(api::Vantage::Client),
                ..none()
            },
            vec!["10.0.0.1", "10.0.0.3"],
        ),
        (
            ConnectionQuery {
                stalled: true,
                ..none()
            },
            vec!["10.0.0.1"],
        ),
        (
            ConnectionQuery {
                backend: Some("10.0.0.2:9000".into()),
                ..none()
            },
            vec!["10.0.0.2"],
        ),
        (
            ConnectionQuery {
                service: Some("10.0.0.4:9000".into()),
                ..none()
            },
            vec!["10.0.0.4"],
        ),
        (
            ConnectionQuery {
                service: Some("models/other".into()),
                ..none()
            },
            vec![],
        ),
    ] {
        assert_eq!(backends(query.clone(), &all), expected, "{query:?}");
    }
}

#[test]
fn the_largest_comes_first_and_a_limit_keeps_it() {
    let mut records = [streaming(1, 2), streaming(2, 9), streaming(3, 4)];
    (records[0].rtt_us, records[2].retransmits) = (9_000, 5);
    records[2].connection.meter.bytes_up = 1 << 20;
    records[0].connection.meter.requests = 77;
    records[1].connection.meter.exchange.start_ns = NOW - 40 * SECOND;
    for (sort, expected) in [
        (Sort::Quiet, "10.0.0.2"),
        (Sort::Rtt, "10.0.0.1"),
        (Sort::Retransmits, "10.0.0.3"),
        (Sort::Bytes, "10.0.0.3"),
        (Sort::Requests, "10.0.0.1"),
        (Sort::Request, "10.0.0.2"),
    ] {
        let query = ConnectionQuery {
            sort,
            limit: Some(1),
            ..ConnectionQuery::default()
        };
        assert_eq!(backends(query, &records), [expected], "{sort:?}");
    }
}

#[test]
fn a_backend_that_is_no_address_is_refused() {
    let query = ConnectionQuery {
        backend: Some("replica-1".into()),
        ..ConnectionQuery::default()
    };
    let error = Describer::new(query, Arc::default(), sweep(), NOW).err().unwrap();
    assert!(error.to_string().contains("write ip:port"), "{error:#}");
}

#[test]
fn nothing_selected_is_an_empty_list() {
    assert!(select(ConnectionQuery::default(), &[]).is_empty());
}

#[test]
fn sending_ends_when_nobody_wants_more() {
    let records: Vec<ListedConnection> = std::iter::repeat_n(streaming(1, 0), 2_000).collect();
    let describer = Describer::new(ConnectionQuery::default(), Arc::default(), sweep(), NOW).unwrap();
    let list = |visit: &mut dyn FnMut(&ListedConnection)| {
        records.iter().for_each(visit);
        Ok(())
    };
    let selected = describer.select(list, |_| Ok(()));
    let mut parts = 0;
    let send = |_| {
        parts += 1;
        false
    };
    selected.unwrap().send(send).unwrap();
    assert_eq!(parts, 1);
}

/// A flow to replica `10.0.0.<replica>` that was opened so many seconds ago.
fn flow(replica: u8, age: u64) -> Track {
    let addr = |last: u8| IpAddr::from([10, 0, 0, last]).into();
    let mut flow = Track::new_zeroed();
    flow.life = FlowState::Established as u32;
    (flow.client, flow.client_port) = (addr(100), Port::new(40_000));
    (flow.service, flow.service_port) = (addr(200), Port::new(80));
    (flow.backend, flow.backend_port) = (addr(replica), Port::new(9_000));
    (flow.nat, flow.nat_port) = (addr(1), Port::new(20_000));
    flow.protocol = 6;
    flow.opened = ticks(NOW - age * SECOND);
    flow.seen = ticks(NOW - SECOND);
    (flow.bytes_up, flow.bytes_down) = (10, 20_000);
    flow
}

#[test]
fn flows_are_listed_beside_sockets_and_told_apart() {
    let (records, flows) = ([streaming(1, 7)], [flow(2, 90), flow(3, 30)]);
    let shown = |query: ConnectionQuery| -> Vec<(String, Path)> {
        let told = select_of(query, &records, &flows).into_iter();
        told.map(|told| (told.backend.trim_end_matches(":9000").to_owned(), told.path))
            .collect()
    };
    let (first, second, third) = (
        ("10.0.0.2".to_owned(), Path::Packet),
        ("10.0.0.1".to_owned(), Path::Socket),
        ("10.0.0.3".to_owned(), Path::Packet),
    );
    let all = ConnectionQuery::default;
    assert_eq!(
        shown(all()),
        [first.clone(), second.clone(), third.clone()],
        "by age"
    );
    let by_bytes = ConnectionQuery {
        sort: Sort::Bytes,
        limit: Some(1),
        ..all()
    };
    assert_eq!(shown(by_bytes), std::slice::from_ref(&first));
    let of = |path| ConnectionQuery {
        path: Some(path),
        ..all()
    };
    assert_eq!(shown(of(Path::Socket)), std::slice::from_ref(&second));
    assert_eq!(shown(of(Path::Packet)), [first.clone(), third]);
    let old = ConnectionQuery {
        older_than: Some(80.0),
        ..all()
    };
    assert_eq!(shown(old), [first]);
    let client = ConnectionQuery {
        vantage: Some(api::Vantage::Client),
        ..all()
    };
    assert_eq!(shown(client), [second]);
    let [told] = &select_of(all(), &[], &flows[..1])[..] else {
        panic!("one flow")
    };
    assert_eq!(
        (
            &*told.state,
            told.seen_as.as_deref(),
            told.client.as_deref(),
            told.request_bytes
        ),
        (
            "established",
            Some("10.0.0.1:20000"),
            Some("10.0.0.100:40000"),
            10
        )
    );
}
