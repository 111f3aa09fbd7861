// SPDX-License-Identifier: Apache-2.0
//! Case `meter-calls`: what the programs of the meter take of each read and write, by the kernel's own statistics: on sockets of
//! token streams, of which one end is metered at a time, and on sockets that have nothing to do with the mesh.

use std::{net::SocketAddr, time::Duration};

use anyhow::Result;

use super::{
    Run,
    lab::{Cpus, Lab, Programs, Side, service, virtual_address},
    markdown::Table,
    series::Series,
    token_load::{Pace, Placement, Software, TokenServer},
};
use crate::process::Process;

/// Nanoseconds per read or write on a mesh socket, all programs together.
const MESH_TARGET: f64 = 250.0;
/// Nanoseconds per read or write on any other socket, all programs together.
const OTHER_TARGET: f64 = 80.0;
/// The programs that run for bytes.
const PROGRAMS: [&str; 4] = [SEND, RECEIVE, "egress", "ingress"];
const SEND: &str = "send_length";
const RECEIVE: &str = "recv_length";
/// Runs per read or write below which a program has no part in it.
const RARE: f64 = 0.01;
/// Port of a server that is no backend, counted from the lab's.
const STRANGER: u16 = 2;

/// What a socket is to the mesh.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Mesh,
    Other,
}

/// The end of a stream that is metered: the other one is outside the mesh.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Server,
    Client,
}

impl End {
    /// What it does with a token.
    fn act(self) -> &'static str {
        match self {
            Self::Server => "write of the server",
            Self::Client => "read of the client",
        }
    }

    /// The tracepoint that sees it.
    fn program(self) -> &'static str {
        match self {
            Self::Server => SEND,
            Self::Client => RECEIVE,
        }
    }

    fn placement(self) -> Placement {
        let side = |end| if self == end { Side::Mesh } else { Side::Outside };
        Placement {
            server: side(Self::Server),
            client: side(Self::Client),
            cpus: Cpus::All,
        }
    }
}

/// One line of the table.
struct Account {
    name: String,
    kind: Kind,
    runs: [Series; PROGRAMS.len()],
    per_run: [Series; PROGRAMS.len()],
    all: Series,
}

impl Account {
    fn new(name: String, kind: Kind) -> Self {
        Self {
            name,
            kind,
            runs: Default::default(),
            per_run: Default::default(),
            all: Series::default(),
        }
    }

    /// Adds a round of so many reads and writes of sockets that are not of the mesh.
    fn add(&mut self, before: &Programs, after: &Programs, calls: f64) {
        let ran = PROGRAMS.map(|program| after.since(before, program));
        self.push(ran.map(|ran| (ran.runs / calls, ran.seconds * 1e9 / calls)));
    }

    /// Adds a round of so many tokens. The tracepoints see all sockets of the host; what they did for others is taken off at `miss`
    /// nanoseconds a run.
    fn add_tokens(&mut self, before: &Programs, after: &Programs, tokens: f64, end: End, miss: f64) {
        let ran = PROGRAMS.map(|program| {
            let ran = after.since(before, program);
            let (runs, ns) = (ran.runs / tokens, ran.seconds * 1e9 / tokens);
            match program {
                SEND | RECEIVE if program != end.program() => (0.0, 0.0),
                SEND | RECEIVE if runs > 1.0 => (1.0, ns - (runs - 1.0) * miss),
                _ => (runs, ns),
            }
        });
        self.push(ran);
    }

    /// Adds runs and nanoseconds per read or write, by program.
    fn push(&mut self, ran: [(f64, f64); PROGRAMS.len()]) {
        for (index, (runs, ns)) in ran.into_iter().enumerate() {
            self.runs[index].push(runs);
            if runs > RARE {
                self.per_run[index].push(ns / runs);
            }
        }
        self.all.push(ran.iter().map(|(_, ns)| ns).sum());
    }

    fn target(&self) -> f64 {
        match self.kind {
            Kind::Mesh => MESH_TARGET,
            Kind::Other => OTHER_TARGET,
        }
    }

    fn row(&self) -> Vec<String> {
        let mut cells = vec![self.name.clone()];
        for (runs, per_run) in self.runs.iter().zip(&self.per_run) {
            cells.push(if per_run.median().is_nan() {
                "-".to_owned()
            } else {
                format!("{:.2} x {}", runs.median(), per_run.shown(1.0, 0))
            });
        }
        cells.push(self.all.shown(1.0, 0));
        cells
    }
}

