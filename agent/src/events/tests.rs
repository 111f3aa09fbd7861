// SPDX-License-Identifier: Apache-2.0
//! Events from end to end, without a kernel: told, named, remembered, followed.

use std::time::{Duration, Instant};

use nodemesh_abi::{Ejection, EventKind as Kind, Protocol, Refusal};
use zerocopy::FromZeros as _;

use super::{
    store::{BEHIND, KEPT},
    *,
};

const PATIENCE: Duration = Duration::from_secs(20);

fn events() -> Events {
    let (_, view) = watch::channel(Arc::default());
    Events::new(view).unwrap()
}

fn address(last: u8) -> (Ip16, Port) {
    (std::net::IpAddr::from([10, 0, 0, last]).into(), Port::new(80))
}

fn refused(at_ns: u64) -> nodemesh_abi::Event {
    let mut record = nodemesh_abi::Event::new_zeroed();
    record.kind = Kind::Refused as u16;
    record.reason = Refusal::Requests as u16;
    record.backend = u32::MAX;
    (record.addr, record.port) = address(9);
    record.client_addr = address(1).0;
    record.protocol = Protocol::Udp as u16;
    (record.at_ns, record.tgid, record.cgroup) = (at_ns, 77, 88);
    record.count = 1;
    record
}

fn backend() -> Backend {
    Backend {
        service: ResourceName::new("models", "chat").unwrap(),
        endpoint: address(2),
    }
}

fn count(events: &Events, cause: (EventKind, &str)) -> u64 {
    let counts = events.counts();
    let found = counts.iter().find(|(found, _)| *found == cause);
    found.unwrap_or_else(|| panic!("no counter for {cause:?}")).1
}

/// Waits until `total` events were named.
fn named(events: &Events, total: u64) {
    let deadline = Instant::now() + PATIENCE;
    while events.counts().iter().map(|(_, count)| count).sum::<u64>() < total {
        assert!(Instant::now() < deadline, "{:?}", events.counts());
        std::thread::yield_now();
    }
}

fn heard(subscription: &mut Subscription) -> Vec<Event> {
    let mut all = Vec::new();
    while let Some(heard) = subscription.next_now() {
        match heard {
            Heard::Event(event) => all.push((*event).clone()),
            Heard::Lost(count) => panic!("{count} events are missing"),
        }
    }
    all
}

#[test]
fn what_programs_write_and_what_the_agent_tells_come_in_one_order() {
    let events = events();
    let mut reader = events.subscribe(0, true);
    let mut ejected = nodemesh_abi::Event::new_zeroed();
    ejected.kind = Kind::Ejected as u16;
    ejected.reason = Ejection::Silence as u16;
    (ejected.backend, ejected.count) = (4, 1);
    (ejected.addr, ejected.port) = address(2);
    (ejected.at_ns, ejected.until_ns) = (20, 2_500_000_020);
    events.push(vec![refused(10), ejected]);
    events.tell(AgentEvent::DrainBegan(backend()));
    let connection = Connection {
        backend: backend(),
        client: address(3),
        identity: 5,
        tgid: 6,
        cgroup: 0,
        protocol: Protocol::Tcp as u16,
    };
    events.tell(AgentEvent::Closed(Box::new(connection), Closing::Policy));
    named(&events, 4);
    let all = heard(&mut reader);
    assert_eq!(all, heard(&mut events.subscribe(0, false)));

    let kinds: Vec<EventKind> = all.iter().map(|event| event.kind).collect();
    let expected = [
        EventKind::Refused,
        EventKind::Ejected,
        EventKind::Draining,
        EventKind::Closed,
    ];
    assert_eq!(kinds, expected);
    let shown: Vec<serde_json::Value> = all
        .iter()
        .map(|event| {
            let mut shown = serde_json::to_value(event).unwrap();
            for key in ["time", "monotonic_ns"] {
                assert!(shown.as_object_mut().unwrap().remove(key).is_some(), "{key}");
            }
            shown
        })
        .collect();
    assert_eq!(
        serde_json::Value::from(shown),
        serde_json::json!([
            {"kind": "refused", "reason": "requests", "service_address": "10.0.0.9:80", "protocol": "UDP",
             "client": "10.0.0.1", "client_pid": 77, "client_cgroup": 88},
            {"kind": "ejected", "reason": "silence", "backend": "10.0.0.2:80", "ejected_seconds": 2.5},
            {"kind": "draining", "service": "models/chat", "backend": "10.0.0.2:80"},
            {"kind": "closed", "reason": "policy", "service": "models/chat", "backend": "10.0.0.2:80",
             "client": "10.0.0.3:80", "client_pid": 6, "protocol": "TCP"},
        ])
    );
    for cause in [
        (EventKind::Refused, "requests"),
        (EventKind::Ejected, "silence"),
        (EventKind::Draining, ""),
        (EventKind::Closed, "policy"),
    ] {
        assert_eq!(count(&events, cause), 1, "{cause:?}");
    }
    assert_eq!(count(&events, (EventKind::Refused, "policy")), 0);
}

