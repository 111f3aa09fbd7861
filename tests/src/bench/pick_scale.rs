// SPDX-License-Identifier: Apache-2.0
//! Case `pick-scale`: `connect()` to a service with 2 and with 10,000 backends, for each algorithm. On UDP, so that the
//! backends need not exist.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    series::Series,
};

const ALGORITHMS: [&str; 4] = ["random", "round-robin", "least-request", "maglev"];
const SIZES: [u32; 2] = [2, 10_000];
/// A ratio this near to 1 is noise on any machine: a few ticks of its clock.
const LEAST_NOISE: f64 = 0.05;

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let mut yaml = String::new();
    let mut addresses = Vec::new();
    for algorithm in ALGORITHMS {
        for size in SIZES {
            let address = virtual_address(addresses.len() as u8 + 1);
            let backends = (0..size).map(|index| (backend(index), 1));
            yaml += &service(
                &format!("{algorithm}-{size}"),
                address,
                "UDP",
                algorithm,
                backends,
            );
            addresses.push(address);
        }
    }
    lab.start(&yaml, false)?;
    let wall = wall(run, &lab, &addresses)?;
    lab.restart(true)?;
    let programs = programs(run, &lab, &addresses)?;
    let mut table = Table::new(&[
        "algorithm",
        "2 backends, ns",
        "10,000 backends, ns",
        "10,000 / 2",
        "`connect4` at 2, ns",
        "at 10,000, ns",
    ]);
    let aa = wall[ALGORITHMS.len() * 2].over(&wall[0]);
    let noise = aa.largest_from_one().max(LEAST_NOISE);
    let mut verdicts = Vec::new();
    for (algorithm, index) in ALGORITHMS.into_iter().zip((0..).step_by(2)) {
        let (few, many) = (&wall[index], &wall[index + 1]);
        let ratio = many.over(few);
        let within = (ratio.median() - 1.0).abs() <= noise;
        verdicts.push(format!(
            "{algorithm} {}",
            if within { "met" } else { "**not met**" }
        ));
        table.row(&[
            algorithm.to_owned(),
            few.shown(1.0, 0),
            many.shown(1.0, 0),
            ratio.to_string(),
            programs[index].shown(1.0, 0),
            programs[index + 1].shown(1.0, 0),
        ]);
    }
    Ok(format!(
        "{table}\nA/A (random, 2 backends, twice): {aa}. Target: 10,000 / 2 is 1, give or take {noise:.2}: {}. The work is the same; \
         with 10,000 backends the rows of a random one are rarely in the caches, those of the next in turn are fetched ahead, and \
         with maglev a client always meets the same one.\n",
        verdicts.join(", ")
    ))
}

/// Somewhere behind the default route.
fn backend(index: u32) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::from(0x0a80_0000 + index), 8000))
}

/// Per address, and once more for the first one.
fn wall(run: &Run, lab: &Lab, addresses: &[SocketAddr]) -> Result<Vec<Series>> {
    let again = [addresses, &addresses[..1]].concat();
    let mut results = vec![Series::default(); again.len()];
    for _ in 0..run.scaled(5, 15) {
        run.step()?;
        let targets = lab.bench_connect(
            Side::Mesh,
            Cpus::One,
            &again,
            &["--udp"],
            run.scaled(20_000, 100_000),
        )?;
        for (series, target) in results.iter_mut().zip(targets) {
            series.push(target.p50());
        }
    }
    Ok(results)
}

/// Time of `connect4`, per address.
fn programs(run: &Run, lab: &Lab, addresses: &[SocketAddr]) -> Result<Vec<Series>> {
    let mut results = vec![Series::default(); addresses.len()];
    for _ in 0..run.scaled(3, 9) {
        for (series, address) in results.iter_mut().zip(addresses) {
            run.step()?;
            let before = lab.programs()?;
            lab.bench_connect(
                Side::Mesh,
                Cpus::One,
                &[*address],
                &["--udp"],
                run.scaled(10_000, 50_000),
            )?;
            series.push(lab.programs()?.since(&before, "connect4").per_run());
        }
    }
    Ok(results)
}
