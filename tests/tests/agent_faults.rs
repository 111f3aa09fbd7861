// SPDX-License-Identifier: Apache-2.0
//! What is wrong with the host, with the flags or with a former start: the agent copes, or says what to do.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{fs, net::TcpListener, path::Path};

use clap::ValueEnum as _;
use nix::sys::signal::Signal;
use nodemesh_agent::{api::Status, startup::Step};
use nodemesh_e2e::{
    attachment,
    eventually::eventually,
    process::{Process, was_killed},
    single_node::{DIRECT, SingleNode, said},
};

/// The log of an agent that must end with an error by itself.
fn refusal(agent: Process) -> String {
    let (status, log) = agent.finish().unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    log
}

fn wait_until_ready(agent: &Process) {
    agent.wait_for_log(|line| line.contains(" ready ")).unwrap();
}

fn start_refused(scene: &SingleNode, flags: &[&str], message: &str) {
    let log = refusal(scene.agent.launch(flags).unwrap());
    assert!(log.contains(message), "expected {message:?} in:\n{log}");
}

/// Checks that the data path is whole: every program attached once, and `r0` answering on port 8000.
fn assert_whole(scene: &SingleNode, when: &str) {
    let links = || attachment::links(&scene.node.pins()).unwrap();
    // What an update replaced is freed a little later.
    eventually(when, links, |links| *links == attachment::complete());
    assert!(scene.is_answered_by(8000, "r0"), "{when}");
    let status = scene.agent.status().unwrap();
    assert!(
        status.problems.is_empty() && status.datapath.programs.values().all(|runs| *runs),
        "{when}: {status:?}"
    );
    let used = |map: &str| status.datapath.maps[map].entries;
    assert_eq!((used("services"), used("backends")), (1, 1), "{when}: {status:?}");
}

#[test]
fn a_second_agent_is_refused_with_the_pid_of_the_first() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&[]).unwrap();
    let pid = scene.agent.process().pid();
    start_refused(
        &scene,
        &[],
        &format!("another agent runs on this node with pid {pid} (lock "),
    );
    assert_whole(&scene, "after the second agent");
}

#[test]
fn a_bpf_file_system_is_mounted_where_there_is_none() {
    let scene = SingleNode::configured();
    let agent = scene
        .agent
        .launch_in_own_mounts("umount --lazy /sys/fs/bpf", &[])
        .unwrap();
    wait_until_ready(&agent);
    agent
        .wait_for_log(|line| line.contains("mounted a bpf file system"))
        .unwrap();
    assert!(
        !scene.node.pins().path().exists(),
        "the pins are not in the namespace of the test"
    );
    assert!(scene.is_answered_by(8000, "r0"));
    assert!(scene.agent.status().unwrap().problems.is_empty());
    assert!(agent.stop().unwrap().success());
    // The namespace is gone, with its bpf file system and every link in it.
    let answers = || scene.answers(8000);
    eventually("the end of the data path", answers, |answers| {
        answers.contains(DIRECT) && answers.len() == 1
    });
}

#[test]
fn a_folder_that_cannot_hold_pins_is_refused() {
    let scene = SingleNode::configured();
    let elsewhere = scene.agent.config().with_file_name("pins").display().to_string();
    let message = format!(
        "{elsewhere} is not on a bpf file system: it is outside /sys/fs/bpf; mount one (`mount -t bpf bpf /sys/fs/bpf`) \
         or name a folder on one with --pin-dir"
    );
    start_refused(&scene, &["--pin-dir", &elsewhere], &message);
    assert!(!Path::new(&elsewhere).exists());
}

#[test]
fn a_read_only_cgroup_mount_is_enough() {
    let scene = SingleNode::configured();
    let mount = nodemesh_agent::datapath::host::cgroup_root(None).unwrap();
    let preparation = format!("mount -o remount,bind,ro {}", mount.display());
    let agent = scene.agent.launch_in_own_mounts(&preparation, &[]).unwrap();
    wait_until_ready(&agent);
    let seen = fs::read_to_string(format!("/proc/{}/mounts", agent.pid())).unwrap();
    assert!(seen.lines().any(|line| line.contains(" cgroup2 ro,")), "{seen}");
    assert_whole(&scene, "with a read-only cgroup file system");
}

#[test]
fn what_is_no_cgroup_is_refused() {
    let scene = SingleNode::configured();
    let folder = scene.agent.config().with_file_name("folder");
    fs::create_dir(&folder).unwrap();
    let folder = folder.display().to_string();
    let message =
        format!("{folder} is not in a cgroup v2 hierarchy; give --cgroup a directory below a cgroup2 mount");
    start_refused(&scene, &["--cgroup", &folder], &message);
    let missing = scene.node.cgroup().join("missing").display().to_string();
    start_refused(
        &scene,
        &["--cgroup", &missing],
        &format!("inspect {missing}: No such file or directory (os error 2)"),
    );
    assert!(!scene.node.pins().path().exists());
}

