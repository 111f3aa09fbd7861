// SPDX-License-Identifier: Apache-2.0
//! A connection whose packets no longer arrive, in either direction, without a word to either end.

use std::time::{Duration, Instant};

use nodemesh_e2e::{
    bed::{Bed, Connecting},
    control::ControlPlane,
    eventually::{eventually, wait_until},
};

use super::{empty, follow, serve, services};

/// Keepalive of the agent, 20 s and 10 s for an answer, and some for a busy machine.
const AGENT_NOTICES: Duration = Duration::from_secs(35);
/// Keepalive of the control plane, 10 s and 5 s for an answer, and the same.
const CONTROL_NOTICES: Duration = Duration::from_secs(20);

#[test]
fn a_half_open_connection_is_noticed_by_both_ends_and_replaced() {
    let mut bed = Bed::new();
    let mut control = ControlPlane::new(bed.b.pod("control").expect("a pod"));
    control.start(&[]).expect("start the control plane");
    follow(&mut bed.agent, &control, &[]);
    let (_replica, address) = serve(&bed, &control);
    let connecting = Connecting::start(bed.client.place(), address);
    let is_connected = || {
        let status = bed.agent.status().expect("nodemesh status");
        status
            .config
            .control
            .expect("it follows a control plane")
            .connected
            .is_some()
    };
    let nodes = || control.get(&["nodes"]).as_array().map(Vec::len);
    assert!(is_connected() && nodes() == Some(1));

    // The node of the control plane drops what goes from one to the other; the agent's address is that of its node.
    let routes = |verb: &str| {
        let route = |to: &str| format!("route {verb} blackhole {to}/32");
        let lines = [route("192.168.0.1"), route(&control.ip().to_string())];
        bed.b.netns().configure(&lines).expect("change routes");
    };
    let began = Instant::now();
    routes("add");
    wait_until(CONTROL_NOTICES, || nodes() == Some(0)).expect("the control plane notices");
    control.apply(&empty("mistral", 2));
    let left = AGENT_NOTICES.saturating_sub(began.elapsed());
    wait_until(left, || !is_connected()).expect("the agent notices");
    assert_eq!(services(&bed.agent).len(), 1, "nothing can have come");

    routes("del");
    eventually(
        "what came meanwhile",
        || services(&bed.agent).len(),
        |count| *count == 2,
    );
    assert!(is_connected() && nodes() == Some(1));
    connecting.finish();
}
