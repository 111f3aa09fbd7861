// SPDX-License-Identifier: Apache-2.0
//! Case `distribution`: where connections go with weights 1, 2 and 5, and how many clients a Maglev table moves when one of
//! its backends goes.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use nodemesh_model::{frontend::default_table_size, maglev::maglev_table};
use serde::Deserialize;

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
};

const WEIGHTS: [u32; 3] = [1, 2, 5];
const ALGORITHMS: [&str; 3] = ["random", "round-robin", "least-request"];
/// Backends that are taken out, one at a time.
const REMOVALS: usize = 10;

#[derive(Deserialize)]
struct Report {
    ok: u64,
    replicas: BTreeMap<String, u64>,
}

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let mut servers = Vec::new();
    for (offset, weight) in (0..).zip(WEIGHTS) {
        servers.push(lab.serve(&format!("weight {weight}"), &[offset], Cpus::All)?);
    }
    let mut yaml = String::new();
    for (index, algorithm) in (1..).zip(ALGORITHMS) {
        let backends = (0..)
            .zip(WEIGHTS)
            .map(|(offset, weight)| (lab.direct(offset), weight));
        yaml += &service(
            algorithm,
            virtual_address(index),
            "TCP",
            algorithm,
            backends.collect::<Vec<_>>(),
        );
    }
    lab.start(&yaml, false)?;
    let mut table = Table::new(&[
        "algorithm",
        "connections",
        "1 : 2 : 5",
        "largest deviation of a share",
    ]);
    for (index, algorithm) in (1..).zip(ALGORITHMS) {
        run.step()?;
        let count = run.scaled(5_000, 20_000);
        let counts = closed_at_once(&lab, index, count)?;
        table.row(&[
            algorithm.to_owned(),
            format!("{count}, closed at once"),
            shares(&counts),
            deviation(&counts),
        ]);
    }
    let count = run.scaled(1_000, 5_000);
    let counts = held_open(&lab, 3, count)?;
    table.row(&[
        ALGORITHMS[2].to_owned(),
        format!("{count}, held open"),
        shares(&counts),
        deviation(&counts),
    ]);
    Ok(format!(
        "{table}\nDrawing {} connections at random deviates by about {:.1} % in the smallest share (one standard deviation). \
         `least-request` weighs open connections, so only held ones show its shares.\n\n{}",
        run.scaled(5_000, 20_000),
        100.0 * (7.0 / f64::from(run.scaled(5_000, 20_000))).sqrt(),
        maglev()
    ))
}

fn closed_at_once(lab: &Lab, index: u8, count: u32) -> Result<[u64; 3]> {
    let arguments = arguments(index, count, "--close=rst");
    let (report, _): (Report, _) = lab
        .client(Side::Mesh, Cpus::All, "socket-probe", &arguments)?
        .report()?;
    counts(&report, count)
}

fn held_open(lab: &Lab, index: u8, count: u32) -> Result<[u64; 3]> {
    let mut client = lab.client(
        Side::Mesh,
        Cpus::All,
        "socket-probe",
        &arguments(index, count, "--hold"),
    )?;
    let line = client.wait_for_line(|line| line.starts_with('{'))?;
    client.close_stdin();
    client.wait()?;
    counts(&serde_json::from_str(&line).context("the report")?, count)
}

fn arguments(index: u8, count: u32, flag: &str) -> [String; 5] {
    [
        "connect".to_owned(),
        virtual_address(index).to_string(),
        format!("--count={count}"),
        "--concurrency=4".to_owned(),
        flag.to_owned(),
    ]
}

fn counts(report: &Report, count: u32) -> Result<[u64; 3]> {
    ensure!(
        report.ok == u64::from(count),
        "{} of {count} connections failed",
        u64::from(count) - report.ok
    );
    Ok(WEIGHTS.map(|weight| {
        report
            .replicas
            .get(&format!("weight {weight}"))
            .copied()
            .unwrap_or_default()
    }))
}

fn shares(counts: &[u64; 3]) -> String {
    counts.map(|count| count.to_string()).join(" : ")
}

/// Of the expected number of connections of a backend, in percent.
fn deviation(counts: &[u64; 3]) -> String {
    let total: u64 = counts.iter().sum();
    let weights: u32 = WEIGHTS.iter().sum();
    let largest = counts
        .iter()
        .zip(WEIGHTS)
        .map(|(count, weight)| {
            let expected = total as f64 * f64::from(weight) / f64::from(weights);
            (*count as f64 / expected - 1.0).abs()
        })
        .fold(0.0, f64::max);
    format!("{:.1} %", largest * 100.0)
}

fn maglev() -> String {
    let mut table = Table::new(&[
        "maglev, backends",
        "clients of the one that goes",
        "clients of others that move",
        "largest share, of the even one",
    ]);
    for backends in [3_usize, 10, 100, 500] {
        let moved = Moved::measure(backends);
        table.row(&[
            backends.to_string(),
            format!("{:.2} %", moved.own * 100.0),
            format!("{:.2} %", moved.others * 100.0),
            format!("{:.3}", moved.largest),
        ]);
    }
    table.to_string()
}

/// What becomes of the slots, and so of the clients, when one backend goes; means over several backends.
struct Moved {
    /// Share of the backend that goes.
    own: f64,
    /// Share that had another backend, which stays, and gets a new one.
    others: f64,
    /// Largest share of a backend before, divided by the mean.
    largest: f64,
}

impl Moved {
    fn measure(backends: usize) -> Self {
        let mut random = fastrand::Rng::with_seed(backends as u64);
        let all: Vec<(u64, u32)> = (0..backends).map(|_| (random.u64(..), 1)).collect();
        let slots_in_all = default_table_size(backends);
        let before = maglev_table(&all, slots_in_all);
        let removals = REMOVALS.min(backends);
        let (mut own, mut others) = (0, 0);
        for gone in 0..removals {
            // A weight of 0 takes the backend out and leaves the others their indices.
            let mut rest = all.clone();
            rest[gone].1 = 0;
            let after = maglev_table(&rest, slots_in_all);
            for (former, now) in before.iter().zip(after) {
                if *former == gone as u32 {
                    own += 1;
                } else if *former != now {
                    others += 1;
                }
            }
        }
        let mut slots = vec![0_u32; backends];
        for backend in &before {
            slots[*backend as usize] += 1;
        }
        let largest = slots.into_iter().max().unwrap_or_default();
        let all_slots = f64::from(slots_in_all) * removals as f64;
        Self {
            own: f64::from(own) / all_slots,
            others: f64::from(others) / all_slots,
            largest: f64::from(largest) * backends as f64 / f64::from(slots_in_all),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_goes_moves_its_own_share_and_few_others() {
        let moved = Moved::measure(10);
        assert!((0.08..0.12).contains(&moved.own), "{}", moved.own);
        assert!(moved.others < 0.05, "{}", moved.others);
    }

    #[test]
    fn deviation_is_of_the_expected_count() {
        assert_eq!(deviation(&[100, 200, 500]), "0.0 %");
        assert_eq!(deviation(&[110, 190, 500]), "10.0 %");
    }
}