#[test]
fn a_message_names_its_cause_once() {
    let scene = SingleNode::configured();
    let missing = scene.node.cgroup().join("missing").display().to_string();
    let below_a_file = scene.agent.config().join("run").display().to_string();
    for flags in [
        ["--cgroup", &missing],
        ["--run-dir", &below_a_file],
        ["--http", "192.0.2.1:9464"],
    ] {
        let log = refusal(scene.agent.launch(&flags).unwrap());
        let error = log.lines().find(|line| line.contains("ERROR")).unwrap();
        assert_eq!(error.matches("(os error").count(), 1, "{flags:?}: {error}");
    }
}

#[test]
fn an_http_address_in_use_ends_the_agent_but_not_the_data_path() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&[]).unwrap();
    assert!(scene.agent.stop().unwrap().success());
    let other = scene
        .node
        .netns()
        .run(|| TcpListener::bind("127.0.0.1:9464").unwrap())
        .unwrap();
    start_refused(
        &scene,
        &[],
        "listen on 127.0.0.1:9464: Address already in use (os error 98); choose another address with --http",
    );
    assert!(scene.is_answered_by(8000, "r0"));
    assert_eq!(
        attachment::links(&scene.node.pins()).unwrap(),
        attachment::complete()
    );
    drop(other);
    scene.agent.start(&[]).unwrap();
    assert_whole(&scene, "when the address is free");
}

#[test]
fn a_run_directory_that_cannot_be_written_is_refused() {
    let scene = SingleNode::configured();
    let below_a_file = scene.agent.config().join("run").display().to_string();
    start_refused(
        &scene,
        &["--run-dir", &below_a_file],
        "run/agent.lock: Not a directory (os error 20); --run-dir must name a folder that the agent may write to",
    );
    let folder = scene.agent.config().parent().unwrap().display().to_string();
    let preparation = format!("mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}");
    let log = refusal(scene.agent.launch_in_own_mounts(&preparation, &[]).unwrap());
    let message =
        "Read-only file system (os error 30); --run-dir must name a folder that the agent may write to";
    assert!(log.contains(message), "{log}");
    assert!(!scene.node.pins().path().exists());
}

/// Waits until the kernel has the configuration of this number, and all of it.
fn wait_for_room(scene: &SingleNode, generation: u64) {
    let is_complete = |status: &Status| {
        status.config.applied_generation == generation && status.datapath.frontends_not_programmed.is_empty()
    };
    eventually("room", || scene.agent.status().unwrap(), is_complete);
}

/// Checks that exactly the services with these names have no room in `map`, and who answers on the ports from 8000 on;
/// `None` stands for whatever replica.
fn assert_rejected(scene: &SingleNode, map: &str, rejected: &[&str], answers: [Option<&str>; 3]) {
    let status = scene.agent.status().unwrap();
    let found = &status.datapath.frontends_not_programmed;
    assert_eq!(found.len(), rejected.len(), "{found:?}");
    let (_, metrics) = scene.agent.http(&scene.node, "/metrics").unwrap();
    let expected = format!(
        "nodemesh_frontends_not_programmed{{reason=\"map_full\"}} {}\n",
        found.len()
    );
    assert!(
        metrics.contains(&expected),
        "expected {expected:?} in:\n{metrics}"
    );
    for name in rejected {
        let (_, reason) = found
            .iter()
            .find(|(frontend, _)| frontend.contains(name))
            .unwrap();
        assert!(reason.contains(&format!("no room in {map}")), "{found:?}");
        let output = said(&scene.agent.cli(&["status"]).unwrap());
        assert!(output.contains(reason), "{output}");
    }
    for (port, expected) in (8000..).zip(answers) {
        let answers = scene.answers(port);
        let is_right = match expected {
            Some(name) => answers.contains(name) && answers.len() == 1,
            None => !answers.contains(DIRECT),
        };
        assert!(is_right, "port {port}: {answers:?}, {status:?}");
    }
}

#[test]
fn what_finds_no_room_among_the_backends_stays_as_it_was_until_there_is_room() {
    let mut scene = SingleNode::configured();
    let all = scene.service("a", 8000, &[0, 1])
        + &scene.service("b", 8001, &[0, 1])
        + &scene.service("c", 8002, &[0]);
    scene.agent.configure(&all).unwrap();
    scene.agent.start(&["--max-backends", "4"]).unwrap();
    let usage = scene.agent.status().unwrap().datapath.maps["backends"];
    assert_eq!((usage.entries, usage.capacity), (4, 4));
    scene
        .agent
        .process()
        .wait_for_log(|line| line.contains("no room") && line.contains("--max-backends"))
        .unwrap();
    assert_rejected(
        &scene,
        "backends: 4 entries",
        &["models/c"],
        [None, None, Some(DIRECT)],
    );

    // A socket keeps one backend of `b`, which is gone; three ids are left for two services.
    let held = scene.hold(8001, 1);
    scene
        .agent
        .configure(&(scene.service("a", 8000, &[0]) + &scene.service("c", 8002, &[0])))
        .unwrap();
    wait_for_room(&scene, 2);
    assert_rejected(&scene, "backends", &[], [Some("r0"), Some(DIRECT), Some("r0")]);
    // Now four are wanted of the three.
    scene
        .agent
        .configure(&(scene.service("a", 8000, &[0, 1]) + &scene.service("c", 8002, &[1, 0])))
        .unwrap();
    eventually(
        "the third configuration",
        || scene.agent.status().unwrap(),
        |status| status.config.applied_generation == 3,
    );
    assert_rejected(
        &scene,
        "backends",
        &["models/c"],
        [None, Some(DIRECT), Some("r0")],
    );
    drop(held);
    wait_for_room(&scene, 3);
    assert_rejected(&scene, "backends", &[], [None, Some(DIRECT), None]);
    assert_eq!(scene.agent.backends().unwrap().len(), 4);
}

