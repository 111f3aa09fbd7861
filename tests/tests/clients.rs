// SPDX-License-Identifier: Apache-2.0
//! Who is a client: which processes are left alone, and which workload a process belongs to.

use std::path::Path;

use aya::maps::{Array, Map, MapData};
use nodemesh_e2e::{
    bed::{Bed, Family, Report, connect, hold, probe, report_of, udp},
    eventually::eventually,
    manifest::{Manifest, Service, client_workload},
    process::{Place, Process, binary},
    topology::Pod,
};

/// TCP and UDP services at both first addresses, with the replica `r0`.
fn echo(bed: &Bed) -> Manifest {
    let backends = |family: Family| [(family.of(&bed.server), 9000).into()];
    Family::BOTH
        .into_iter()
        .fold(Manifest::default(), |manifest, family| {
            let name = |protocol: &str| format!("{protocol}-{family:?}").to_lowercase();
            manifest
                .and(Service::new(&name("tcp"), family.vip(1)).to(backends(family)))
                .and(
                    Service::new(&name("udp"), family.vip(1))
                        .udp()
                        .to(backends(family)),
                )
        })
}

/// What is really at the services' addresses, for those who are left alone: a server on the client's node.
fn original(bed: &Bed, pod: &Pod) -> Process {
    let [v4, v6] = Family::BOTH.map(|family| family.vip(1));
    let addresses = [
        format!("addr add {}/32 dev br0", v4.ip()),
        format!("addr add {}/128 dev br0 nodad", v6.ip()),
    ];
    bed.a.netns().configure(&addresses).expect("add the addresses");
    let place = Place {
        netns: bed.a.netns().path(),
        cgroup: pod.cgroup().into(),
    };
    let [v4, v6] = [v4, v6].map(|address| address.to_string());
    let arguments = ["serve", "--name", "original", "--listen", &v4, "--listen", &v6];
    let server = probe(&place, &arguments);
    server
        .wait_for_line(|line| line.starts_with("listening on"))
        .expect("a server");
    server
}

/// Panics unless every kind of socket of `place` reaches `name` at the services' addresses.
#[track_caller]
fn assert_reaches(place: &Place, name: &str) {
    for family in Family::BOTH {
        let tcp = connect(place, family.vip(1), &["--count", "5"]);
        assert_eq!(tcp.only_replica(5), name, "{family:?} {place:?}");
        for mode in [&[][..], &["--connected"]] {
            let udp = udp(place, family.vip(1), &[&["--count", "5"], mode].concat());
            let right = udp.ok == 5 && udp.replicas.keys().eq([name]) && udp.foreign_sources == 0;
            assert!(right, "{family:?} {mode:?} {place:?} {udp:?}");
        }
    }
}

#[test]
fn an_excluded_cgroup_and_all_below_it_are_left_alone() {
    let mut bed = Bed::new();
    let _replicas = bed.replicas(1);
    let excluded = bed.a.pod("tool").unwrap();
    let (_inner, inner) = bed.nested(&excluded, "inner");
    let (_innermost, innermost) = bed.nested(&excluded, "inner/most");
    let (_partly, partly) = bed.nested(&bed.client, "partly");
    let (_sibling, sibling) = bed.nested(&bed.client, "sibling");
    let _original = original(&bed, &excluded);
    // A workload inside an excluded cgroup is excluded too.
    let manifest = echo(&bed).and(client_workload("inner", "tool/inner", None));
    bed.start(
        &manifest,
        &["--exclude-cgroup", "tool", "--exclude-cgroup", "client/partly"],
    );
    for place in [excluded.place(), inner, innermost, partly] {
        assert_reaches(&place, "original");
    }
    assert_eq!(bed.counted().opened, 0);
    for place in [bed.client.place(), sibling] {
        assert_reaches(&place, "r0");
    }
    bed.assert_no_internal_error();
}

#[test]
fn a_process_outside_the_agents_cgroup_is_left_alone() {
    let mut bed = Bed::new();
    let _replicas = bed.replicas(1);
    let _original = original(&bed, &bed.client);
    bed.start(&echo(&bed), &[]);
    let outside = Place {
        cgroup: bed.server.cgroup().into(),
        ..bed.client.place()
    };
    assert_reaches(&outside, "original");
    assert_reaches(&bed.client.place(), "r0");
}

/// Words of a row of `settings`.
const SETTINGS: usize = size_of::<nodemesh_abi::Settings>() / 4;

