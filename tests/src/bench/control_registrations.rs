// SPDX-License-Identifier: Apache-2.0
//! Case `control-registrations`: how many servers a second can register themselves, each on the disk when it is told so, and how long
//! after the end of its lease a server is gone from the kernel.

use std::{
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nodemesh_proto::v1::{RegisterRequest, registry_client::RegistryClient};
use tonic::transport::{Channel, Endpoint};

use super::{
    Run,
    control_lab::{ControlLab, endpoint, selecting, workload},
    markdown::Table,
    process_use,
    series::Series,
};

/// Servers that register at once.
const AT_ONCE: usize = 32;
/// Services that select them.
const SERVICES: u32 = 1000;
/// Registrations per second.
const TARGET: f64 = 1000.0;
/// The most that fit into the agent's map.
const MOST: u32 = 100_000;
const LEASE_S: u32 = 3600;
/// Leases that end, and their time.
const ENDING: u32 = 20;
const TTL_S: u32 = 2;
/// Seconds after the end of a lease.
const TARGET_LATE_S: f64 = 1.0;
const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn run(run: &Run) -> Result<String> {
    let mut lab = ControlLab::new()?;
    let services = (0..SERVICES).map(|number| selecting(&format!("s{number}"), number));
    lab.writer()?.apply_all(services, 64)?;
    lab.start_agent()?;
    let mut table = Table::new(&[
        "32 servers at once, 1,000 services that select them, one agent",
        "",
    ]);
    let rate = sustain(run, &lab, &mut table)?;
    run.step()?;
    let late = expire(&lab)?;
    table.row(&[
        "end of a lease of 2 s to the end of its row in the kernel".to_owned(),
        format!("p50 {:.2} s, most {:.2} s", late.median(), late.largest()),
    ]);
    Ok(format!(
        "{table}\nTargets: {TARGET} registrations per second: {}; a row at most {TARGET_LATE_S} s after its lease: {}.\n",
        word(rate >= TARGET),
        word(late.largest() <= TARGET_LATE_S)
    ))
}

/// Registrations for a while; how many a second.
fn sustain(run: &Run, lab: &ControlLab, table: &mut Table) -> Result<f64> {
    let time = Duration::from_secs(run.scaled(5, 30));
    let mut done = None;
    let cpu = process_use::cpu_share(lab.control.process().pid(), || {
        done = Some(register(lab, time)?);
        Ok(())
    })?;
    let (registered, took) = done.context("it was done")?;
    let rate = registered.len() as f64 / took.as_secs_f64();
    let began = Instant::now();
    lab.rows()?.find(&[endpoint(registered.len() as u32 - 1)])?;
    let behind = began.elapsed();
    let [control, agent] = lab.memory()?;
    let mut fact = |what: &str, value: String| table.row(&[what.to_owned(), value]);
    fact(
        "registrations per second",
        format!("{rate:.0}, over {:.0} s", took.as_secs_f64()),
    );
    fact(
        "time of a registration",
        format!(
            "p50 {:.1} ms, p99 {:.1} ms, most {:.0} ms",
            registered.median(),
            registered.quantile(0.99),
            registered.largest()
        ),
    );
    fact(
        "control plane's CPU meanwhile",
        format!("{:.0} % of one CPU", cpu * 100.0),
    );
    fact(
        "end of the last one to its row in the kernel",
        format!("{:.2} s", behind.as_secs_f64()),
    );
    fact(
        "memory then",
        format!(
            "control plane {} MiB, agent {} MiB",
            control.0 / 1024,
            agent.0 / 1024
        ),
    );
    Ok(rate)
}

fn word(is_met: bool) -> &'static str {
    if is_met { "met" } else { "**not met**" }
}

/// Registers for so long, or until there are [`MOST`]; milliseconds of each, and how long it took.
fn register(lab: &ControlLab, time: Duration) -> Result<(Series, Duration)> {
    let url = lab.control.url();
    lab.clients.run(async move {
        let next = Arc::<AtomicU32>::default();
        let began = Instant::now();
        let mut servers = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (next, client) = (Arc::clone(&next), client(&url).await?);
            servers.spawn(async move {
                let mut times = Vec::new();
                while began.elapsed() < time {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= MOST {
                        break;
                    }
                    let sent = Instant::now();
                    put(&client, number, endpoint(number), LEASE_S).await?;
                    times.push(sent.elapsed().as_secs_f64() * 1e3);
                }
                anyhow::Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(done) = servers.join_next().await {
            times.extend(done??);
        }
        Ok((times.into_iter().collect(), began.elapsed()))
    })
}

/// Lets leases end; seconds from that to the kernel, of each.
fn expire(lab: &ControlLab) -> Result<Series> {
    let addresses: Vec<Ipv4Addr> = (0..ENDING).map(|number| endpoint(2_000_000 + number)).collect();
    let (url, of) = (lab.control.url(), addresses.clone());
    // Before the answer: the lease is no older.
    let granted = lab.clients.run(async move {
        let client = client(&url).await?;
        let mut granted = Vec::new();
        for (number, address) in (2_000_000..).zip(of) {
            put(&client, number, address, TTL_S).await?;
            granted.push(Instant::now());
        }
        anyhow::Ok(granted)
    })?;
    let rows = lab.rows()?;
    let ids = rows.find(&addresses)?;
    let ttl = Duration::from_secs(TTL_S.into());
    let ends = ids.iter().zip(granted).map(|(id, granted)| {
        let gone = rows.goes(*id, PATIENCE)?;
        Ok(gone.saturating_duration_since(granted + ttl).as_secs_f64())
    });
    ends.collect()
}

async fn client(url: &str) -> Result<RegistryClient<Channel>> {
    let endpoint = Endpoint::from_shared(url.to_owned())?.tcp_nodelay(true);
    Ok(RegistryClient::new(endpoint.connect().await?))
}

async fn put(client: &RegistryClient<Channel>, number: u32, address: Ipv4Addr, ttl: u32) -> Result<()> {
    let app = format!("s{}", number % SERVICES);
    let request = RegisterRequest {
        resource: workload(&format!("w{number}"), &app, address).to_string(),
        ttl_seconds: ttl,
        ..RegisterRequest::default()
    };
    client.clone().register(request).await?;
    Ok(())
}
