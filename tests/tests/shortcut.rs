// SPDX-License-Identifier: Apache-2.0
//! The shortcut: who takes it, what it carries, and how it is left.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{fs, net::SocketAddr};

use aya::maps::MapData;
use nodemesh_agent::shortcut::{Report, State};
use nodemesh_e2e::{
    bed::{Bed, Family, Replica, Talk, talk_polling},
    eventually::eventually,
    manifest::{Manifest, Policy, Service, client_workload},
    scrape::Scrape,
    topology::Pod,
};
use serde_json::json;

/// A policy that switches the shortcut of `service` on or off.
fn policy(service: &str, enabled: bool) -> Policy {
    Policy::of(service).set("shortcut", json!({"enabled": enabled}))
}

/// A service of each family at the replica, with the shortcut switched on or off.
fn manifest(replica: &Replica, enabled: bool) -> Manifest {
    let services = Family::BOTH.map(|family| {
        let name = format!("echo-{family:?}").to_lowercase();
        Service::new(&name, family.vip(1)).to([replica.at(family)])
    });
    Manifest::of(services)
        .and(policy("echo-v4", enabled))
        .and(policy("echo-v6", enabled))
}

/// Messages that went by `route` so far.
fn messages(bed: &Bed, route: &str) -> u64 {
    let (_, text) = bed.agent.http(&bed.a, "/metrics").unwrap();
    let scrape = Scrape::parse(&text).unwrap();
    scrape.count("nodemesh_shortcut_messages_total", &[("route", route)])
}

#[test]
fn sockets_of_one_node_hand_over_what_they_say() {
    let mut bed = Bed::new();
    let neighbour = bed.a.pod("neighbour").unwrap();
    let replica = Replica::start(&neighbour, "local", 9000);
    bed.start(&manifest(&replica, true), &["--shortcut", "force"]);
    for family in Family::BOTH {
        let before = messages(&bed, "shortcut");
        let mut talk = talk_polling(&bed.client.place(), family.vip(1));
        for _ in 0..20 {
            talk.goes_on();
        }
        let handed = messages(&bed, "shortcut") - before;
        assert!(handed >= 30, "{family:?}: {handed} of 40 messages");
    }
    bed.at_rest();
    bed.assert_no_internal_error();
}

/// A bed whose client and replica are on one node, with an agent that was started with `flags`.
fn pair(enabled: bool, flags: &[&str]) -> (Bed, Replica, Pod) {
    let mut bed = Bed::new();
    let neighbour = bed.a.pod("neighbour").unwrap();
    let replica = Replica::start(&neighbour, "local", 9000);
    bed.start(&manifest(&replica, enabled), flags);
    (bed, replica, neighbour)
}

const FORCE: [&str; 2] = ["--shortcut", "force"];
const VIP: fn() -> SocketAddr = || Family::V4.vip(1);

/// Says `count` things; returns how many of the messages, two for each, took the shortcut.
fn handed(bed: &Bed, talk: &mut Talk, count: u64) -> u64 {
    let before = messages(bed, "shortcut");
    for _ in 0..count {
        talk.goes_on();
    }
    messages(bed, "shortcut") - before
}

/// Sockets that are enrolled.
fn enrolled(bed: &Bed) -> u64 {
    let (_, text) = bed.agent.http(&bed.a, "/metrics").unwrap();
    Scrape::parse(&text)
        .unwrap()
        .count("nodemesh_shortcut_sockets", &[])
}

/// Runs of the program that every send of an enrolled socket runs.
fn runs(bed: &Bed) -> u64 {
    let (_, text) = bed.agent.http(&bed.a, "/metrics").unwrap();
    let scrape = Scrape::parse(&text).unwrap();
    scrape.count("nodemesh_program_runs_total", &[("program", "hand_over")])
}

#[test]
fn nobody_is_enrolled_who_did_not_ask_or_whose_peer_is_elsewhere() {
    let mut bed = Bed::new();
    let neighbour = bed.a.pod("neighbour").unwrap();
    let local = Replica::start(&neighbour, "local", 9000);
    let remote = bed.replicas(1);
    let service =
        |name: &str, number, to: &Replica| Service::new(name, Family::V4.vip(number)).to([to.at(Family::V4)]);
    let except = json!({"enabled": true, "exceptPorts": [8000]});
    let services = [
        service("quiet", 1, &local),
        service("excepted", 2, &local),
        service("remote", 3, &remote[0]),
    ];
    let manifest = Manifest::of(services)
        .and(Policy::of("excepted").set("shortcut", except))
        .and(policy("remote", true));
    bed.start(&manifest, &FORCE);
    for number in 1..=3 {
        let mut talk = talk_polling(&bed.client.place(), Family::V4.vip(number));
        assert_eq!(
            (handed(&bed, &mut talk, 10), enrolled(&bed)),
            (0, 0),
            "service {number}"
        );
    }
    assert_eq!(
        runs(&bed),
        0,
        "a send of a socket that is not enrolled ran the program"
    );
    bed.at_rest();
}

