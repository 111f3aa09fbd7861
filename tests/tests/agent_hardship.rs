// SPDX-License-Identifier: Apache-2.0
//! The agent in a bad place: too little memory, a file system for pins or for its state that takes nothing more, a socket of somebody
//! else, a stop in the middle. The data path goes on, and what is wrong is said.
#![expect(clippy::unwrap_used, reason = "what a test calls panics like the test")]

use std::{
    fs,
    os::unix::{fs::chown, net::UnixListener},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use nix::sys::signal::Signal;
use nodemesh_e2e::{
    attachment,
    bed::{Bed, Family, connect},
    control::ControlPlane,
    eventually::eventually,
    manifest::{Manifest, Service},
    single_node::SingleNode,
};

fn started() -> SingleNode {
    SingleNode::started(|scene| scene.service("a", 8000, &[0]), &[])
}

/// A cgroup that limits memory, of version 1 or 2, whichever this machine has.
struct Limited {
    folder: PathBuf,
    limit: &'static str,
}

impl Limited {
    fn new(scene: &SingleNode, bytes: u64) -> Self {
        // Scenes of tests that run at the same time have nodes of the same name, and folders of their own.
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("nm{}-limited-{number}", std::process::id());
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (folder, limit) = if v1.join("memory.limit_in_bytes").exists() {
            (v1.join(name), "memory.limit_in_bytes")
        } else {
            let root = scene.node.cgroup().ancestors().nth(2).unwrap();
            fs::write(root.join("cgroup.subtree_control"), "+memory").unwrap();
            (root.join(name), "memory.max")
        };
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join(limit), bytes.to_string()).unwrap();
        Self { folder, limit }
    }

    /// A shell command that runs the agent inside.
    fn script(&self) -> String {
        format!("echo $$ > {}/cgroup.procs; exec \"$@\"", self.folder.display())
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        // The kernel gives it up once its last process is gone; what is left is an empty folder.
        let _ = fs::write(self.folder.join(self.limit), "max");
        let _ = nodemesh_e2e::eventually::wait_until(std::time::Duration::from_secs(5), || {
            fs::remove_dir(&self.folder).is_ok()
        });
    }
}

#[test]
fn sixty_four_megabytes_are_enough_to_restart_and_too_little_to_load_without_harm() {
    let mut scene = started();
    let limited = Limited::new(&scene, 64 << 20);
    scene.agent.kill().unwrap();
    let agent = scene.agent.launch_through(&limited.script(), &[]).unwrap();
    agent.wait_for_log(|line| line.contains(" ready ")).unwrap();
    assert!(scene.is_answered_by(8000, "r0"));
    scene.agent.reconfigure(&scene.service("a", 8000, &[1])).unwrap();
    assert!(scene.is_answered_by(8000, "r1"));
    agent.signal(Signal::SIGKILL).unwrap();
    agent.finish().unwrap();

    // The verifier takes more than that, and the kernel ends who asked for it.
    scene.agent.disown_programs().unwrap();
    let held = scene.hold(8000, 2);
    let agent = scene.agent.launch_through(&limited.script(), &[]).unwrap();
    let (status, log) = agent.finish().unwrap();
    assert!(!status.success(), "{status}: {log}");
    assert!(scene.is_answered_by(8000, "r1"));
    assert_eq!(
        attachment::links(&scene.node.pins()).unwrap(),
        attachment::complete()
    );
    scene.agent.start(&[]).unwrap();
    assert_eq!(scene.agent.connections().unwrap().len(), 2);
    drop(held);
}

#[test]
fn a_first_start_with_little_memory_has_the_programs_verified_one_after_the_other() {
    let scene = SingleNode::configured();
    // Two of the large ones at a time take more than that.
    let limited = Limited::new(&scene, 288 << 20);
    let agent = scene.agent.launch_through(&limited.script(), &[]).unwrap();
    agent.wait_for_log(|line| line.contains(" ready ")).unwrap();
    assert!(scene.is_answered_by(8000, "r0"));
    assert!(agent.stop().unwrap().success());
}

#[test]
fn a_first_start_without_memory_for_the_maps_fails_and_leaves_connections_alone() {
    let mut scene = SingleNode::configured();
    let limited = Limited::new(&scene, 24 << 20);
    let agent = scene.agent.launch_through(&limited.script(), &[]).unwrap();
    let (status, log) = agent.finish().unwrap();
    // By itself with a message, or by the kernel's hand.
    assert!(!status.success(), "{status}: {log}");
    let answers = scene.answers(8000);
    assert_eq!(answers.len(), 1, "all go where they are addressed: {answers:?}");
    scene.agent.start(&[]).unwrap();
    assert!(scene.is_answered_by(8000, "r0"));
    assert_eq!(
        attachment::links(&scene.node.pins()).unwrap(),
        attachment::complete()
    );
}

/// Files in a folder and those below it; none where there is no folder.
fn files(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let below = |path: PathBuf| if path.is_dir() { files(&path) } else { 1 };
    entries.flatten().map(|entry| below(entry.path())).sum()
}

