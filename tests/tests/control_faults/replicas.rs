// SPDX-License-Identifier: Apache-2.0
//! Two control planes over one etcd: either may go, and etcd may fail.

use nodemesh_e2e::{
    bed::{Bed, Connecting},
    control::ControlPlane,
    etcd::Etcd,
    eventually::eventually,
};

use super::{Journal, empty, serve, services};

/// An agent that follows two control planes.
struct Replicated {
    bed: Bed,
    controls: [ControlPlane; 2],
    etcd: Etcd,
}

impl Replicated {
    fn new() -> Self {
        let bed = Bed::new();
        let pod = |name| bed.b.pod(name).expect("a pod");
        let etcd = Etcd::start(pod("etcd")).expect("start etcd");
        let controls = ["control-0", "control-1"].map(|name| ControlPlane::new(pod(name)));
        let mut replicated = Self { bed, controls, etcd };
        for index in 0..2 {
            replicated.start(index);
        }
        let flags = ["--control", &replicated.urls().join(","), "--control-plaintext"];
        replicated.bed.agent.start(&flags).expect("start an agent");
        replicated
    }

    fn start(&mut self, index: usize) {
        let store = self.etcd.store_url();
        self.controls[index]
            .start(&["--store", &store])
            .expect("start a control plane");
    }

    fn urls(&self) -> Vec<String> {
        self.controls.iter().map(ControlPlane::url).collect()
    }

    /// The control plane that the agent is connected to.
    fn connected(&self) -> Option<usize> {
        let status = self.bed.agent.status().expect("nodemesh status");
        let url = status
            .config
            .control
            .expect("it follows a control plane")
            .connected?;
        self.urls().iter().position(|known| *known == url)
    }
}

#[test]
fn an_agent_moves_to_another_control_plane_when_its_own_is_killed() {
    let mut fleet = Replicated::new();
    let (_replica, address) = serve(&fleet.bed, &fleet.controls[0]);
    let connecting = Connecting::start(fleet.bed.client.place(), address);
    for round in 1..=2_u8 {
        let own = eventually("a connection", || fleet.connected(), Option::is_some).expect("it is connected");
        let other = 1 - own;
        fleet.controls[own].kill().expect("kill a control plane");
        // The change comes from a control plane that the agent has never seen, or long ago.
        fleet.controls[other].apply(&empty(&format!("s{round}"), 10 + round));
        let expected = usize::from(round) + 1;
        eventually(
            "the change",
            || services(&fleet.bed.agent),
            |names| names.len() == expected,
        );
        assert_eq!(fleet.connected(), Some(other));
        fleet.start(own);
    }
    connecting.finish();
    let listed = |index: usize| fleet.controls[index].get(&["services", "-A"]);
    eventually(
        "the same resources",
        || [listed(0), listed(1)],
        |[one, other]| one["items"] == other["items"],
    );
}

#[test]
fn nothing_acknowledged_is_lost_when_etcd_is_killed_or_paused_and_connections_go_on() {
    let mut fleet = Replicated::new();
    let (_replica, address) = serve(&fleet.bed, &fleet.controls[0]);
    let connecting = Connecting::start(fleet.bed.client.place(), address);
    let journal = Journal::start(fleet.bed.client.netns(), fleet.urls(), "w", 1);
    journal.until_acknowledged(20);
    fleet.etcd.kill().expect("kill etcd");
    journal.until_failed();
    fleet.etcd.restart().expect("start etcd again");
    journal.until_acknowledged(20);
    fleet.etcd.pause(true).expect("pause etcd");
    journal.until_failed();
    fleet.etcd.pause(false).expect("let etcd go on");
    journal.until_acknowledged(20);
    let told = journal.finish();
    connecting.finish();
    for control in &mut fleet.controls {
        assert!(!control.has_ended(), "it stays while its store is away");
    }
    // What one was told, both know, and know again after a restart; and the agent has it in its kernel.
    eventually(
        "the same resources",
        || {
            fleet
                .controls
                .each_ref()
                .map(|control| control.get(&["services", "-A"]))
        },
        |[one, other]| one["items"] == other["items"],
    );
    fleet.controls[1].kill().expect("kill a control plane");
    fleet.start(1);
    for control in &fleet.controls {
        told.compare(control, "w");
    }
    let listed = fleet.controls[0].get(&["services", "-A"]);
    let expected = listed["items"].as_array().expect("a list").len();
    eventually(
        "all in the kernel",
        || services(&fleet.bed.agent).len(),
        |count| *count == expected,
    );
}
