// SPDX-License-Identifier: Apache-2.0
//! Replicas that are removed outright: what becomes of the sockets that lead to them, in whatever network namespace these are.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::net::SocketAddr;

use nodemesh_agent::api::{Event, EventKind};
use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Talk, talk},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    process::{Place, Process},
};
use serde_json::json;

/// A connected UDP socket that is talked over.
struct Datagrams {
    process: Process,
    replica: String,
    said: u32,
}

impl Datagrams {
    fn open(place: &Place, to: SocketAddr) -> Self {
        let script = format!(
            "exec 3<>/dev/udp/{}/{}; while read -r line; do \
             echo \"$line\" >&3 && answer=$(timeout 30 dd bs=2048 count=1 <&3 2>/dev/null) && echo \"$answer\" || echo failed; done",
            to.ip(),
            to.port()
        );
        let process = Process::spawn(place, "/bin/bash".as_ref(), &["-c", &script]).unwrap();
        let mut datagrams = Self {
            process,
            replica: String::new(),
            said: 0,
        };
        let answer = datagrams.says().unwrap();
        datagrams.replica = answer.split_whitespace().next().unwrap().into();
        datagrams
    }

    /// The answer to something new; `None` if the socket failed.
    fn says(&mut self) -> Option<String> {
        self.said += 1;
        let line = format!("line {}", self.said);
        self.process.write_line(&line).unwrap();
        let answers = |said: &str| said == "failed" || said.ends_with(&line);
        let answer = self.process.wait_for_line(answers).unwrap();
        (answer != "failed").then_some(answer)
    }
}

/// What is open, and where it leads.
struct Open {
    tcp: Vec<Talk>,
    udp: Vec<Datagrams>,
    /// To the replica itself, by nobody's leave.
    direct: Talk,
}

fn manifest(replicas: &[&Replica], on_removal: &str) -> Manifest {
    let at = |family: Family| replicas.iter().map(move |replica| replica.at(family));
    let all = || Family::BOTH.into_iter().flat_map(at);
    let policy = |name| {
        Policy::of(name)
            .algorithm("round-robin")
            .set("onRemoval", json!(on_removal))
    };
    let tcp = Service::new("tcp", Family::V4.vip(1)).also_at(Family::V6.vip(1).ip());
    Manifest::of([tcp.to(all())])
        .and(Service::new("udp", Family::V4.vip(2)).udp().to(at(Family::V4)))
        .and(policy("tcp"))
        .and(policy("udp"))
}

/// Sockets of several pods to both replicas.
fn open(bed: &Bed, places: &[Place], gone: &Replica) -> Open {
    let mut open = Open {
        tcp: Vec::new(),
        udp: Vec::new(),
        direct: talk(&bed.client.place(), gone.at(Family::V4)),
    };
    for place in places {
        for _ in 0..2 {
            open.tcp
                .extend(Family::BOTH.map(|family| talk(place, family.vip(1))));
            open.udp.push(Datagrams::open(place, Family::V4.vip(2)));
        }
    }
    open
}

fn removals(bed: &Bed) -> Vec<Event> {
    let kind = EventKind::Closed.word();
    let arguments = ["monitor", "--follow=false", "--kind", kind, "-o", "json"];
    let output = bed.agent.cli(&arguments).unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let events = text.lines().map(|line| serde_json::from_str(line).unwrap());
    events
        .filter(|event: &Event| event.reason.as_deref() == Some("removal"))
        .collect()
}

/// Removes one of two replicas; what is left of the sockets that led there.
fn remove(on_removal: &str, expects_tcp: bool) {
    let mut bed = Bed::new();
    let replicas = bed.replicas(2);
    let other = bed.a.pod("other").unwrap();
    bed.start(&manifest(&[&replicas[0], &replicas[1]], on_removal), &[]);
    let places = [bed.client.place(), other.place()];
    let mut sockets = open(&bed, &places, &replicas[0]);
    let leads = |name: &str| name == replicas[0].name();
    let tcp = sockets.tcp.iter().filter(|talk| leads(&talk.replica)).count();
    let udp = sockets.udp.iter().filter(|socket| leads(&socket.replica)).count();
    assert!((1..8).contains(&tcp) && (1..4).contains(&udp), "{tcp} {udp}");

    bed.apply(&manifest(&[&replicas[1]], on_removal));
    let expected = udp + if expects_tcp { 0 } else { tcp };
    let removed = eventually("the events", || removals(&bed), |events| events.len() >= expected);
    assert_eq!(removed.len(), expected, "{removed:#?}");
    let gone = Family::BOTH.map(|family| Some(replicas[0].at(family).to_string()));
    for event in &removed {
        assert!(gone.contains(&event.backend), "{event:?}");
        let service = match event.protocol.as_deref() {
            Some("UDP") => "models/udp",
            _ => "models/tcp",
        };
        assert_eq!(event.service.as_deref(), Some(service), "{event:?}");
        assert!(event.client_pid.is_some(), "{event:?}");
    }
    for mut talk in sockets.tcp {
        if leads(&talk.replica) && !expects_tcp {
            talk.is_cut();
        } else {
            talk.goes_on();
        }
    }
    for socket in &mut sockets.udp {
        let is_gone = leads(&socket.replica);
        assert_eq!(socket.says().is_none(), is_gone, "{}", socket.replica);
    }
    sockets.direct.goes_on();
    bed.assert_no_internal_error();
}

#[test]
fn by_default_streams_go_on_and_datagrams_end() {
    remove("keep", true);
}

#[test]
fn where_the_policy_says_so_streams_end_too() {
    remove("close", false);
}