/// The programs' settings, of which the first word is the exempt process.
fn settings(bed: &Bed) -> Array<MapData, [u32; SETTINGS]> {
    let map = MapData::from_pin(bed.a.pins().map("settings")).and_then(Map::from_map_data);
    let settings = map.expect("the settings are pinned");
    settings.try_into().expect("an array of words")
}

#[test]
fn the_agents_own_sockets_are_left_alone() {
    let mut bed = Bed::new();
    let _replicas = bed.replicas(1);
    let _original = original(&bed, &bed.client);
    bed.start(&echo(&bed), &[]);
    let mut settings = settings(&bed);
    let mut row = settings.get(&0, 0).unwrap();
    assert_eq!(row[0], bed.agent.process().pid());

    // The agent dials nobody. So this process, which waits for its identifier to be entered, stands in for it.
    for family in Family::BOTH {
        let program = binary("socket-probe");
        let script = format!(
            "read -r go; exec {} connect {} --count 5",
            program.display(),
            family.vip(1)
        );
        for (tgid, name) in [(None, "original"), (Some(0), "r0")] {
            let mut stand_in = bed.client.spawn("/bin/sh", &["-c", &script]).unwrap();
            row[0] = tgid.unwrap_or(stand_in.pid());
            settings.set(0, row, 0).unwrap();
            stand_in.write_line("go").unwrap();
            let report: Report = report_of(stand_in);
            assert_eq!(report.only_replica(5), name, "{family:?}");
        }
    }
    bed.agent.take_process().stop().unwrap();
    assert_eq!(
        settings.get(&0, 0).unwrap()[0],
        0,
        "an agent that has ended is nobody"
    );
}

/// The workload that `nodemesh connections` shows for a connection from `place`.
fn workload_of(bed: &Bed, place: &Place) -> Option<String> {
    let held = hold(place, Family::V4.vip(1), 1, &[]);
    let listed = bed.agent.connections().expect("nodemesh connections");
    let own = listed.iter().find(|one| one.client_pid == held.pid());
    let workload = own
        .unwrap_or_else(|| panic!("not listed: {listed:?}"))
        .client_workload
        .clone();
    held.release();
    workload
}

#[test]
fn a_process_belongs_to_the_nearest_workload_above_it() {
    let mut bed = Bed::new();
    let _replicas = bed.replicas(1);
    let neighbour = bed.a.pod("neighbour").unwrap();
    let nested = ["inner", "inner/most", "other"].map(|name| bed.nested(&bed.client, name));
    let manifest = echo(&bed)
        .and(client_workload("outer", "client", None))
        .and(client_workload("inner", "/client/inner/", None));
    bed.start(&manifest, &[]);
    let [inner, innermost, other] = nested.each_ref().map(|(_, place)| place);
    let cases = [
        (&bed.client.place(), Some("models/outer")),
        (inner, Some("models/inner")),
        (innermost, Some("models/inner")),
        (other, Some("models/outer")),
        (&neighbour.place(), None),
    ];
    for (place, workload) in cases {
        assert_eq!(workload_of(&bed, place).as_deref(), workload, "{place:?}");
    }
}

#[test]
fn a_cgroup_that_appears_later_is_picked_up() {
    let mut bed = Bed::new();
    let _replicas = bed.replicas(1);
    let _original = original(&bed, &bed.client);
    let manifest = echo(&bed).and(client_workload("late", "late", None));
    bed.start(&manifest, &["--exclude-cgroup", "tool"]);
    let missing = || {
        let mut missing = bed.agent.status().unwrap().datapath.cgroups_missing;
        missing.sort();
        missing
    };
    assert_eq!(missing(), ["late", "tool"]);
    // The second time they are other cgroups of the same names.
    for _ in 0..2 {
        let (late, tool) = (bed.a.pod("late").unwrap(), bed.a.pod("tool").unwrap());
        eventually("both are found", missing, Vec::is_empty);
        assert_eq!(workload_of(&bed, &late.place()).as_deref(), Some("models/late"));
        assert_reaches(&tool.place(), "original");
        let gone = [late.cgroup().to_owned(), tool.cgroup().to_owned()];
        drop((late, tool));
        assert!(gone.iter().all(|path| !Path::exists(path)), "{gone:?}");
        eventually("both are missing", missing, |missing| {
            *missing == ["late", "tool"]
        });
    }
}
