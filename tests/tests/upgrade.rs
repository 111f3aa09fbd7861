// SPDX-License-Identifier: Apache-2.0
//! Another ABI takes over, and back again: what both can read survives, and no connection notices. The other one is a real build,
//! `nodemesh-agent-next`, in which some layouts differ.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::fs;

use clap::ValueEnum as _;
use nodemesh_abi::ABI_VERSION;
use nodemesh_agent::{datapath::PinRoot, startup::Step};
use nodemesh_e2e::{
    agent::Build,
    attachment,
    bed::{Bed, Family, connect, hold},
    eventually::eventually,
    manifest::{Manifest, Policy, Service},
    process::was_killed,
};

/// The ABI of `nodemesh-agent-next`.
const NEXT: u32 = 1_000;

/// A bed whose agent serves `echo` with session affinity over three replicas that would be used in turn without.
struct Scene {
    bed: Bed,
    _replicas: Vec<nodemesh_e2e::bed::Replica>,
}

impl Scene {
    fn new() -> Self {
        let mut bed = Bed::new();
        let replicas = bed.replicas(3);
        let backends = replicas.iter().map(|replica| replica.at(Family::V4));
        let manifest = Manifest::default()
            .and(Service::new("echo", Family::V4.vip(1)).to(backends))
            .and(Policy::of("echo").algorithm("round-robin").affinity("10m"));
        bed.start(&manifest, &[]);
        Self {
            bed,
            _replicas: replicas,
        }
    }

    /// Who answers this many connections; it must be one.
    fn answer(&self, count: u64) -> String {
        let count_text = count.to_string();
        let report = connect(
            &self.bed.client.place(),
            Family::V4.vip(1),
            &["--count", &count_text],
        );
        report.only_replica(count).to_owned()
    }

    /// Puts another build in the place of the running agent.
    fn switch(&mut self, build: Build) {
        self.bed.agent.kill().unwrap();
        self.bed.agent.start_build(build, &[]).unwrap();
    }

    /// Checks that exactly the programs of this version are attached, once each, and that nothing else is pinned.
    fn assert_version(&self, version: u32) {
        let pins = self.bed.a.pins();
        let own = pins.of_version(version);
        eventually(
            "one link per program",
            || attachment::links(&own).unwrap(),
            |links| *links == attachment::complete(),
        );
        let names: Vec<_> = fs::read_dir(pins.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names, [format!("v{version}").as_str()]);
        assert!(self.bed.agent.status().unwrap().problems.is_empty());
    }
}

#[test]
fn connections_counters_and_affinity_survive_an_upgrade_and_a_downgrade_of_the_abi() {
    let mut scene = Scene::new();
    let sticky = scene.answer(1);
    let held = hold(&scene.bed.client.place(), Family::V4.vip(1), 3, &[]);
    let before = scene.bed.counted();
    assert_eq!((before.opened, before.active), (4, 3), "{before:?}");

    scene.switch(Build::Next);
    scene.assert_version(NEXT);
    let agent = scene.bed.agent.process();
    agent
        .wait_for_log(|line| {
            line.contains("taking over from an agent of another ABI") && line.contains("to=1000")
        })
        .unwrap();
    assert!(!agent.stderr().iter().any(|line| line.contains("begins anew")));
    assert_eq!(scene.bed.counted(), before);
    assert_eq!(
        scene.bed.agent.connections().unwrap().len(),
        3,
        "the records were copied"
    );
    assert_eq!(scene.answer(7), sticky, "the affinity came through the door");
    held.release();
    let counted = scene.bed.at_rest();
    assert_eq!((counted.opened, counted.closed), (11, 11), "{counted:?}");

    let held = hold(&scene.bed.client.place(), Family::V4.vip(1), 2, &[]);
    scene.switch(Build::Own);
    scene.assert_version(ABI_VERSION);
    let agent = scene.bed.agent.process();
    let warning = agent
        .wait_for_log(|line| line.contains("from the future of this agent"))
        .unwrap();
    assert!(
        warning.contains("ABI 1000") && warning.contains("maps=\"affinity\""),
        "{warning}"
    );
    assert_eq!(
        scene.bed.agent.connections().unwrap().len(),
        2,
        "their beginning is known"
    );
    held.release();
    let counted = scene.bed.at_rest();
    assert_eq!((counted.opened, counted.closed), (13, 13), "{counted:?}");
    scene.bed.assert_no_internal_error();
}

