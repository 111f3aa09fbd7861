// SPDX-License-Identifier: Apache-2.0
//! What older kernels lack, taken as missing on this one: the data path works, and says what is less.

use std::collections::BTreeSet;

use nodemesh_e2e::{
    attachment,
    eventually::eventually,
    single_node::{SingleNode, said},
};

#[test]
fn without_a_choice_of_errno_a_refusal_is_eperm() {
    let mut scene = SingleNode::configured();
    let drained = scene.backend(0, ", state: draining");
    scene
        .agent
        .configure(&scene.service_of("a", 8000, &drained))
        .unwrap();
    scene.agent.start(&["--without-feature", "set_retval"]).unwrap();
    let refused = scene.connect(8000, 3);
    assert_eq!(
        (refused.ok, refused.errors.get("EPERM")),
        (0, Some(&3)),
        "{refused:?}"
    );
    // The next agent has the helper, in the same links.
    scene.agent.stop().unwrap();
    scene.agent.start(&[]).unwrap();
    let refused = scene.connect(8000, 3);
    assert_eq!(refused.errors.get("ECONNREFUSED"), Some(&3), "{refused:?}");
}

#[test]
fn without_loops_nothing_is_metered_and_connections_are_placed_and_counted() {
    let mut scene = SingleNode::configured();
    scene
        .agent
        .start(&["--without-feature", "bpf_loop", "--without-feature", "set_retval"])
        .unwrap();
    let status = scene.agent.status().unwrap();
    assert_eq!(status.datapath.meter.path, "off");
    assert!(status.ready && status.problems.is_empty(), "{status:?}");
    let attached: BTreeSet<String> = attachment::links(&scene.node.pins())
        .unwrap()
        .into_keys()
        .collect();
    assert!(
        !attached.contains("egress") && !attached.contains("send_length") && attached.contains("connect4")
    );
    let checked = scene.agent.cli(&["check"]).unwrap();
    assert!(
        said(&checked).contains("programs run") && !said(&checked).contains("FAILURE"),
        "{}",
        said(&checked)
    );
    assert!(scene.is_answered_by(8000, "r0"));
    let held = scene.hold(8000, 2);
    eventually(
        "the connections",
        || scene.agent.backends().unwrap()[0].active_connections,
        |active| *active == 2,
    );
    drop(held);
    eventually(
        "their ends",
        || scene.agent.backends().unwrap()[0].active_connections,
        |active| *active == 0,
    );
    assert_eq!(scene.agent.backends().unwrap()[0].connections_total, 6);
    assert_eq!(
        scene
            .scrape()
            .count("nodemesh_meter_path_info", &[("path", "off")]),
        1
    );
    // The next agent meters again.
    scene.agent.stop().unwrap();
    scene.agent.start(&[]).unwrap();
    let links = || attachment::links(&scene.node.pins()).unwrap();
    eventually("all programs", links, |links| *links == attachment::complete());
}

#[test]
fn a_meter_that_is_asked_for_and_cannot_be_is_refused_before_anything_is_attached() {
    let scene = SingleNode::configured();
    let flags = ["--without-feature", "bpf_loop", "--meter-path", "packet"];
    let (status, log) = scene.agent.launch(&flags).unwrap().finish().unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(log.contains("--meter-path auto or off"), "{log}");
    assert!(!scene.node.pins().link("connect4").exists());
    let wrong = scene
        .agent
        .launch(&["--without-feature", "x"])
        .unwrap()
        .finish()
        .unwrap();
    assert!(wrong.1.contains("x is no feature"), "{}", wrong.1);
}
