// SPDX-License-Identifier: Apache-2.0
//! Case `meter-tokens`: CPU per token of streams, client and server together, through a metered service and outside the mesh.

use std::{fmt::Write as _, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    series::Series,
    token_load::{Pace, Placement, Software, Streamed, TokenServer},
};

/// How much more CPU a metered token may take.
const TARGET: f64 = 1.02;
/// What is compared: name, server and pace.
const LOADS: [(&str, Software, Pace); 3] = [
    ("Starlette on uvicorn, plaintext", Software::Uvicorn, pace(60, 20)),
    ("hyper, plaintext", Software::Hyper, pace(200, 10)),
    ("hyper, TLS", Software::HyperTls, pace(200, 10)),
];

const fn pace(streams: u32, milliseconds: u64) -> Pace {
    Pace {
        streams,
        token: Duration::from_millis(milliseconds),
        tokens: 100,
    }
}

/// Port of the server that is not in the mesh, counted from the lab's.
const STRANGER: u16 = 1;

/// Microseconds of CPU per token of two pairs of server and clients that run at the same time.
#[derive(Default)]
struct Pairs {
    bare: Series,
    other: Series,
}

pub(super) fn run(run: &Run) -> Result<String> {
    let mut table = Table::new(&[
        "server",
        "tokens per second",
        "unmetered, µs per token",
        "metered, µs per token",
        "metered / unmetered",
        "A/A",
    ]);
    let mut verdicts = String::new();
    for (name, software, pace) in LOADS {
        let (twins, metered) = measure(run, software, pace)?;
        let ratio = metered.other.over(&metered.bare);
        table.row(&[
            name.to_owned(),
            format!("{:.0}", f64::from(pace.streams) / pace.token.as_secs_f64()),
            metered.bare.shown(1.0, 2),
            metered.other.shown(1.0, 2),
            ratio.to_string(),
            twins.other.over(&twins.bare).to_string(),
        ]);
        let word = if ratio.median() <= TARGET {
            "met"
        } else {
            "**not met**"
        };
        let _ = write!(verdicts, "; {name} {:.3}: {word}", ratio.median());
    }
    Ok(format!(
        "A token of some 270 bytes every 10 ms (hyper) or 20 ms (uvicorn) on each stream. Two pairs of server and clients run at the \
         same time on one CPU, so that what disturbs one disturbs the other: one is in the mesh, and metered at both ends; the other is \
         outside. User and system time of server and clients. A/A: the same pairs without an agent, its programs detached.\n\n\
         {table}\nTarget: at most {TARGET}{verdicts}.\n",
    ))
}

/// Without an agent and with one.
fn measure(run: &Run, software: Software, pace: Pace) -> Result<(Pairs, Pairs)> {
    let mut lab = Lab::new()?;
    let outside = Placement {
        server: Side::Outside,
        client: Side::Outside,
        cpus: Cpus::One,
    };
    let bare = TokenServer::start(&lab, outside, &[STRANGER], software, pace)?;
    let metered = TokenServer::start(&lab, Placement::mesh(Cpus::One), &[0], software, pace)?;
    let address = virtual_address(1);
    let yaml = service("tokens", address, "TCP", "least-request", [(lab.direct(0), 1)]);
    lab.agent.configure(&yaml)?;
    let servers = [&bare, &metered];
    // What a server does only once is not of a token.
    together(&lab, servers, lab.direct(0), pace, &mut Pairs::default())?;
    let [mut without, mut with] = <[Pairs; 2]>::default();
    for _ in 0..run.scaled(3, 10) {
        run.step()?;
        together(&lab, servers, lab.direct(0), pace, &mut without)?;
        lab.start_agent(false)?;
        run.step()?;
        together(&lab, servers, address, pace, &mut with)?;
        lab.agent.stop()?;
        let removed = lab.agent.cleanup()?;
        ensure!(
            removed.status.success(),
            "nodemesh cleanup: {}",
            String::from_utf8_lossy(&removed.stderr)
        );
    }
    Ok((without, with))
}

/// Both pairs stream at the same time; the one in the mesh dials `address`.
fn together(
    lab: &Lab,
    [bare, other]: [&TokenServer; 2],
    address: SocketAddr,
    pace: Pace,
    pairs: &mut Pairs,
) -> Result<()> {
    const TIME: Duration = Duration::from_millis(1_500);
    let before = [lab.cpu_of(Side::Outside)?, lab.cpu_of(Side::Mesh)?];
    let clients = [
        bare.clients(lab, lab.direct(STRANGER), pace, TIME)?,
        other.clients(lab, address, pace, TIME)?,
    ];
    let [bare, other] = clients.map(Streamed::of);
    let microseconds = |side, before: Duration| -> Result<f64> {
        let used = lab.cpu_of(side)?.saturating_sub(before);
        Ok(used.as_secs_f64() * 1e6)
    };
    let used = [
        microseconds(Side::Outside, before[0])?,
        microseconds(Side::Mesh, before[1])?,
    ];
    pairs.bare.push(used[0] / bare?.tokens as f64);
    pairs.other.push(used[1] / other?.tokens as f64);
    Ok(())
}