#[test]
fn what_finds_no_room_among_the_services_is_named_and_left_alone_until_there_is_room() {
    let mut scene = SingleNode::configured();
    let [a, b, c] =
        [("a", 8000), ("b", 8001), ("c", 8002)].map(|(name, port)| scene.service(name, port, &[0]));
    scene.agent.configure(&(a.clone() + &b + &c)).unwrap();
    scene.agent.start(&["--max-services", "2"]).unwrap();
    scene
        .agent
        .process()
        .wait_for_log(|line| line.contains("no room") && line.contains("--max-services"))
        .unwrap();
    assert_rejected(
        &scene,
        "services: 2 entries",
        &["models/c"],
        [Some("r0"), Some("r0"), Some(DIRECT)],
    );
    let (code, _) = scene.agent.http(&scene.node, "/readyz").unwrap();
    assert_eq!(code, 200, "the others are served");
    scene.agent.configure(&(b + &c)).unwrap();
    wait_for_room(&scene, 2);
    assert_rejected(&scene, "services", &[], [Some(DIRECT), Some("r0"), Some("r0")]);
    // What is programmed can be changed although what is new finds no room.
    scene
        .agent
        .configure(&(scene.service("b", 8001, &[1]) + &c + &a.replace("name: a", "name: z")))
        .unwrap();
    eventually(
        "the third configuration",
        || scene.agent.status().unwrap(),
        |status| status.config.applied_generation == 3,
    );
    assert_rejected(
        &scene,
        "services",
        &["models/z"],
        [Some(DIRECT), Some("r1"), Some("r0")],
    );
}

#[test]
fn the_agent_recovers_from_a_crash_after_any_step_of_its_first_start() {
    for step in Step::value_variants() {
        let mut scene = SingleNode::configured();
        crash(&scene, *step);
        scene.agent.start(&[]).unwrap();
        assert_whole(&scene, &format!("after a crash at {step:?}"));
    }
}

#[test]
fn a_crash_after_any_step_of_a_restart_leaves_the_data_path_in_force() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&[]).unwrap();
    scene.agent.kill().unwrap();
    for step in Step::value_variants() {
        crash(&scene, *step);
        assert!(scene.is_answered_by(8000, "r0"), "after a crash at {step:?}");
    }
    scene.agent.start(&[]).unwrap();
    assert_whole(&scene, "after a crash at every step");
}

/// Starts the agent, which ends after `step` as by SIGKILL.
fn crash(scene: &SingleNode, step: Step) {
    let word = step.to_possible_value().unwrap();
    let (status, log) = scene
        .agent
        .launch(&["--crash-after", word.get_name()])
        .unwrap()
        .finish()
        .unwrap();
    assert!(was_killed(status), "{step:?}: {status}, {log}");
}

#[test]
fn the_agent_recovers_from_being_killed_at_any_moment_of_its_start() {
    // Lines of the log in their order; the signal arrives some moments later, during what follows.
    const MOMENTS: [&str; 10] = [
        "step=Locked",
        "step=Configured",
        "step=PinsReady",
        "loaded program=\"connect4\"",
        "step=Loaded",
        "reconciled",
        " program=\"getpeername4\"",
        " program=\"set_state\"",
        " program=\"sendmsg4\"",
        "step=Attached",
    ];
    let mut scene = SingleNode::configured();
    for moment in MOMENTS {
        let agent = scene.agent.launch(&["--log", "nodemesh_agent=debug"]).unwrap();
        // A program of the last part is attached, or put in the place of one that an earlier agent attached.
        let is_it =
            |line: &str| line.contains(moment) && (moment.contains("loaded") || !line.contains("loaded"));
        agent.wait_for_log(is_it).unwrap();
        agent.signal(Signal::SIGKILL).unwrap();
        let (status, log) = agent.finish().unwrap();
        assert!(was_killed(status), "{moment}: {status}, {log}");
        // Whatever is attached, all connections go the same way, and none fails.
        let answers = scene.answers(8000);
        assert_eq!(answers.len(), 1, "{moment}: {answers:?}");
    }
    assert!(scene.is_answered_by(8000, "r0"), "the last one got that far");
    scene.agent.start(&[]).unwrap();
    assert_whole(&scene, "after the kills");
}
