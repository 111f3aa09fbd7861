// SPDX-License-Identifier: Apache-2.0
//! Another tool meddles with what is attached: the agent sees it, puts it right, counts it, and connections go on.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::fs;

use nodemesh_agent::datapath::{
    link::{Link, Running},
    programs::{Hook, PROGRAMS, ProgramSpec},
};
use nodemesh_e2e::{
    attachment,
    cgroup::Cgroup,
    eventually::eventually,
    process::{Place, Process, binary},
    single_node::{DIRECT, SingleNode, said},
};

fn started() -> SingleNode {
    SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[])
}

fn spec(name: &str) -> &'static ProgramSpec {
    PROGRAMS.iter().find(|spec| spec.name == name).unwrap()
}

/// Waits until this many faults of a kind were put right, and checks that all is well then.
fn wait_for_repairs(scene: &SingleNode, fault: &str, count: u64) {
    let repairs = || scene.agent.status().unwrap().datapath.attachment.repairs[fault];
    eventually("the repairs", repairs, |repairs| *repairs >= count);
    let labels = [("fault", fault)];
    let scrape = scene.scrape();
    assert!(scrape.count("nodemesh_attachment_repairs_total", &labels) >= count);
    assert!(
        scrape
            .samples("nodemesh_attached_programs")
            .all(|(_, value)| value > 0.0)
    );
    eventually(
        "one link per program",
        || attachment::links(&scene.node.pins()).unwrap(),
        |links| *links == attachment::complete(),
    );
    let status = scene.agent.status().unwrap();
    assert!(status.ready && status.problems.is_empty(), "{status:?}");
    assert!(scene.is_answered_by(8000, "r0"));
}

#[test]
fn pins_that_vanish_come_back_and_no_program_was_missing() {
    let scene = started();
    let pins = scene.node.pins();
    for name in ["connect4", "set_state"] {
        fs::remove_file(pins.link(name)).unwrap();
    }
    for map in ["services", "connections", "events"] {
        fs::remove_file(pins.map(map)).unwrap();
    }
    assert!(scene.is_answered_by(8000, "r0"), "the agent holds them");
    wait_for_repairs(&scene, "unpinned", 5);
    let text = said(&scene.agent.cli(&["status"]).unwrap());
    assert!(
        text.contains("put right 5 times what another tool had done"),
        "{text}"
    );
    assert!(pins.map("services").exists() && pins.link("connect4").exists());
}

#[test]
fn a_program_that_was_replaced_is_put_back() {
    let [ours, theirs] = [started(), started()];
    for name in ["connect4", "egress"] {
        // Another tool's program of the same type.
        let other = Running::of_pinned(spec(name), &theirs.node.pins())
            .unwrap()
            .unwrap();
        let link = Link::pinned(&ours.node.pins().link(name)).unwrap().unwrap();
        link.update(&other).unwrap();
    }
    wait_for_repairs(&ours, "replaced", 2);
    assert!(theirs.is_answered_by(8000, "r0"));
}

#[test]
fn the_programs_follow_the_cgroup_that_is_configured() {
    let mut scene = SingleNode::configured();
    let mesh = Cgroup::create(scene.node.cgroup(), "later").unwrap();
    let path = mesh.path().display().to_string();
    scene.agent.start(&["--cgroup", &path]).unwrap();
    // Whoever runs it makes it anew: the kernel detaches the programs from the one that goes.
    drop(mesh);
    let mesh = Cgroup::create(scene.node.cgroup(), "later").unwrap();
    // The kernel may take its time with that.
    let repairs = || {
        let repairs = scene.agent.status().unwrap().datapath.attachment.repairs;
        repairs["detached"] + repairs["moved"]
    };
    let of_cgroup = PROGRAMS
        .iter()
        .filter(|spec| matches!(spec.hook, Hook::Cgroup(_)))
        .count() as u64;
    eventually("the repairs", repairs, |repairs| *repairs >= of_cgroup);
    let place = Place {
        cgroup: mesh.path().into(),
        ..scene.client.place()
    };
    let address = scene.address(8000);
    let arguments = ["connect", &address, "--count", "4"];
    let probe = Process::spawn(&place, &binary("socket-probe"), &arguments).unwrap();
    let (report, _) = probe.report::<serde_json::Value>().unwrap();
    assert_eq!(report["replicas"]["r0"], 4, "{report}");
}

#[test]
fn maps_that_were_unpinned_while_no_agent_ran_are_found_again() {
    let mut scene = started();
    let held = scene.hold(8000, 2);
    scene.agent.kill().unwrap();
    for map in [
        "services",
        "backends",
        "backend_states",
        "slot_tables",
        "settings",
    ] {
        fs::remove_file(scene.node.pins().map(map)).unwrap();
    }
    assert!(scene.is_answered_by(8000, "r0"));
    scene.agent.start(&[]).unwrap();
    scene
        .agent
        .process()
        .wait_for_log(|line| line.contains("the pin of a map was gone while its programs ran"))
        .unwrap();
    let counts = || {
        let backends = scene.agent.backends().unwrap();
        (backends[0].active_connections, backends[0].connections_total)
    };
    eventually("the counters", counts, |counts| *counts == (2, 6));
    assert!(held.stop().is_ok());
    eventually("the counters", counts, |counts| *counts == (0, 6));
}

/// Flags of a second agent on the same cgroup, which is a foreigner to the first.
fn foreign(scene: &SingleNode) -> Vec<String> {
    let beside = |folder: &std::path::Path| folder.with_file_name("foreign").display().to_string();
    let flags = [
        ("--pin-dir", beside(scene.node.pins().path())),
        ("--run-dir", beside(&scene.agent.run_dir())),
        ("--http", "127.0.0.1:9564".to_owned()),
    ];
    flags
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

#[test]
fn programs_of_others_before_and_after_ours_change_nothing() {
    let mut scene = SingleNode::configured();
    let other = scene.agent.config().with_file_name("foreign.yaml");
    fs::write(&other, scene.service("b", 8001, &[1])).unwrap();
    let other = ["--config".to_owned(), other.display().to_string()];
    let flags = [&foreign(&scene)[..], &other].concat();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for is_before in [true, false] {
        let theirs = is_before.then(|| scene.agent.launch(&flags).unwrap());
        if let Some(theirs) = &theirs {
            theirs.wait_for_log(|line| line.contains(" ready ")).unwrap();
        }
        if is_before {
            scene.agent.start(&[]).unwrap();
        }
        let theirs = theirs.unwrap_or_else(|| scene.agent.launch(&flags).unwrap());
        theirs.wait_for_log(|line| line.contains(" ready ")).unwrap();
        assert!(scene.is_answered_by(8000, "r0"), "before: {is_before}");
        assert!(scene.is_answered_by(8001, "r1"), "before: {is_before}");
        let status = scene.agent.status().unwrap();
        assert!(status.problems.is_empty(), "{status:?}");
        assert!(theirs.stop().unwrap().success());
        let theirs = nodemesh_agent::datapath::PinRoot::new(flags[1]);
        theirs.remove_all().unwrap();
        eventually(
            "its end",
            || scene.answers(8001),
            |answers| answers.contains(DIRECT) && answers.len() == 1,
        );
        assert!(scene.is_answered_by(8000, "r0"), "before: {is_before}");
    }
    let repairs = scene.agent.status().unwrap().datapath.attachment.repairs;
    assert!(repairs.values().all(|count| *count == 0), "{repairs:?}");
}
