// SPDX-License-Identifier: Apache-2.0
//! An `EndpointSlice` changes: when the kernel of a node has it, and the last of 100 simulated agents.

use std::{net::IpAddr, time::Instant};

use anyhow::{Result, ensure};

use super::{
    super::{
        Run,
        control_agents::SimulatedAgents,
        control_lab::{SWITCHED, endpoint},
        markdown::Table,
        series::Series,
    },
    ClusterLab, NAMESPACE, Served, fresh, service, slice,
};

const AGENTS: usize = 100;
/// Services that are there beside the one that changes.
const OTHERS: u32 = 100;
/// Milliseconds that 99 of 100 changes may take, from the acknowledgement by the API server.
const TARGET_MS: f64 = 100.0;

pub(super) fn run(run: &Run) -> Result<String> {
    let mut table = Table::new(&[
        "one of 101 EndpointSlices changes, 100 agents connected",
        "p50",
        "p99",
        "most",
    ]);
    let mut slowest = 0.0_f64;
    let mut all = vec![(Served::Double, "the double")];
    if Served::best() == Served::Real {
        all.insert(0, (Served::Real, "a real API server"));
    }
    for (served, what) in all {
        let measured = measure(run, served)?;
        for (where_to, series) in [
            ("the kernel of a node", &measured.kernel),
            ("the last agent", &measured.agents),
        ] {
            let ms = |share| format!("{:.1} ms", series.quantile(share));
            table.row(&[
                format!("{what}: acknowledgement to {where_to}"),
                ms(0.5),
                ms(0.99),
                ms(1.0),
            ]);
            slowest = slowest.max(series.quantile(0.99));
        }
    }
    let met = if slowest <= TARGET_MS {
        "met"
    } else {
        "**not met**"
    };
    Ok(format!(
        "{table}\nTarget: at most {TARGET_MS} ms for 99 of 100: {met}.\n"
    ))
}

#[derive(Default)]
struct Measured {
    kernel: Series,
    agents: Series,
}

fn measure(run: &Run, served: Served) -> Result<Measured> {
    let mut cluster = ClusterLab::new(served, |api| {
        let others = (1..=OTHERS).flat_map(|number| {
            let name = format!("s{number}");
            [
                service(&name, number),
                slice(&name, [endpoint(number)].into_iter()),
            ]
        });
        let changing = [
            service(SWITCHED, OTHERS + 1),
            slice(SWITCHED, [endpoint(0)].into_iter()),
        ];
        api.apply(&others.chain(changing).collect::<Vec<_>>());
        Ok(())
    })?;
    cluster.lab.start_agent()?;
    let lab = &cluster.lab;
    let mut agents = SimulatedAgents::start(&lab.clients, &lab.control.url(), AGENTS)?;
    let rows = lab.rows()?;
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/{SWITCHED}");
    let (requests, mut measured) = (cluster.api.requests(), Measured::default());
    for round in 0..run.scaled(100, 300) {
        run.step()?;
        let address = fresh(round);
        let changed = slice(SWITCHED, [address].into_iter()).to_string();
        let change = || {
            let (code, text) = requests.ask("PUT", &path, "application/json", &changed)?;
            ensure!(code == 200, "{code}: {text}");
            Ok(Instant::now())
        };
        let (acknowledged, in_kernel) = rows.appears(address, change)?;
        let (last, _) = agents.change(IpAddr::V4(address))?;
        // Zero: it was there before the writer had its answer.
        let since = |at: Instant| at.saturating_duration_since(acknowledged).as_secs_f64() * 1e3;
        measured.kernel.push(since(in_kernel));
        measured.agents.push(since(last));
    }
    Ok(measured)
}