#[test]
fn one_event_may_stand_for_many() {
    let events = events();
    let mut many = refused(2);
    many.count = 1_000_000;
    events.push(vec![refused(1), many]);
    named(&events, 1_000_001);
    let told: Vec<Option<u64>> = heard(&mut events.subscribe(0, false))
        .iter()
        .map(|event| event.count)
        .collect();
    assert_eq!(told, [None, Some(1_000_000)]);
    assert_eq!(count(&events, (EventKind::Refused, "requests")), 1_000_001);
}

#[test]
fn a_record_of_no_known_kind_or_reason_is_counted_as_lost() {
    let events = events();
    let mut unknown = refused(1);
    unknown.kind = 99;
    let mut unreasonable = refused(2);
    unreasonable.reason = 99;
    events.push(vec![unknown, unreasonable, refused(3)]);
    named(&events, 1);
    assert_eq!(heard(&mut events.subscribe(0, false)).len(), 1);
    assert_eq!(events.lost().agent, 2);
}

#[test]
fn only_the_last_ones_are_remembered_and_only_those_asked_for_are_shown() {
    let events = events();
    let total = KEPT as u64 + 10;
    for at_ns in 0..total {
        // One by one, so that no batch is too large for the queue.
        events.push(vec![refused(at_ns)]);
        named(&events, at_ns + 1);
    }
    let all = heard(&mut events.subscribe(0, false));
    assert_eq!((all.len(), all[0].monotonic_ns), (KEPT, 10));
    let late = heard(&mut events.subscribe(total - 3, true));
    assert_eq!(late.len(), 3);
    assert_eq!(count(&events, (EventKind::Refused, "requests")), total);
}

#[test]
fn a_reader_that_is_behind_is_told_and_no_other_misses_anything() {
    let events = events();
    let mut slow = events.subscribe(0, true);
    let mut quick = events.subscribe(0, true);
    let total = BEHIND as u64 * 2;
    for at_ns in 0..total {
        events.push(vec![refused(at_ns)]);
        named(&events, at_ns + 1);
        assert_eq!(heard(&mut quick)[0].monotonic_ns, at_ns);
    }
    let missed = total - BEHIND as u64;
    assert_eq!(slow.next_now(), Some(Heard::Lost(missed)));
    let rest = heard(&mut slow);
    assert_eq!((rest.len(), rest[0].monotonic_ns), (BEHIND, missed));
    assert_eq!(
        events.lost(),
        Lost {
            agent: 0,
            readers: missed
        }
    );
}

#[test]
fn whoever_tells_an_event_waits_for_nobody() {
    let (queue, messages) = mpsc::sync_channel(1);
    let events = Events {
        queue,
        store: Arc::default(),
        lost: Arc::default(),
    };
    events.tell(AgentEvent::DrainBegan(backend()));
    events.tell(AgentEvent::DrainEnded(backend()));
    events.push(vec![refused(1), refused(2)]);
    assert_eq!(events.lost().agent, 3);
    drop(messages);
    events.tell(AgentEvent::DrainEnded(backend()));
    assert_eq!(events.lost().agent, 4);
}

#[test]
fn every_event_has_a_counter_from_the_start() {
    let counts = events().counts();
    assert!(counts.iter().all(|(_, count)| *count == 0));
    for kind in EventKind::ALL {
        assert!(counts.iter().any(|((found, _), _)| *found == kind), "{kind:?}");
    }
}