#[test]
fn a_cgroup_that_is_opted_out_is_left_to_tcp_at_either_end() {
    let mut bed = Bed::new();
    let neighbour = bed.a.pod("neighbour").unwrap();
    let replica = Replica::start(&neighbour, "local", 9000);
    let flags = [
        &FORCE[..],
        &[
            "--shortcut-exclude-cgroup",
            "quiet",
            "--shortcut-exclude-cgroup",
            "client/quiet",
        ],
    ]
    .concat();
    let (_cgroup, quiet) = bed.nested(&bed.client, "quiet");
    bed.start(&manifest(&replica, true), &flags);
    let mut out = talk_polling(&quiet, VIP());
    assert_eq!((handed(&bed, &mut out, 10), enrolled(&bed)), (0, 0));
    let mut same_pod = talk_polling(&bed.client.place(), VIP());
    assert!(
        handed(&bed, &mut same_pod, 20) >= 30,
        "the rest of the pod is not opted out"
    );
}

#[test]
fn a_workload_opts_in_for_the_connections_that_it_opens() {
    let (bed, replica, _pod) = pair(false, &FORCE);
    let (_cgroup, place) = bed.nested(&bed.client, "eager");
    let excepted = Service::new("excepted", Family::V4.vip(7)).to([replica.at(Family::V4)]);
    let except = json!({"enabled": true, "exceptPorts": [8000]});
    let policy = Policy::of("excepted").set("shortcut", except);
    let labelled = |value: &str| {
        let mut workload = client_workload("eager", "client/eager", None);
        workload["metadata"]["labels"] = json!({"nodemesh.io/shortcut": value});
        manifest(&replica, false)
            .and(excepted.clone())
            .and(policy.clone())
            .and(workload)
    };
    let mut earlier = talk_polling(&place, VIP());
    bed.apply(&labelled("enabled"));
    rejoins(&bed, &mut earlier);
    let mut eager = talk_polling(&place, VIP());
    assert!(handed(&bed, &mut eager, 20) >= 30);
    for (place, address) in [(bed.client.place(), VIP()), (place.clone(), Family::V4.vip(7))] {
        let mut other = talk_polling(&place, address);
        assert_eq!(handed(&bed, &mut other, 10), 0, "{address}");
    }
    // The label is changed while they live, there and back.
    bed.apply(&labelled("no"));
    eventually("nobody is enrolled", || enrolled(&bed), |count| *count == 0);
    for talk in [&mut earlier, &mut eager] {
        assert_eq!(handed(&bed, talk, 10), 0, "by TCP");
    }
    bed.apply(&labelled("enabled"));
    for talk in [&mut earlier, &mut eager] {
        rejoins(&bed, talk);
    }
    drop((earlier, eager));
    bed.at_rest();
    bed.assert_no_internal_error();
}

#[test]
fn it_is_switched_off_and_on_while_connections_live() {
    let (bed, replica, _pod) = pair(true, &FORCE);
    let mut lively = talk_polling(&bed.client.place(), VIP());
    let mut silent = talk_polling(&bed.client.place(), VIP());
    assert!(handed(&bed, &mut lively, 20) >= 30);
    assert!(handed(&bed, &mut silent, 20) >= 30);
    assert_eq!(enrolled(&bed), 4);

    bed.apply(&manifest(&replica, false));
    assert_eq!(handed(&bed, &mut lively, 10), 0);
    eventually("nobody is enrolled", || enrolled(&bed), |count| *count == 0);
    for talk in [&mut lively, &mut silent] {
        assert_eq!(handed(&bed, talk, 10), 0, "by TCP");
    }

    bed.apply(&manifest(&replica, true));
    let mut new = talk_polling(&bed.client.place(), VIP());
    assert!(handed(&bed, &mut new, 20) >= 30);
    for talk in [&mut lively, &mut silent] {
        rejoins(&bed, talk);
    }
    assert_eq!(enrolled(&bed), 6);
    drop((lively, silent, new));
    bed.at_rest();
    bed.assert_no_internal_error();
}

/// Waits until a connection that is open takes the shortcut, both ways.
fn rejoins(bed: &Bed, talk: &mut Talk) {
    let both = || handed(bed, talk, 10);
    eventually("an open connection takes the shortcut", both, |handed| {
        *handed == 20
    });
}

#[test]
fn connections_that_were_opened_without_it_take_it_once_it_is_switched_on() {
    let (bed, replica, _pod) = pair(false, &FORCE);
    for family in Family::BOTH {
        bed.apply(&manifest(&replica, false));
        let mut talk = talk_polling(&bed.client.place(), family.vip(1));
        let mut idle = talk_polling(&bed.client.place(), family.vip(1));
        assert_eq!(handed(&bed, &mut talk, 10), 0);
        bed.apply(&manifest(&replica, true));
        rejoins(&bed, &mut talk);
        rejoins(&bed, &mut idle);
    }
    bed.at_rest();
    bed.assert_no_internal_error();
}

