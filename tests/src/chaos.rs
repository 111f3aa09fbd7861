// SPDX-License-Identifier: Apache-2.0
//! Chaos: streams and connects run while the agent is killed at random moments and upgraded, to builds of this ABI and of another one.
//! Used by the test `chaos`, shortened, and at full length by `cargo xtask bench chaos`.
//!
//! Invariant: what is reported is what the clients themselves saw, beside what the agent's counters say at the end.

mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use self::traffic::{Clients, Seen, Servers};
use crate::{
    agent::Build,
    bed::Bed,
    eventually::{pause, wait_until},
    scrape::Scrape,
};

/// How much chaos.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Streams that are open all the time.
    pub streams: usize,
    /// Tokens of a stream, five per second.
    pub tokens: u32,
    /// Connects per second beside them.
    pub connects_per_second: u32,
    /// How often the agent is killed.
    pub kills: u32,
    /// How often it is upgraded.
    pub upgrades: u32,
    /// Whether every other upgrade is to another ABI, whose records of connections have another layout.
    pub other_abi: bool,
    /// Connections that are made while no agent runs, to see whom they are given to.
    pub placed_alone: u32,
    /// Of everything that is random.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What clients saw.
    pub seen: Seen,
    /// What the agent counted of it.
    pub counted: Counted,
    /// Part of the connections that went to the heavy replica while no agent ran; three quarters is right.
    pub heavy_share: f64,
    /// How often the agent was killed while it started.
    pub kills: u32,
    /// Upgrades to a build of the same ABI, and to one of another.
    pub upgrades: [u32; 2],
    /// How long that took.
    pub duration: Duration,
}

/// What the agent counted at the clients' end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Connections that were placed.
    pub opened: u64,
    /// Of these, those that are over.
    pub closed: u64,
    /// And those that were never established.
    pub failed: u64,
    /// Requests that succeeded.
    pub requests: u64,
    /// Requests with another outcome.
    pub other_requests: u64,
    /// Requests that are still counted as open.
    pub in_flight: u64,
}

impl Outcome {
    /// What is not as it must be, in words.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let mut must = |is_right: bool, what: String| {
            if !is_right {
                faults.push(what);
            }
        };
        let (seen, counted) = (&self.seen, &self.counted);
        // Where records are copied to another layout, what happens to one within the milliseconds of the switch may be missed.
        let most_missed = u64::from(self.upgrades[1]) * (10 + seen.connections / 1_000);
        let is_near = |one: u64, other: u64| one.abs_diff(other) <= most_missed;
        must(
            seen.failed == 0,
            format!("{} requests failed: {:?}", seen.failed, seen.failures),
        );
        must(seen.cut == 0, format!("{} streams did not end in time", seen.cut));
        must(
            counted.opened == seen.connections && is_near(counted.closed, seen.connections),
            format!(
                "of {} connections {} were counted, {} to their end",
                seen.connections, counted.opened, counted.closed
            ),
        );
        must(
            is_near(counted.failed, 0),
            format!("{} connections are counted as failed", counted.failed),
        );
        must(
            is_near(counted.requests, seen.ok),
            format!(
                "of {} requests {} were counted as successful",
                seen.ok, counted.requests
            ),
        );
        must(
            is_near(counted.other_requests, 0),
            format!("{} requests are counted as failed", counted.other_requests),
        );
        must(
            counted.in_flight == 0,
            format!("{} requests are left in flight", counted.in_flight),
        );
        must(
            (0.66..0.84).contains(&self.heavy_share),
            format!(
                "{:.3} of the connections went to the replica with three quarters of the weight",
                self.heavy_share
            ),
        );
        faults
    }
}

/// Runs the whole of `plan`; `tell` hears of each act.
pub fn run(plan: &Plan, tell: impl FnMut(&str)) -> Result<Outcome> {
    let began = Instant::now();
    let mut bed = Bed::new();
    let servers = Servers::start(&bed)?;
    bed.start(&servers.manifest(), &[]);
    let clients = Clients::start(&bed, plan)?;
    let mut chaos = Chaos {
        bed,
        random: fastrand::Rng::with_seed(plan.seed),
        build: Build::Own,
        kills: 0,
        upgrades: [0; 2],
        alone: Seen::default(),
        tell,
    };
    chaos.run(plan)?;
    if chaos.build != Build::Own {
        chaos.switch(Build::Own)?;
    }
    let (alone, heavy_share) = (chaos.alone.clone(), chaos.alone.share(servers.heavy()));
    let seen = clients.finish()?.plus(alone);
    let counted = settled(&chaos.bed)?;
    Ok(Outcome {
        seen,
        counted,
        heavy_share,
        kills: chaos.kills,
        upgrades: chaos.upgrades,
        duration: began.elapsed(),
    })
}