pub(super) fn run(run: &Run) -> Result<String> {
    let mut accounts = others(run)?;
    let miss = accounts.last().map_or(0.0, |outside| outside.per_run[0].median());
    let fast = Pace {
        streams: 1,
        token: Duration::ZERO,
        tokens: 1_000,
    };
    let many = Pace {
        streams: 300,
        token: Duration::from_millis(15),
        tokens: 100,
    };
    for (load, pace) in [("300 streams", many), ("one stream at full speed", fast)] {
        for (wire, software) in [("plaintext", Software::Hyper), ("TLS", Software::HyperTls)] {
            for end in [End::Server, End::Client] {
                let mut account = Account::new(format!("{load}, {wire}, {}", end.act()), Kind::Mesh);
                tokens(run, &mut account, end, (pace, software), miss)?;
                accounts.push(account);
            }
        }
    }
    Ok(render(&accounts))
}

/// Streams tokens between a server and clients of which one is in the mesh.
fn tokens(
    run: &Run,
    account: &mut Account,
    end: End,
    (pace, software): (Pace, Software),
    miss: f64,
) -> Result<()> {
    let time = Duration::from_secs(run.scaled(1, 3));
    let mut lab = Lab::new()?;
    let service_address = virtual_address(1);
    let server = TokenServer::start(&lab, end.placement(), &[0], software, pace)?;
    let backend = lab.direct(0);
    lab.start(
        &service("tokens", service_address, "TCP", "least-request", [(backend, 1)]),
        true,
    )?;
    let address = match end {
        End::Server => backend,
        End::Client => service_address,
    };
    for _ in 0..run.scaled(2, 5) {
        run.step()?;
        let before = lab.programs()?;
        let streamed = server.stream(&lab, address, pace, time)?;
        account.add_tokens(&before, &lab.programs()?, streamed.tokens as f64, end, miss);
    }
    Ok(())
}

/// Plays ping-pong on sockets that are not of the mesh, in the agent's cgroup and outside.
fn others(run: &Run) -> Result<Vec<Account>> {
    let mut accounts = Vec::new();
    let mut lab = Lab::new()?;
    let _server = lab.serve("stranger", &[STRANGER], Cpus::One)?;
    let (outside, _outsider) = lab.serve_outside(Cpus::One)?;
    lab.start(
        &service(
            "unused",
            virtual_address(1),
            "TCP",
            "least-request",
            [(lab.direct(0), 1)],
        ),
        true,
    )?;
    for (name, side, address) in [
        (
            "no mesh socket, in the agent's cgroup",
            Side::Mesh,
            lab.direct(STRANGER),
        ),
        ("no mesh socket, outside", Side::Outside, outside),
    ] {
        let mut account = Account::new(name.to_owned(), Kind::Other);
        for _ in 0..run.scaled(2, 5) {
            run.step()?;
            ping(&lab, side, address, run.scaled(20_000, 50_000), &mut account)?;
        }
        accounts.push(account);
    }
    Ok(accounts)
}

fn ping(lab: &Lab, side: Side, address: SocketAddr, count: u32, account: &mut Account) -> Result<()> {
    let arguments = [
        "ping".to_owned(),
        format!("--count={count}"),
        "--round=100".into(),
        address.to_string(),
    ];
    let mut client: Process = lab.client(side, Cpus::One, "bench", &arguments)?;
    client.wait_for_line(|line| line == "connected")?;
    let before = lab.programs()?;
    client.write_line("go")?;
    client.wait_for_line(|line| line.starts_with('['))?;
    // A write and a read at either end.
    account.add(&before, &lab.programs()?, f64::from(count) * 4.0);
    client.close_stdin();
    client.wait()?;
    Ok(())
}

fn render(accounts: &[Account]) -> String {
    let mut headers = vec!["sockets".to_owned()];
    headers.extend(PROGRAMS.map(|program| format!("`{program}`: runs x ns")));
    headers.push("all, ns".into());
    let mut table = Table::new(&headers.iter().map(String::as_str).collect::<Vec<_>>());
    for account in accounts {
        table.row(&account.row());
    }
    let verdicts = accounts.iter().map(|account| {
        let (all, target) = (account.all.median(), account.target());
        let word = if all <= target { "met" } else { "**not met**" };
        format!("{}: {all:.0} ns, at most {target:.0}: {word}", account.name)
    });
    format!(
        "Per read or write of an application: how often each program runs, its nanoseconds per run, and all of them together. Of \
         streams only the named end is in the mesh; what the programs do for requests and for acknowledgements is in it, what the tracepoints do for other sockets of the \
         host is not.\n\n{table}\nTargets: {}.\n",
        verdicts.collect::<Vec<_>>().join("; ")
    )
}
