// SPDX-License-Identifier: Apache-2.0
//! A rolling restart of servers outside Kubernetes: each replica of a service is ended and started again by `nodemesh register`, in
//! turn, under streams, and no client notices.

use std::{collections::BTreeSet, net::SocketAddr};

use nix::sys::signal::Signal;
use nodemesh_agent::api::{Backend, BackendState};
use nodemesh_e2e::{
    eventually::eventually,
    fleet::Fleet,
    process::{Process, binary},
    topology::Pod,
};
use serde_json::Value;

const SERVICE: &str = "llama";
const PORT: u16 = 9000;

/// Runs a model server called `name` in `pod`, registered as the workload `workload`.
fn serve(fleet: &Fleet, pod: &Pod, workload: &str, name: &str) -> Process {
    let program = binary("model-server").display().to_string();
    let listen = SocketAddr::new(pod.v4(), PORT).to_string();
    let command = [&*program, "--listen", &listen, "--name", name];
    fleet.register_in(pod, (SERVICE, workload), PORT, &command)
}

/// Waits until the clients' node has sent connections to all `count` replicas.
fn wait_for_replicas(fleet: &Fleet, count: usize) {
    let in_use = || {
        let backends = fleet.agents[0].backends().expect("backends");
        let used =
            |backend: &&Backend| backend.state == BackendState::Active && backend.connections_total > 1;
        backends.iter().filter(used).count()
    };
    eventually("the replicas", in_use, |found| *found == count);
}

#[test]
fn each_replica_is_replaced_in_turn_and_no_connection_fails_and_no_stream_breaks() {
    let fleet = Fleet::new();
    let address = fleet.select(SERVICE);
    let pods = ["r0", "r1", "r2"].map(|name| (name, fleet.pod(name)));
    let mut servers: Vec<Process> = pods
        .iter()
        .map(|(name, pod)| serve(&fleet, pod, name, &format!("{name}-old")))
        .collect();

    let url = format!("http://{address}");
    let load = |flags: &[&str]| {
        let common = ["--url", &url, "--concurrency", "6", "--finish"];
        let arguments = [&common, flags].concat();
        fleet.client.spawn("load-client", &arguments).expect("a client")
    };
    let kept = ["--mode", "keep-alive", "--requests-per-connection", "4"];
    eventually(
        "the service",
        || fleet.agents[0].backends().expect("backends").len(),
        |found| *found == pods.len(),
    );
    let clients = [load(&[]), load(&kept)];
    wait_for_replicas(&fleet, pods.len());

    for (server, (name, pod)) in servers.iter_mut().zip(&pods) {
        server.signal(Signal::SIGTERM).expect("SIGTERM");
        let status = server.wait().expect("its end");
        assert!(status.success(), "{status}: {:?}", server.output());
        *server = serve(&fleet, pod, name, &format!("{name}-new"));
        wait_for_replicas(&fleet, pods.len());
    }

    let mut answered = BTreeSet::new();
    for client in clients {
        client.signal(Signal::SIGTERM).expect("SIGTERM");
        let (report, status) = client.report::<Value>().expect("a report");
        let requests = &report["requests"];
        let failed = requests["failed"].as_object().expect("kinds of failures");
        assert!(
            status.success() && failed.values().all(|count| count == 0) && requests["aborted"] == 0,
            "{report:#}"
        );
        let replicas = report["replicas"].as_object().expect("replicas");
        answered.extend(replicas.keys().cloned());
    }
    for name in ["r0-old", "r1-old", "r2-old", "r0-new", "r1-new"] {
        assert!(answered.contains(name), "{name} never answered: {answered:?}");
    }
}