#[test]
fn an_abi_of_which_nothing_is_known_is_named_and_replaced() {
    let mut scene = Scene::new();
    scene.bed.agent.kill().unwrap();
    scene.bed.agent.start_build(Build::Next, &[]).unwrap();
    let held = hold(&scene.bed.client.place(), Family::V4.vip(1), 2, &[]);
    scene.bed.agent.kill().unwrap();
    // It did not tell which layouts its maps have.
    let pins = scene.bed.a.pins().of_version(NEXT);
    let layouts = pins.folder().join("layouts");
    for mark in fs::read_dir(&layouts).unwrap() {
        fs::remove_dir(mark.unwrap().path()).unwrap();
    }
    scene.bed.agent.start_build(Build::Own, &[]).unwrap();
    let agent = scene.bed.agent.process();
    agent
        .wait_for_log(|line| {
            line.contains("of ABI 1000, from the future") && line.contains("Open connections live on")
        })
        .unwrap();
    scene.assert_version(ABI_VERSION);
    held.release();
    scene.answer(2);
    let counted = scene.bed.at_rest();
    assert_eq!(counted.opened, 2, "counted from the beginning: {counted:?}");
}

#[test]
fn an_upgrade_and_a_downgrade_of_the_abi_may_be_killed_after_any_step() {
    let mut scene = Scene::new();
    let held = hold(&scene.bed.client.place(), Family::V4.vip(1), 3, &[]);
    let mut opened = 3;
    for build in [Build::Next, Build::Own] {
        scene.bed.agent.kill().unwrap();
        for step in Step::value_variants() {
            let word = step.to_possible_value().unwrap();
            let agent = scene
                .bed
                .agent
                .launch_build(build, &["--crash-after", word.get_name()]);
            let (status, log) = agent.unwrap().finish().unwrap();
            assert!(was_killed(status), "{build:?}, {step:?}: {status}, {log}");
            scene.answer(2);
            opened += 2;
        }
        scene.bed.agent.start_build(build, &[]).unwrap();
        scene.assert_version(if build == Build::Next { NEXT } else { ABI_VERSION });
        let counted = scene.bed.counted();
        assert_eq!(
            (counted.opened, counted.failed),
            (opened, 0),
            "{build:?}: {counted:?}"
        );
        assert_eq!(scene.bed.agent.connections().unwrap().len(), 3, "{build:?}");
    }
    held.release();
    scene.bed.at_rest();
}

#[test]
fn what_an_upgrade_began_and_never_attached_is_removed() {
    let mut scene = Scene::new();
    scene.bed.agent.kill().unwrap();
    let agent = scene
        .bed
        .agent
        .launch_build(Build::Next, &["--crash-after", "carried"]);
    agent.unwrap().finish().unwrap();
    let root = scene.bed.a.pins();
    let folder = |pins: PinRoot| pins.folder();
    assert!(folder(root.of_version(NEXT)).exists() && folder(root).exists());
    scene.bed.agent.start(&[]).unwrap();
    scene.assert_version(ABI_VERSION);
    assert_eq!(scene.bed.counted().failed, 0);
}

#[test]
fn programs_that_the_kernel_refuses_leave_those_that_run() {
    let mut scene = Scene::new();
    let held = hold(&scene.bed.client.place(), Family::V4.vip(1), 2, &[]);
    scene.bed.agent.kill().unwrap();
    scene.bed.agent.disown_programs().unwrap();
    // Without CAP_PERFMON the verifier forbids what these programs do with pointers.
    let drop = "exec setpriv --bounding-set=-perfmon,-sys_admin --inh-caps=-perfmon,-sys_admin \"$@\"";
    let (status, log) = scene
        .bed
        .agent
        .launch_through(drop, &[])
        .unwrap()
        .finish()
        .unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    let kernel = nix::sys::utsname::uname().unwrap();
    let release = kernel.release().to_str().unwrap().to_owned();
    assert!(log.contains(&format!("on kernel {release}")), "{log}");
    assert!(log.contains("the verifier's last lines:"), "{log}");
    scene.answer(4);
    assert_eq!(
        attachment::links(&scene.bed.a.pins()).unwrap(),
        attachment::complete()
    );
    scene.bed.agent.start(&[]).unwrap();
    let counted = scene.bed.counted();
    assert_eq!(
        (counted.opened, counted.active, counted.failed),
        (6, 2, 0),
        "{counted:?}"
    );
    held.release();
    scene.bed.at_rest();
}
