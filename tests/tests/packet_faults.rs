// SPDX-License-Identifier: Apache-2.0
//! The packet path when something is in the way: a smaller link, another way back, an agent that dies, a client that may not.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Duration,
};

use nodemesh_agent::datapath::{
    link::{Link, Running},
    programs::PROGRAMS,
};
use nodemesh_e2e::{
    agent::Build,
    bed::Family,
    eventually::eventually,
    manifest::AccessPolicy,
    packet_bed::{Call, FarEnd, PORT, PacketBed, service},
};
use serde_json::json;

fn vip(family: Family) -> SocketAddr {
    SocketAddr::new(family.vip(1).ip(), PORT)
}

#[test]
fn a_smaller_link_behind_the_node_is_found_through_the_translation() {
    let mut bed = PacketBed::new();
    let _end = FarEnd::start(&bed.remote, "remote");
    // The replica's own link is the small one, but it asks for segments that do not fit.
    let small = ["link set pod11 mtu 1300", "link set br0 mtu 1300"];
    bed.b.netns().configure(&small.map(str::to_owned)).unwrap();
    let lines = [
        "link set eth0 mtu 1300",
        "route replace default via 10.2.0.1 advmss 1460",
        "route replace default via fd10:2::1 advmss 1440",
    ];
    bed.remote.netns().configure(&lines.map(str::to_owned)).unwrap();
    bed.start(&service("snat", &[&bed.remote], &json!({})), &[]);
    let data = vec![7; 200_000];
    for (family, least) in Family::BOTH.into_iter().zip([1, 2]) {
        let mut call = Call::to(&bed.client, vip(family)).unwrap();
        call.echoes(&data).unwrap();
        bed.counted("related", least);
    }
}

#[test]
fn replies_may_leave_by_another_interface() {
    let mut bed = PacketBed::new();
    let _end = FarEnd::start(&bed.local, "local");
    let fabric = bed.topology.attach(&bed.client, "second", 200).unwrap();
    assert_eq!(fabric, "192.168.0.200");
    // To the client over the fabric, from it over its own link.
    let back = [
        "route add 172.16.1.2/32 via 192.168.0.200",
        "route add fd16:1::2/128 via fd10:ff::c8",
    ];
    bed.a.netns().configure(&back.map(str::to_owned)).unwrap();
    for mode in ["snat", "preserve"] {
        let manifest = service(mode, &[&bed.local], &json!({}));
        if mode == "snat" {
            bed.start(&manifest, &["--node-name", "a"]);
        } else {
            bed.agent.reconfigure(&manifest.to_string()).unwrap();
        }
        for family in Family::BOTH {
            let mut call = Call::to(&bed.client, vip(family)).unwrap();
            call.echoes(&vec![3; 100_000]).unwrap();
        }
    }
}

/// Waits until each of the transfers has gone on for a while.
fn go_on(what: &str, rounds: &[AtomicU64]) {
    let now = || -> Vec<u64> {
        rounds
            .iter()
            .map(|rounds| rounds.load(Ordering::SeqCst))
            .collect()
    };
    let before = now();
    eventually(what, now, |now| {
        now.iter().zip(&before).all(|(now, before)| *now > *before + 3)
    });
}

/// Checks that the two transfers are the flows of `opened` that are established, and gives their bytes.
fn established(bed: &PacketBed, opened: u64) -> u64 {
    assert_eq!(bed.count("opened"), opened, "the flows are those that there were");
    let flows = bed.flows();
    let established = || flows.iter().filter(|flow| flow.state == "established");
    assert_eq!(established().count(), 2, "{flows:#?}");
    established().map(|flow| flow.request_bytes).sum()
}