#[test]
fn a_cleanup_that_is_killed_at_any_moment_can_be_repeated_or_followed_by_a_start() {
    let mut scene = started();
    let pins = scene.node.pins().path().to_owned();
    for (round, gone) in [1, 6, 12, 20, 30, 45].into_iter().enumerate() {
        assert!(scene.agent.stop().unwrap().success());
        let all = files(&pins);
        let mut cleanup = scene.agent.launch_cleanup().unwrap();
        while files(&pins) + gone > all && cleanup.try_wait().unwrap().is_none() {}
        cleanup.kill().unwrap();
        cleanup.wait().unwrap();
        assert!(files(&pins) < all, "{gone} files: it had begun");
        let answers = scene.answers(8000);
        assert_eq!(answers.len(), 1, "{gone} files: {answers:?}");
        if round % 2 == 0 {
            let output = scene.agent.cleanup().unwrap();
            assert!(output.status.success(), "{gone} files: {output:?}");
            assert!(!pins.exists(), "{gone} files");
        }
        scene.agent.start(&[]).unwrap();
        let links = || attachment::links(&scene.node.pins()).unwrap();
        eventually("every link", links, |links| *links == attachment::complete());
        assert!(scene.is_answered_by(8000, "r0"), "{gone} files");
    }
}

#[test]
fn pins_that_cannot_be_written_are_told_and_what_runs_goes_on() {
    let mut scene = started();
    let held = scene.hold(8000, 2);
    scene.agent.kill().unwrap();
    scene.agent.disown_programs().unwrap();
    let read_only = "mount --bind /sys/fs/bpf /sys/fs/bpf; mount -o remount,bind,ro /sys/fs/bpf";
    let agent = scene.agent.launch_in_own_mounts(read_only, &[]).unwrap();
    let (status, log) = agent.finish().unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(log.contains("Read-only file system"), "{log}");
    assert!(scene.is_answered_by(8000, "r0"));
    assert_eq!(
        attachment::links(&scene.node.pins()).unwrap(),
        attachment::complete()
    );
    scene.agent.start(&[]).unwrap();
    assert_eq!(scene.agent.connections().unwrap().len(), 2);
    drop(held);
}

#[test]
fn a_socket_of_somebody_else_is_replaced_and_a_folder_in_its_place_is_named() {
    let mut scene = started();
    let socket = scene.agent.run_dir().join("agent.sock");
    scene.agent.kill().unwrap();
    fs::remove_file(&socket).unwrap();
    // Who owns it serves nobody any more, and the new one is root's alone.
    let _theirs = UnixListener::bind(&socket).unwrap();
    chown(&socket, Some(65_534), Some(65_534)).unwrap();
    scene.agent.start(&[]).unwrap();
    assert!(scene.agent.status().unwrap().ready);
    let metadata = fs::metadata(&socket).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o777;
    assert_eq!((std::os::unix::fs::MetadataExt::uid(&metadata), mode), (0, 0o600));

    scene.agent.kill().unwrap();
    fs::remove_file(&socket).unwrap();
    fs::create_dir(&socket).unwrap();
    let (status, log) = scene.agent.launch(&[]).unwrap().finish().unwrap();
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(
        log.contains("agent.sock: Is a directory") && log.contains("--run-dir"),
        "{log}"
    );
    assert!(scene.is_answered_by(8000, "r0"));
}

#[test]
fn an_agent_that_is_stopped_for_a_while_goes_on_where_it_was() {
    let scene = started();
    let agent = scene.agent.process();
    agent.signal(Signal::SIGSTOP).unwrap();
    let stopped = || fs::read_to_string(format!("/proc/{}/stat", agent.pid())).unwrap();
    eventually("the stop", stopped, |stat| stat.contains(") T "));
    // Nobody mends a pin now, and nobody reads the configuration.
    fs::remove_file(scene.node.pins().map("services")).unwrap();
    scene.agent.configure(&scene.service("a", 8000, &[1])).unwrap();
    assert!(scene.is_answered_by(8000, "r0"), "placed as before");
    let held = scene.hold(8000, 3);
    agent.signal(Signal::SIGCONT).unwrap();
    eventually(
        "the configuration of meanwhile",
        || scene.answers(8000),
        |answers| answers.contains("r1") && answers.len() == 1,
    );
    let pin = scene.node.pins().map("services");
    eventually("the pin", || pin.exists(), |exists| *exists);
    let backends = scene.agent.backends().unwrap();
    let active: u64 = backends.iter().map(|backend| backend.active_connections).sum();
    assert_eq!(active, 3, "counted while it slept: {backends:?}");
    drop(held);
}

#[test]
fn a_full_disk_for_the_state_is_told_and_the_mesh_follows_the_control_plane() {
    let bed = Bed::new();
    let replicas = bed.replicas(2);
    let mut control = ControlPlane::new(bed.b.pod("control").unwrap());
    control.start(&[]).unwrap();
    let service = |index: usize| {
        let backend = replicas[index].at(Family::V4);
        Manifest::of([Service::new("echo", Family::V4.vip(1)).to([backend])])
    };
    control.apply(&service(0));
    let state = bed.agent.state_dir().display().to_string();
    // Two pages, of which the state gets none.
    let full = format!(
        "mkdir -p {state}; mount -t tmpfs -o size=8k tmpfs {state}; dd if=/dev/zero of={state}/rest bs=4096 count=2 status=none"
    );
    let flags = control.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let agent = bed.agent.launch_in_own_mounts(&full, &flags).unwrap();
    agent
        .wait_for_log(|line| line.contains("the control plane's state is not saved"))
        .unwrap();
    let answer = |to: &str| {
        eventually(
            "the replica",
            || connect(&bed.client.place(), Family::V4.vip(1), &["--count", "4"]).replicas,
            |replicas| replicas.len() == 1 && replicas.contains_key(to),
        );
    };
    answer(replicas[0].name());
    control.apply(&service(1));
    answer(replicas[1].name());
    assert_eq!(bed.agent.status().unwrap().config.control.unwrap().saved_at, None);
    drop(agent);
}
