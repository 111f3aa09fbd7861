// SPDX-License-Identifier: Apache-2.0
//! The faults, planted one at a time.

use std::{fs, net::TcpListener};

use nix::sys::signal::Signal;
use nodemesh_agent::check::Verdict;
use nodemesh_e2e::{eventually::eventually, foreign::ForeignProgram, single_node::SingleNode};

use super::Checked;

const FAILURE: Verdict = Verdict::Failure;
const WARNING: Verdict = Verdict::Warning;

#[test]
fn no_bpf_file_system() {
    let scene = SingleNode::configured();
    let elsewhere = scene.agent.config().with_file_name("pins").display().to_string();
    let checked = Checked::on(&scene, &["--pin-dir", &elsewhere]);
    checked.names_only("bpffs", FAILURE, &elsewhere, "mount -t bpf bpf /sys/fs/bpf");
}

#[test]
fn no_cgroup_v2() {
    let scene = SingleNode::configured();
    let folder = scene.agent.config().parent().unwrap().display().to_string();
    let checked = Checked::on(&scene, &["--cgroup", &folder]);
    checked.names_only(
        "cgroup",
        FAILURE,
        "not in a cgroup v2 hierarchy",
        "mount -t cgroup2",
    );
}

#[test]
fn capabilities_taken_away() {
    let scene = SingleNode::configured();
    let lesser = [
        "setpriv",
        "--bounding-set=-bpf,-sys_admin",
        "--inh-caps=-bpf,-sys_admin",
    ];
    let checked = Checked::after(&scene, ":", &lesser, &[]);
    checked.names(
        "privileges",
        FAILURE,
        "CAP_SYS_ADMIN, CAP_BPF",
        "capabilities.add",
    );
}

#[test]
fn kernel_types_hidden() {
    let scene = SingleNode::configured();
    let checked = Checked::after(&scene, "mount -t tmpfs none /sys/kernel/btf", &[], &[]);
    checked.names("btf", FAILURE, "/sys/kernel/btf/vmlinux", "CONFIG_DEBUG_INFO_BTF");
}

#[test]
fn a_wrong_field() {
    let mut scene = SingleNode::configured();
    let good = scene.service("a", 8000, &[0]);
    scene.agent.start(&[]).unwrap();
    scene
        .agent
        .configure(&good.replace("port: 8000", "port: 80000"))
        .unwrap();
    eventually(
        "the refusal",
        || scene.agent.status().unwrap(),
        |status| !status.config.errors.is_empty(),
    );
    let checked = Checked::on(&scene, &[]);
    checked.names("resources", FAILURE, "80000", "the last good configuration");
    checked.names("reload", FAILURE, "ports[0].port", "correct the field");
}

#[test]
fn no_control_plane() {
    let scene = SingleNode::configured();
    let checked = Checked::on(&scene, &["--control", "http://127.0.0.1:1"]);
    checked.names_only(
        "control",
        FAILURE,
        "http://127.0.0.1:1: Connection refused",
        "start nodemesh-control",
    );
}

#[test]
fn the_port_is_taken() {
    let scene = SingleNode::configured();
    let netns = scene.node.netns();
    let other = netns
        .run(|| TcpListener::bind("127.0.0.1:9464").unwrap())
        .unwrap();
    let checked = Checked::on(&scene, &[]);
    checked.names_only("http", FAILURE, "127.0.0.1:9464", "another address with --http");
    drop(other);
}

#[test]
fn the_run_directory_is_read_only() {
    let scene = SingleNode::configured();
    let folder = scene.agent.config().parent().unwrap().display().to_string();
    let preparation = format!("mount --bind {folder} {folder}; mount -o remount,bind,ro {folder}");
    let checked = Checked::after(&scene, &preparation, &[], &[]);
    checked.names_only("folders", FAILURE, "Read-only file system", "--run-dir");
}

#[test]
fn a_dead_agent() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&[]).unwrap();
    scene.agent.kill().unwrap();
    let checked = Checked::on(&scene, &[]);
    checked.names_only("agent", FAILURE, "no agent runs", "start nodemesh-agent");
}

#[test]
fn a_stopped_agent() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&[]).unwrap();
    let pid = scene.agent.process().pid();
    scene.agent.process().signal(Signal::SIGSTOP).unwrap();
    let checked = Checked::on(&scene, &[]);
    scene.agent.process().signal(Signal::SIGCONT).unwrap();
    checked.names_only(
        "agent",
        FAILURE,
        "state T (stopped)",
        &format!("kill -CONT {pid}"),
    );
}

#[test]
fn removed_pins() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&[]).unwrap();
    scene.agent.kill().unwrap();
    fs::remove_file(scene.node.pins().link("connect4")).unwrap();
    let checked = Checked::on(&scene, &[]);
    checked.names(
        "attachment",
        FAILURE,
        "connect4; their pins are gone",
        "restart nodemesh-agent",
    );
}

#[test]
fn pins_of_another_abi() {
    let scene = SingleNode::configured();
    scene.node.pins().create().unwrap();
    fs::create_dir(scene.node.pins().path().join("v99")).unwrap();
    let checked = Checked::on(&scene, &[]);
    fs::remove_dir(scene.node.pins().path().join("v99")).unwrap();
    checked.names("bpffs", WARNING, "v99", "nodemesh cleanup");
}

#[test]
fn no_room() {
    let mut scene = SingleNode::configured();
    let all =
        scene.service("a", 8000, &[0]) + &scene.service("b", 8001, &[0]) + &scene.service("c", 8002, &[0]);
    scene.agent.configure(&all).unwrap();
    scene.agent.start(&["--max-services", "2"]).unwrap();
    let checked = Checked::on(&scene, &[]);
    checked.names("programmed", FAILURE, "models/c", "--max-services");
    checked.names("maps", WARNING, "services 2 of 2", "--max-services");
}

#[test]
fn more_connections_than_are_tracked() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&["--max-connections", "1"]).unwrap();
    let held = scene.hold(8000, 3);
    let checked = Checked::on(&scene, &[]);
    drop(held);
    checked.names("losses", WARNING, "connection_table ", "--max-connections");
}

#[test]
fn a_service_without_replicas() {
    let mut scene = SingleNode::configured();
    let drained = scene.backend(0, ", state: draining");
    scene
        .agent
        .configure(&scene.service_of("a", 8000, &drained))
        .unwrap();
    scene.agent.start(&[]).unwrap();
    let checked = Checked::on(&scene, &[]);
    checked.names_only("services", FAILURE, "models/a", "nodemesh backends");
}

#[test]
fn cilium_at_our_hooks() {
    let mut scene = SingleNode::configured();
    scene.agent.start(&[]).unwrap();
    let cilium = ForeignProgram::beside(&scene.node, "cil_sock4_conne").unwrap();
    let checked = Checked::on(&scene, &[]);
    checked.names_only(
        "neighbours",
        WARNING,
        "Cilium's socket load balancer: cil_sock4_conne",
        "socketLB",
    );
    drop(cilium);
    assert!(Checked::on(&scene, &[]).bad().is_empty());
}

#[test]
fn somebody_who_lets_nobody_else_attach() {
    let scene = SingleNode::configured();
    let selfish = ForeignProgram::alone(&scene.node, "selfish").unwrap();
    let checked = Checked::on(&scene, &[]);
    let cgroup = scene.node.cgroup().display().to_string();
    checked.names("exclusive", FAILURE, &cgroup, "bpftool cgroup detach");
    drop(selfish);
    assert!(Checked::on(&scene, &[]).bad().is_empty());
}
