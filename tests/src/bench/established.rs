// SPDX-License-Identifier: Apache-2.0
//! Case `established`: requests on connections that are established: the programs that place connections have no part in them any
//! more, which their run counters prove, and those of the meter look on.

use anyhow::{Context as _, Result};

use super::{
    Run,
    inside::Pinged,
    lab::{Cpus, Lab, Programs, Side, service, virtual_address},
    markdown::Table,
    series::Series,
};

/// The programs that place connections, and those that see bytes.
const PLACING: [&str; 5] = [
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "sock_release",
];
const METERING: [&str; 4] = ["send_length", "recv_length", "egress", "ingress"];

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let address = virtual_address(1);
    let _server = lab.serve("server", &[0, 1], Cpus::One)?;
    lab.start(
        &service("tcp", address, "TCP", "least-request", [(lab.direct(0), 1)]),
        true,
    )?;
    let count = run.scaled(10_000, 40_000);
    let [mut direct, mut twin, mut mesh] = <[Series; 3]>::default();
    let (mut placing, mut metering) = (0.0, 0.0);
    for _ in 0..run.scaled(4, 12) {
        run.step()?;
        let (pinged, counted) = round(&lab, count)?;
        let [one, other, service] = pinged.try_into().ok().context("three results")?;
        direct.push(one.rate);
        twin.push(other.rate);
        mesh.push(service.rate);
        placing += counted.0;
        metering += counted.1;
    }
    let mut table = Table::new(&["64 bytes each way, one CPU", "requests per second", "/ direct"]);
    table.row(&["direct".into(), direct.shown(1.0, 0), "1".into()]);
    table.row(&[
        "direct, A/A".into(),
        twin.shown(1.0, 0),
        twin.over(&direct).to_string(),
    ]);
    table.row(&[
        "through the service".into(),
        mesh.shown(1.0, 0),
        mesh.over(&direct).to_string(),
    ]);
    let requests = count * 3 * run.scaled(4, 12);
    Ok(format!(
        "{table}\nDuring {requests} requests, the programs that place connections ran {placing:.0} times, those of the meter {:.1} times \
         per request, for its two writes, two reads and their packets. Measured with statistics of programs on, which are a part of \
         what is slower.\n",
        metering / requests as f64
    ))
}

/// One process with three connections; also counts runs of the programs that place and of those that meter meanwhile.
fn round(lab: &Lab, count: usize) -> Result<(Vec<Pinged>, (f64, f64))> {
    let mut arguments = vec![
        "ping".to_owned(),
        format!("--count={count}"),
        "--round=100".to_owned(),
    ];
    arguments.extend([lab.direct(0), lab.direct(1), virtual_address(1)].map(|address| address.to_string()));
    let mut client = lab.client(Side::Mesh, Cpus::One, "bench", &arguments)?;
    client.wait_for_line(|line| line == "connected")?;
    let before = lab.programs()?;
    client.write_line("go")?;
    let line = client.wait_for_line(|line| line.starts_with('['))?;
    let after = lab.programs()?;
    client.close_stdin();
    client.wait()?;
    Ok((serde_json::from_str(&line)?, moved(&before, &after)))
}

fn moved(before: &Programs, after: &Programs) -> (f64, f64) {
    let runs = |programs: &[&str]| programs.iter().map(|name| after.since(before, name).runs).sum();
    (runs(&PLACING), runs(&METERING))
}
