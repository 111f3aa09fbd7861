// SPDX-License-Identifier: Apache-2.0
//! What is said before anything runs: who takes part, what will happen, and how to read the table.

use std::fmt::Write as _;

use super::{
    mesh,
    replica::Speed,
    roles::{CLIENTS, CONTROL_NODE, NEWCOMER, NODES, REPLICAS},
    script::Timing,
};

/// What runs and what will be seen.
pub(super) fn picture(timing: Timing) -> String {
    let mut text =
        "nodemesh demo: two nodes, one control plane, four model servers, four clients, and no proxy.\n\n"
            .to_owned();
    for (node, name) in NODES.into_iter().enumerate() {
        let control = if node == CONTROL_NODE {
            ", nodemesh-control in a pod"
        } else {
            ""
        };
        let _ = writeln!(text, "  node {name}: nodemesh-agent{control}");
        let _ = writeln!(text, "    servers  {}", servers(node).join(", "));
        let _ = writeln!(text, "    clients  {}", clients(node).join(", "));
    }
    let [v4, v6] = [0, 1].map(mesh::service_address);
    let _ = write!(
        text,
        "
  Every client dials {v4} or {v6}. No process listens there and no interface has these addresses:
  inside connect(), the kernel draws two replicas and takes the one with fewer open connections. Nobody lists the replicas:
  each is started by `nodemesh register`, which keeps a lease of {} s at the control plane as long as the server lives.

{timing}
   then    one replica freezes in the middle of its streams while its /health says 200, and thaws
   last    a policy denies one of two clients, and is deleted

  In the table: ACTIVE, TOTAL and SHARE of the new connections are the kernels' counts (nodemesh backends), TOKENS/S is what
  clients saw. TTFT (time to first token) and ITL (between two tokens) are mean, median and 99th percentile in milliseconds:
  as the kernel of the replica's node measured them, without decrypting or proxying anything, and as the clients saw them; the
  kernel's quantiles are interpolated within a bucket of its histogram. IN FLIGHT are the requests that the kernel counts as
  open, beside those that the server itself knows.
",
        mesh::LEASE.as_secs()
    );
    text
}

fn servers(node: usize) -> Vec<String> {
    let servers = REPLICAS[..NEWCOMER].iter().filter(|cast| cast.node == node);
    let described = servers.map(|cast| {
        let Speed { prefill, token } = cast.speed;
        format!("{} ({prefill} ms, then {token} ms a token)", cast.name)
    });
    described.collect()
}

fn clients(node: usize) -> Vec<String> {
    let clients = CLIENTS.iter().filter(|cast| cast.node == node);
    let described = clients.map(|cast| {
        let family = if cast.address == 0 { "IPv4" } else { "IPv6" };
        format!("{} ({} {} streams, {family})", cast.name, cast.streams, cast.mode)
    });
    described.collect()
}
