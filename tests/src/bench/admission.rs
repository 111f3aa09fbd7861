// SPDX-License-Identifier: Apache-2.0
//! Case `admission`: what a policy of 10,000 rules and limits add to `connect()`. On UDP, so that the backends need not exist, and by
//! the kernel's own statistics of the programs: system calls vary by more than what is measured.

use std::{fmt::Write as _, net::SocketAddr};

use anyhow::Result;

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    series::Series,
};

/// Rules of the policy.
const RULES: u32 = 10_000;
/// Nanoseconds that a policy and limits may add to a connect.
const POLICY_LIMIT: f64 = 80.0;
const LIMITS_LIMIT: f64 = 100.0;
/// Limits of every kind, which nobody meets.
const LIMITS: &str = "  limits:
    connectionsPerSecond: 1000000
    connections: 1000000
    requests: 1000000
    perClient: {connectionsPerSecond: 1000000, connections: 1000000, requests: 1000000}
    perBackend: {connectionsPerSecond: 1000000, connections: 1000000, requests: 1000000}
";

/// What a service has, by its number.
const KINDS: [&str; 5] = [
    "nothing",
    "nothing, once more",
    "a policy of 10,000 rules",
    "limits of service, client and backend",
    "both",
];

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let addresses: Vec<SocketAddr> = (1..=KINDS.len() as u8).map(virtual_address).collect();
    let mut yaml = String::new();
    for (kind, address) in addresses.iter().enumerate() {
        let backends = [1, 2].map(|last| (SocketAddr::from(([10, 128, 0, last], 8000)), 1));
        yaml += &service(&format!("s{kind}"), *address, "UDP", "least-request", backends);
        if kind >= 3 {
            yaml += LIMITS;
        }
    }
    for kind in [2, 4] {
        yaml += &policy(kind);
    }
    lab.start(&yaml, true)?;
    let connect = measure(run, &lab, &addresses)?;
    let mut table = Table::new(&["the service has", "`connect4`, ns", "more than nothing, ns"]);
    for (index, kind) in KINDS.into_iter().enumerate() {
        table.row(&[
            kind.to_owned(),
            connect[index].shown(1.0, 0),
            connect[index].less(&connect[0]).shown(1.0, 0),
        ]);
    }
    let verdict = |index: usize, limit: f64| {
        let more = connect[index].less(&connect[0]).median();
        format!(
            "{more:.0} ns of {limit:.0}: {}",
            if more <= limit { "met" } else { "**not met**" }
        )
    };
    Ok(format!(
        "{table}\nIn turns, {} rounds. A policy adds {}; limits add {}.\n",
        connect[0].len(),
        verdict(2, POLICY_LIMIT),
        verdict(3, LIMITS_LIMIT)
    ))
}

/// A policy of a service, the last of whose rules lets the client in.
fn policy(kind: usize) -> String {
    let mut yaml = format!(
        "---
apiVersion: nodemesh.io/v1alpha1
kind: AccessPolicy
metadata: {{name: s{kind}, namespace: bench}}
spec:
  targetRef: {{kind: Service, name: s{kind}}}
  rules:
"
    );
    for rule in 1..RULES {
        let _ = writeln!(
            yaml,
            "    - {{action: allow, from: [{{namespaces: [apps], workloads: [w{rule}]}}]}}"
        );
    }
    yaml + "    - {action: allow, from: [{unknown: true}]}\n"
}

/// Time of `connect4`, per address.
fn measure(run: &Run, lab: &Lab, addresses: &[SocketAddr]) -> Result<Vec<Series>> {
    let mut results = vec![Series::default(); addresses.len()];
    for _ in 0..run.scaled(5, 21) {
        for (series, address) in results.iter_mut().zip(addresses) {
            run.step()?;
            let before = lab.programs()?;
            let count = run.scaled(5_000, 20_000);
            lab.bench_connect(Side::Mesh, Cpus::One, &[*address], &["--udp"], count)?;
            series.push(lab.programs()?.since(&before, "connect4").per_run());
        }
    }
    Ok(results)
}