/// The chaos while it lasts.
struct Chaos<F> {
    bed: Bed,
    random: fastrand::Rng,
    build: Build,
    kills: u32,
    upgrades: [u32; 2],
    alone: Seen,
    tell: F,
}

impl<F: FnMut(&str)> Chaos<F> {
    /// Kills and upgrades, spread over each other, with a time without an agent in the middle.
    fn run(&mut self, plan: &Plan) -> Result<()> {
        let acts = plan.kills + plan.upgrades;
        for act in 0..acts {
            // Upgrades are spread evenly between the kills.
            let is_upgrade = (act + 1) * plan.upgrades / acts > act * plan.upgrades / acts;
            if is_upgrade {
                self.upgrade(plan.other_abi)?;
            } else {
                self.kill()?;
            }
            if act == acts / 2 {
                self.place_alone(plan)?;
            }
        }
        Ok(())
    }

    /// Ends the agent that runs and starts one that is killed at a random moment of its start, then one that stays.
    fn kill(&mut self) -> Result<()> {
        self.bed.agent.kill()?;
        // Every other time it has to load its programs, which is what takes long.
        let longest = if self.random.bool() {
            self.bed.agent.disown_programs()?;
            2_000
        } else {
            300
        };
        let after = Duration::from_millis(self.random.u64(0..longest));
        let agent = self
            .bed
            .agent
            .launch_build(self.build, &["--log", "nodemesh_agent=debug"])?;
        pause(after);
        agent.signal(Signal::SIGKILL)?;
        let (_, log) = agent.finish()?;
        self.kills += 1;
        let line = log.lines().last().unwrap_or("nothing").to_owned();
        (self.tell)(&format!("kill {} after {after:?}: {line}", self.kills));
        self.bed.agent.start_build(self.build, &[])
    }

    /// Puts another build in the place of the one that runs: of the same ABI, then of the other one.
    fn upgrade(&mut self, is_other_abi: bool) -> Result<()> {
        let is_same_abi = !is_other_abi || self.upgrades[0] <= self.upgrades[1];
        if is_same_abi {
            self.bed.agent.kill()?;
            self.bed.agent.disown_programs()?;
            self.bed.agent.start_build(self.build, &[])?;
        } else {
            let next = match self.build {
                Build::Own => Build::Next,
                Build::Next => Build::Own,
            };
            self.switch(next)?;
        }
        self.upgrades[usize::from(!is_same_abi)] += 1;
        (self.tell)(&format!("upgrade {:?}, now {:?}", self.upgrades, self.build));
        Ok(())
    }

    fn switch(&mut self, build: Build) -> Result<()> {
        self.bed.agent.kill()?;
        self.bed.agent.start_build(build, &[])?;
        self.build = build;
        Ok(())
    }

    /// Makes connections while no agent runs.
    fn place_alone(&mut self, plan: &Plan) -> Result<()> {
        self.bed.agent.kill()?;
        self.alone = traffic::place(&self.bed, plan.placed_alone)?;
        self.bed.agent.start_build(self.build, &[])
    }
}

/// What is counted when nothing is open any more.
fn settled(bed: &Bed) -> Result<Counted> {
    let mut last = counted(bed)?;
    // Whoever reports below says what does not settle.
    let _ = wait_until(Duration::from_secs(20), || {
        last = counted(bed).unwrap_or(last);
        last.opened == last.closed && last.in_flight == 0
    });
    Ok(last)
}

fn counted(bed: &Bed) -> Result<Counted> {
    let (code, text) = bed.agent.http(&bed.a, "/metrics")?;
    anyhow::ensure!(code == 200, "{text}");
    let scrape = Scrape::parse(&text).context("the agent's metrics")?;
    let client = [("vantage", "client")];
    let whole = |family: &str, labels: &[(&str, &str)]| -> u64 {
        let counts = scrape.samples(family).filter(|(found, _)| {
            let has = |(key, value): &(&str, &str)| found.get(*key).is_some_and(|found| found == value);
            labels.iter().all(has)
        });
        counts
            .map(|(_, value)| format!("{value:.0}").parse().unwrap_or(0))
            .sum()
    };
    let all = whole("nodemesh_requests_total", &client);
    let requests = whole("nodemesh_requests_total", &[client[0], ("outcome", "success")]);
    Ok(Counted {
        opened: whole("nodemesh_connections_opened_total", &[]),
        closed: whole("nodemesh_connections_closed_total", &[]),
        failed: whole("nodemesh_connections_failed_total", &[]),
        requests,
        other_requests: all - requests,
        in_flight: whole("nodemesh_requests_in_flight", &client),
    })
}
