// SPDX-License-Identifier: Apache-2.0
//! Case `shortcut`: two pods of one node, by plain TCP without nodemesh, by TCP through a service, and past TCP.
//!
//! Invariant: the three are measured in turns within a round, and ratios are of one round.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result};

use super::{
    Run,
    lab::{Cpus, Lab, Side, service, virtual_address},
    markdown::Table,
    series::Series,
    short_talk::{Talk, Talked},
};
use crate::{process::Process, scrape::Scrape};

/// A way to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Neither process is in the mesh.
    Plain,
    /// The same again, for what noise makes of 1.
    Twin,
    /// Through a service without the shortcut.
    Mesh,
    /// Through one with it.
    Short,
}

impl Way {
    const ALL: [Self; 4] = [Self::Plain, Self::Twin, Self::Mesh, Self::Short];

    fn words(self) -> &'static str {
        match self {
            Self::Plain => "plain TCP",
            Self::Twin => "plain TCP, A/A",
            Self::Mesh => "service, shortcut off",
            Self::Short => "service, shortcut on",
        }
    }

    fn side(self) -> Side {
        match self {
            Self::Plain | Self::Twin => Side::Outside,
            Self::Mesh | Self::Short => Side::Mesh,
        }
    }

    fn address(self, lab: &Lab) -> SocketAddr {
        match self {
            Self::Plain | Self::Twin => lab.direct(1),
            Self::Mesh => virtual_address(1),
            Self::Short => virtual_address(2),
        }
    }
}

/// What is measured.
struct Measure {
    talk: Talk,
    connections: usize,
    cpus: Cpus,
    title: &'static str,
    /// Whether the rate counts, or the time of one.
    by_rate: bool,
    unit: f64,
}

const MEASURES: [Measure; 4] = [
    Measure {
        talk: Talk::Exchange,
        connections: 32,
        cpus: Cpus::All,
        title: "1 KiB each way, HTTP, 32 connections: thousand requests per second",
        by_rate: true,
        unit: 1e3,
    },
    Measure {
        talk: Talk::Ping,
        connections: 1,
        cpus: Cpus::One,
        title: "64 bytes each way, 1 connection, one CPU: us per exchange (median)",
        by_rate: false,
        unit: 1e3,
    },
    Measure {
        talk: Talk::Tokens,
        connections: 8,
        cpus: Cpus::One,
        title: "token of 270 bytes, 8 streams, one CPU: us from write to read (median)",
        by_rate: false,
        unit: 1e3,
    },
    Measure {
        talk: Talk::Bulk,
        connections: 4,
        cpus: Cpus::All,
        title: "bulk, 4 connections: MB per second",
        by_rate: true,
        unit: 1e6,
    },
];

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = Lab::new()?;
    let backend = [(lab.direct(0), 1)];
    let config = [
        service("off", virtual_address(1), "TCP", "least-request", backend),
        service("on", virtual_address(2), "TCP", "least-request", backend),
        "  shortcut: {enabled: true}\n".to_owned(),
        service(
            "remote",
            virtual_address(3),
            "TCP",
            "least-request",
            [(lab.remote(), 1)],
        ),
        "  shortcut: {enabled: true}\n".to_owned(),
    ]
    .concat();
    lab.agent.configure(&config)?;
    lab.agent
        .start(&["--shortcut", "force", "--program-stats", "false"])?;
    let mut text = String::new();
    for measure in &MEASURES {
        text += &measured(run, &lab, measure)?;
    }
    text += &sleeping(run, &lab)?;
    text += &programs(run, &mut lab)?;
    text += &elsewhere(run, &mut lab)?;
    Ok(text)
}

/// Both servers, of the mesh and outside of it.
fn serve(lab: &Lab, cpus: Cpus) -> Result<[Process; 2]> {
    let serve = |side, offset| {
        let address = lab.direct(offset).to_string();
        lab.server_program(side, cpus, "bench", &["short-serve".to_owned(), address])
    };
    Ok([serve(Side::Mesh, 0)?, serve(Side::Outside, 1)?])
}

/// Runs a client; also the CPU time of both ends, seconds.
fn talk(lab: &Lab, way: Way, measure: &Measure, time: Duration) -> Result<(Talked, f64)> {
    let arguments = [
        "short-talk".to_owned(),
        way.address(lab).to_string(),
        clap::ValueEnum::to_possible_value(&measure.talk)
            .context("a word")?
            .get_name()
            .to_owned(),
        format!("--connections={}", measure.connections),
        format!("--millis={}", time.as_millis()),
    ];
    let mut client = lab.client(way.side(), measure.cpus, "bench", &arguments)?;
    client.wait_for_line(|line| line == "connected")?;
    let before = lab.cpu_of(way.side())?;
    client.write_line("go")?;
    let line = client.wait_for_line(|line| line.starts_with('{'))?;
    let spent = lab.cpu_of(way.side())?.saturating_sub(before);
    client.wait()?;
    Ok((serde_json::from_str(&line)?, spent.as_secs_f64()))
}