#[test]
fn it_goes_on_while_the_agent_is_gone_and_after_it_is_back() {
    let (mut bed, replica, _pod) = pair(true, &FORCE);
    let mut old = talk_polling(&bed.client.place(), VIP());
    assert!(handed(&bed, &mut old, 20) >= 30);
    bed.agent.kill().unwrap();
    for _ in 0..20 {
        old.goes_on();
    }
    let mut orphan = talk_polling(&bed.client.place(), VIP());
    for _ in 0..20 {
        orphan.goes_on();
    }
    bed.start(&manifest(&replica, true), &FORCE);
    assert!(messages(&bed, "shortcut") >= 30 + 40 + 30, "while it was gone");
    for talk in [&mut old, &mut orphan] {
        assert_eq!(handed(&bed, talk, 20), 40, "after it is back");
    }
    drop((old, orphan));
    bed.at_rest();
}

/// What the agent says of the shortcut, once it has decided.
fn decided(bed: &Bed) -> State {
    let status = || bed.agent.status().unwrap().datapath.shortcut;
    let is_decided = |state: &State| !["unused", "testing"].contains(&&*state.reason);
    eventually("a verdict", status, is_decided)
}

/// A map of sockets such as other tools have; the kernel frees it when it is dropped.
fn foreign_map() -> MapData {
    let kind = aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_SOCKMAP as u32;
    let map = aya_obj::Map::new_from_params(kind, 4, 4, 1, 0);
    MapData::create(map, "foreign", None).unwrap()
}

#[test]
fn the_self_test_decides_and_others_and_another_kernel_are_seen() {
    let (mut bed, _replica, _pod) = pair(true, &[]);
    let first = decided(&bed);
    let failed: Vec<&str> = {
        let findings = first.report.iter().flat_map(|report| &report.findings);
        findings
            .filter(|finding| finding.failure.is_some())
            .map(|finding| &*finding.property)
            .collect()
    };
    let may_fail = [
        // Linux 6.18.14 to the fix of FIONREAD.
        "fionread_tcp",
        "close_unread",
        "waitall_later",
        "waiting_read_later",
        "splice_from_later",
    ];
    assert!(
        failed.iter().all(|property| may_fail.contains(property)),
        "{first:#?}"
    );
    assert!(!failed.is_empty(), "nothing differs from TCP: {first:#?}");
    assert_eq!(first.enabled, first.objections.is_empty(), "{first:#?}");
    let mut talk = talk_polling(&bed.client.place(), VIP());
    let handed = handed(&bed, &mut talk, 20);
    assert_eq!(handed > 0, first.enabled, "{handed} messages");
    let (_, text) = bed.agent.http(&bed.a, "/metrics").unwrap();
    let scrape = Scrape::parse(&text).unwrap();
    assert_eq!(
        scrape.count("nodemesh_shortcut_property", &[("property", "peek")]),
        1
    );

    others_and_other_kernels_are_seen(&mut bed);
}

/// Goes on with an agent that has decided.
fn others_and_other_kernels_are_seen(bed: &mut Bed) {
    // What is kept of this kernel and build is believed, what is of another kernel is not.
    let file = bed.agent.run_dir().join("shortcut.json");
    let mut kept: Report = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let kernel = kept.kernel.clone();
    kept.findings.truncate(1);
    let restart = |bed: &mut Bed, report: &Report| {
        bed.agent.kill().unwrap();
        fs::write(&file, serde_json::to_string(report).unwrap()).unwrap();
        bed.agent.start(&[]).unwrap();
    };
    restart(bed, &kept);
    let believed = decided(bed);
    assert_eq!(
        (believed.enabled, &*believed.reason),
        (true, "tested"),
        "{believed:#?}"
    );
    assert_eq!(believed.report.as_ref(), Some(&kept));
    assert!(handed(bed, &mut talk_polling(&bed.client.place(), VIP()), 20) > 0);

    let mut lively = talk_polling(&bed.client.place(), VIP());
    assert!(handed(bed, &mut lively, 20) > 0);
    let foreign = foreign_map();
    let is_off = |state: &State| !state.enabled && state.reason == "others";
    let state = eventually("others are seen", || decided(bed), is_off);
    assert!(
        state.objections[0].starts_with("sockmap \"foreign\""),
        "{state:?}"
    );
    assert_eq!(handed(bed, &mut lively, 10), 0);
    drop(foreign);
    eventually("they are gone", || decided(bed), |state| state.enabled);

    kept.kernel = "5.0.0 elsewhere".into();
    restart(bed, &kept);
    let status = || bed.agent.status().unwrap().datapath.shortcut;
    let is_new = |report: &Report| report.kernel == kernel && report.findings.len() > 1;
    eventually("it is tested again", status, |state| {
        state.reason == "testing" || state.report.as_ref().is_some_and(is_new)
    });
}