#[test]
fn a_transfer_outlives_the_agent_and_changes_of_the_abi() {
    let mut bed = PacketBed::new();
    let _ends = [
        FarEnd::start(&bed.local, "local"),
        FarEnd::start(&bed.remote, "remote"),
    ];
    bed.start(&service("snat", &[&bed.local, &bed.remote], &json!({})), &[]);
    let ends = AtomicBool::new(false);
    let rounds = [AtomicU64::new(0), AtomicU64::new(0)];
    thread::scope(|scope| {
        for (family, rounds) in Family::BOTH.into_iter().zip(&rounds) {
            let mut call = Call::to(&bed.client, vip(family)).unwrap();
            let ends = &ends;
            scope.spawn(move || {
                let data = vec![family as u8; 50_000];
                while !ends.load(Ordering::SeqCst) {
                    call.echoes(&data).unwrap();
                    rounds.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        go_on("the transfers with the first agent", &rounds);
        bed.agent.kill().unwrap();
        go_on("the transfers without an agent", &rounds);
        // A newcomer needs no agent.
        let mut call = Call::to(&bed.client, vip(Family::V4)).unwrap();
        call.echoes(b"hello").unwrap();
        drop(call);
        let mut sent = 0;
        for build in [Build::Own, Build::Next, Build::Own] {
            bed.switch(build, &[]);
            go_on("the transfers with the next agent", &rounds);
            let bytes = established(&bed, 3);
            assert!(bytes > sent, "{build:?}: {bytes} bytes after {sent}");
            sent = bytes;
            assert_eq!(
                bed.links(build),
                [3, 3],
                "{build:?}: one of each program per interface"
            );
            bed.agent.kill().unwrap();
        }
        bed.switch(Build::Own, &[]);
        ends.store(true, Ordering::SeqCst);
    });
    let active = || {
        let backends = bed.agent.backends().unwrap();
        backends.iter().map(|backend| backend.active_connections).sum()
    };
    eventually("the flows' end", active, |active: &u64| *active == 0);
}

#[test]
fn what_another_tool_does_to_the_links_is_put_right() {
    let mut bed = PacketBed::new();
    let _end = FarEnd::start(&bed.local, "local");
    bed.start(&service("snat", &[&bed.local], &json!({})), &[]);
    let pins = bed.a.pins();
    let spec = |name: &str| PROGRAMS.iter().find(|spec| spec.name == name).unwrap();
    let [ingress, egress] = ["flow_ingress", "flow_egress"].map(spec);
    let other = Running::of_pinned(egress, &pins).unwrap().unwrap();
    let paths: Vec<_> = pins
        .interfaces(ingress)
        .unwrap()
        .into_iter()
        .map(|index| pins.interface_link(ingress, index))
        .collect();
    for path in &paths[1..] {
        Link::pinned(path).unwrap().unwrap().update(&other).unwrap();
    }
    std::fs::remove_file(&paths[0]).unwrap();
    let repairs = || {
        let repairs = bed.agent.status().unwrap().datapath.attachment.repairs;
        (repairs["unpinned"], repairs["replaced"])
    };
    eventually("the repairs", repairs, |repairs| *repairs == (1, 2));
    assert_eq!(bed.links(Build::Own), [3, 3]);
    assert!(bed.agent.status().unwrap().problems.is_empty());
    for family in Family::BOTH {
        Call::to(&bed.client, vip(family))
            .unwrap()
            .echoes(b"hello")
            .unwrap();
    }
    bed.agent.stop().unwrap();
    assert!(bed.agent.cleanup().unwrap().status.success());
    assert!(!pins.path().exists(), "cleanup leaves no link");
}

#[test]
fn access_is_decided_by_the_source_address() {
    let mut bed = PacketBed::new();
    let _end = FarEnd::start(&bed.local, "local");
    let manifest = service("preserve", &[&bed.local], &json!({}));
    let other = ["192.0.2.0/24", "2001:db8::/32"].map(|cidr| json!({"cidrs": [cidr]}));
    let client = ["172.16.1.0/24", "fd16:1::/64"].map(|cidr| json!({"cidrs": [cidr]}));
    let only = |from: [serde_json::Value; 2]| {
        let policy = AccessPolicy::of("llama").default("deny").rule("allow", from);
        manifest.clone().and(policy)
    };
    bed.start(&only(other), &["--node-name", "a"]);
    for family in Family::BOTH {
        let short = Duration::from_millis(700);
        Call::within(&bed.client, vip(family), short).unwrap_err();
    }
    let dropped = bed.counted("drop_policy", 2);
    bed.agent.reconfigure(&only(client).to_string()).unwrap();
    for family in Family::BOTH {
        let call = Call::to(&bed.client, vip(family));
        let mut call =
            call.unwrap_or_else(|error| panic!("{family:?}: {error:#}: {:#?}", bed.packet().events));
        assert_eq!(call.seen_as.ip(), family.of(&bed.client));
        call.echoes(b"allowed").unwrap();
    }
    assert!(bed.count("drop_policy") >= dropped);
}

#[test]
fn interfaces_are_followed_as_they_come_and_go() {
    let mut bed = PacketBed::new();
    bed.start(
        &service("snat", &[&bed.local], &json!({})),
        &["--packet-interface", "ext*"],
    );
    let names = |bed: &PacketBed| -> Vec<String> {
        let interfaces = bed.packet().interfaces;
        interfaces
            .into_iter()
            .filter(|interface| interface.effective)
            .map(|interface| interface.name)
            .collect()
    };
    assert_eq!(names(&bed), ["ext0"]);
    let add = ["link add ext7 type veth peer name peer7", "link set ext7 up"];
    bed.a.netns().configure(&add.map(str::to_owned)).unwrap();
    eventually(
        "the new interface",
        || names(&bed),
        |names| *names == ["ext0", "ext7"],
    );
    let pins = |bed: &PacketBed| std::fs::read_dir(bed.a.pins().link("")).unwrap().count();
    let with = pins(&bed);
    bed.a.netns().configure(&["link del ext7".to_owned()]).unwrap();
    eventually("the interface's end", || names(&bed), |names| *names == ["ext0"]);
    eventually("its pins' end", || pins(&bed), |pins| *pins == with - 2);
    // The path is left as it is when the agent ends, and taken away by one that is not asked for it.
    bed.agent.stop().unwrap();
    assert_eq!(pins(&bed), with - 2);
    bed.agent.start(&[]).unwrap();
    assert!(bed.agent.status().unwrap().datapath.packet.is_none());
    assert_eq!(pins(&bed), with - 4);
}