fn measured(run: &Run, lab: &Lab, measure: &Measure) -> Result<String> {
    let _servers = serve(lab, measure.cpus)?;
    let time = Duration::from_millis(run.scaled(400, 1_000));
    let mut results: [(Series, Series); 4] = Default::default();
    for round in 0..run.scaled(5, 15) {
        run.step()?;
        for turn in 0..Way::ALL.len() {
            let index = (turn + round) % Way::ALL.len();
            let (talked, cpu) = talk(lab, Way::ALL[index], measure, time)?;
            let value = if measure.by_rate {
                talked.rate
            } else {
                talked.p50_ns as f64
            };
            results[index].0.push(value);
            results[index].1.push(cpu / talked.count as f64);
        }
    }
    let mut table = Table::new(&[
        measure.title,
        "",
        "/ plain",
        "/ off",
        "CPU each / plain",
        "CPU each / off",
    ]);
    for (way, (value, cpu)) in Way::ALL.iter().zip(&results) {
        let (plain, off) = (&results[Way::Plain as usize], &results[Way::Mesh as usize]);
        table.row(&[
            way.words().into(),
            value.shown(measure.unit, 1),
            value.over(&plain.0).to_string(),
            value.over(&off.0).to_string(),
            cpu.over(&plain.1).to_string(),
            cpu.over(&off.1).to_string(),
        ]);
    }
    Ok(format!("{table}\n"))
}

/// A reader that sleeps.
fn sleeping(run: &Run, lab: &Lab) -> Result<String> {
    let measure = Measure {
        talk: Talk::Sleep,
        connections: 1,
        cpus: Cpus::All,
        title: "",
        by_rate: true,
        unit: 1e3,
    };
    let _servers = serve(lab, measure.cpus)?;
    let mut taken: [Series; 4] = Default::default();
    for _ in 0..run.scaled(3, 5) {
        run.step()?;
        for way in Way::ALL {
            taken[way as usize].push(talk(lab, way, &measure, Duration::ZERO)?.0.count as f64);
        }
    }
    let mut table = Table::new(&["a reader that sleeps: thousand bytes taken", "", "/ plain"]);
    for way in Way::ALL {
        let own = &taken[way as usize];
        table.row(&[
            way.words().into(),
            own.shown(1e3, 0),
            own.over(&taken[Way::Plain as usize]).to_string(),
        ]);
    }
    Ok(format!("{table}\n"))
}

/// What the programs take of each message, and how many of the messages took the shortcut.
fn programs(run: &Run, lab: &mut Lab) -> Result<String> {
    const PROGRAMS: [&str; 5] = ["hand_over", "send_length", "recv_length", "egress", "ingress"];
    let mut headers = vec![
        "programs: runs x ns, per message".to_owned(),
        "past TCP".to_owned(),
    ];
    headers.extend(PROGRAMS.map(str::to_owned));
    headers.push("all, ns".to_owned());
    let mut table = Table::new(&headers.iter().map(String::as_str).collect::<Vec<_>>());
    lab.agent.stop()?;
    lab.agent
        .start(&["--shortcut", "force", "--program-stats", "true"])?;
    let time = Duration::from_millis(run.scaled(400, 1_000));
    for measure in MEASURES.iter().filter(|measure| measure.talk != Talk::Bulk) {
        let _servers = serve(lab, measure.cpus)?;
        for way in [Way::Mesh, Way::Short] {
            run.step()?;
            let (before, routes) = (lab.programs()?, routes(lab)?);
            let (talked, _) = talk(lab, way, measure, time)?;
            let (after, later) = (lab.programs()?, self::routes(lab)?);
            let messages = match measure.talk {
                Talk::Tokens => talked.count as f64,
                _ => 2.0 * talked.count as f64,
            };
            let ran = PROGRAMS.map(|program| after.since(&before, program));
            let mut cells = vec![
                format!("{:?}, {}", measure.talk, way.words()),
                format!("{:.3}", (later - routes) / messages),
            ];
            cells.extend(ran.map(|ran| match ran.runs / messages {
                runs if runs < 0.01 => "-".to_owned(),
                runs => format!("{runs:.2} x {:.0}", ran.per_run()),
            }));
            let all: f64 = ran.iter().map(|ran| ran.seconds).sum();
            cells.push(format!("{:.0}", all * 1e9 / messages));
            table.row(&cells);
        }
    }
    Ok(format!("{table}\n"))
}

/// Messages that took the shortcut so far.
fn routes(lab: &Lab) -> Result<f64> {
    let scrape = Scrape::parse(&lab.metrics()?)?;
    Ok(scrape.sum("nodemesh_shortcut_messages_total", &[("route", "shortcut")]))
}

/// Connections that do not take it: runs and time of the programs, with the shortcut on and off.
fn elsewhere(run: &Run, lab: &mut Lab) -> Result<String> {
    let count = run.scaled(2_000, 10_000);
    let mut table = Table::new(&[
        "connect and close, per connection",
        "sock_ops runs",
        "ns in sock_ops",
        "hand_over runs",
    ]);
    for (words, choice, address) in [
        ("--shortcut off", "off", virtual_address(1)),
        ("on, service without it", "force", virtual_address(1)),
        ("on, service with it, peer elsewhere", "force", virtual_address(3)),
        ("on, service with it, both ends here", "force", virtual_address(2)),
    ] {
        lab.agent.stop()?;
        lab.agent
            .start(&["--shortcut", choice, "--program-stats", "true"])?;
        let _server = serve(lab, Cpus::All)?;
        let _remote = lab.serve_remote()?;
        let before = lab.programs()?;
        lab.bench_connect(Side::Mesh, Cpus::One, &[address], &[], count)?;
        let after = lab.programs()?;
        let (events, handed) = (
            after.since(&before, "sock_ops"),
            after.since(&before, "hand_over"),
        );
        let each = count as f64;
        table.row(&[
            words.into(),
            format!("{:.1}", events.runs / each),
            format!("{:.0}", events.seconds * 1e9 / each),
            format!("{:.3}", handed.runs / each),
        ]);
    }
    Ok(format!("{table}\n"))
}
