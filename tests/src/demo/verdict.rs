// SPDX-License-Identifier: Apache-2.0
//! What should have been seen, each with the numbers that were.
//!
//! Invariant: an expectation reads only what the kernel, the clients, the servers and the control plane said.

mod changes;
mod scenes;

use std::{collections::BTreeMap, fmt};

use super::{
    client::Report,
    denial::Denied,
    facts::{Facts, Seen},
    fleet::Fleet,
    kernels::Counts,
    mesh,
    outside::Outside,
    pair::Paired,
    roles::{FASTEST, NEWCOMER, SLOWEST},
    stage::Stage,
    wedge::Wedged,
};
use crate::chaos::Outcome;

/// One expectation.
struct Expectation {
    what: String,
    holds: bool,
    numbers: String,
}

/// All of them.
pub(super) struct Verdict {
    expectations: Vec<Expectation>,
}

impl Verdict {
    /// Whether everything was as it should be.
    pub(super) fn all_hold(&self) -> bool {
        self.expectations.iter().all(|expectation| expectation.holds)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nExpectations")?;
        for Expectation { what, holds, numbers } in &self.expectations {
            let word = if *holds { "OK" } else { "FAILED" };
            writeln!(f, "  {word:<6}  {what}\n          {numbers}")?;
        }
        let held = self
            .expectations
            .iter()
            .filter(|expectation| expectation.holds)
            .count();
        write!(f, "{held} of {} expectations held", self.expectations.len())
    }
}

/// Judges what was seen.
pub(super) fn judge(
    stage: &Stage,
    facts: &Facts,
    (wedged, outside, denied): (&Wedged, &Outside, &Denied),
    fleet: &Fleet,
    upheaval: &Outcome,
    paired: &Paired,
) -> Verdict {
    let reports: Vec<&Report> = stage
        .clients
        .iter()
        .filter_map(|client| client.last.as_ref())
        .collect();
    let expectations = vec![
        nobody_listened(facts),
        peers_were_the_service(stage),
        all_served(stage, facts),
        faster_got_more(stage, facts),
        changes::nobody_noticed_the_restart(facts),
        changes::failures_in_window(&reports, facts),
        changes::lease_ran_out(facts),
        changes::newcomer_was_found(facts),
        changes::drained_got_nothing(facts),
        changes::drained_ended_well(stage, facts),
        nothing_stayed_open(facts),
        totals_agree(&reports, facts),
        refusals_agree(&reports, facts),
        times_agree(stage, facts),
        nothing_stayed_in_flight(facts),
        scenes::wedged_is_not_slow(wedged),
        scenes::wedged_was_ejected(wedged),
        scenes::thawed_was_readmitted(wedged),
        scenes::strangers_are_served(outside),
        scenes::only_the_denied_was_denied(denied),
        scenes::the_denial_was_told(denied),
        changes::fleet_is_told(stage, wedged, fleet),
        nobody_noticed_the_upheaval(upheaval),
        shortcut_is_switched(paired),
    ];
    Verdict { expectations }
}

fn expect(what: impl Into<String>, holds: bool, numbers: String) -> Expectation {
    Expectation {
        what: what.into(),
        holds,
        numbers,
    }
}

fn shortcut_is_switched(paired: &Paired) -> Expectation {
    let [before, on, off] = paired.rates.map(|rate| rate / 1e3);
    let [none, some, none_again] = paired.handed;
    expect(
        "two pods of one node take the shortcut while a policy says so, and leave it while their connections go on",
        none == 0 && some > 0 && none_again == 0 && off > 0.0,
        format!(
            "{before:.1}, {on:.1} and {off:.1} thousand requests per second; {none}, {some} and {none_again} messages past TCP"
        ),
    )
}

fn nobody_listened(facts: &Facts) -> Expectation {
    let [v4, v6] = [0, 1].map(mesh::service_address);
    expect(
        format!("nobody listens at {v4} and {v6}"),
        facts.squatters.is_empty(),
        match facts.squatters.as_slice() {
            [] => "no listener on this port and no interface with these addresses, on any node or pod".into(),
            found => found.join("; "),
        },
    )
}

fn peers_were_the_service(stage: &Stage) -> Expectation {
    let mut peers: BTreeMap<&str, u64> = BTreeMap::new();
    let mut holds = true;
    for client in &stage.clients {
        let dialled = mesh::service_address(client.cast.address).to_string();
        for (peer, count) in client.last.iter().flat_map(|report| &report.peer_addresses) {
            holds &= *peer == dialled;
            *peers.entry(peer).or_default() += count;
        }
    }
    let numbers: Vec<String> = peers
        .iter()
        .map(|(peer, count)| format!("{count} x {peer}"))
        .collect();
    expect(
        "getpeername() names the service, not the replica, on every connection",
        holds && peers.len() == mesh::VIRTUAL.len(),
        numbers.join(", "),
    )
}

fn all_served(stage: &Stage, facts: &Facts) -> Expectation {
    let Seen { look, heard } = &facts.killed.before;
    let replicas = || stage.replicas.iter().zip(&look.counts).take(NEWCOMER);
    let numbers = replicas().map(|(replica, counts)| {
        let tokens = heard.tokens(replica.cast.name);
        format!(
            "{}: {} connections, {tokens} tokens",
            replica.cast.name, counts.total
        )
    });
    expect(
        "before the kill every replica served",
        replicas().all(|(replica, counts)| counts.total > 0 && heard.tokens(replica.cast.name) > 0),
        numbers.collect::<Vec<_>>().join("; "),
    )
}

fn faster_got_more(stage: &Stage, facts: &Facts) -> Expectation {
    let Seen { look, heard } = &facts.killed.before;
    let [fastest, slowest] = [FASTEST, SLOWEST].map(|index| {
        let tokens = heard.tokens(stage.replicas[index].cast.name);
        (look.counts[index].total, tokens)
    });
    expect(
        "the fastest replica got more connections and tokens than the slowest",
        fastest.0 > slowest.0 && fastest.1 > slowest.1,
        format!(
            "{:.1} times the connections, {:.1} times the tokens",
            fastest.0 as f64 / slowest.0.max(1) as f64,
            fastest.1 as f64 / slowest.1.max(1) as f64
        ),
    )
}

fn nothing_stayed_open(facts: &Facts) -> Expectation {
    let active: u64 = facts.at_end.counts.iter().map(|counts| counts.active).sum();
    expect(
        "the kernels count no connection as active after the last one closed",
        active == 0,
        format!("{active} active"),
    )
}

fn totals_agree(reports: &[&Report], facts: &Facts) -> Expectation {
    let sum = |number: fn(&Counts) -> u64| facts.at_end.counts.iter().map(number).sum::<u64>();
    let (placed, refused) = (sum(|counts| counts.total), sum(|counts| counts.refused));
    let opened: u64 = reports.iter().map(|report| report.connections).sum();
    let (of_refusal, others) = (refusals(reports), errors(reports) - refusals(reports));
    expect(
        "the kernels placed as many connections as the clients opened or tried to, but for those refused",
        placed - refused == opened + others && opened > 0,
        format!(
            "kernels {placed} placed, of which {refused} refused; clients {opened} opened, {of_refusal} refused, {others} failed \
             otherwise"
        ),
    )
}

fn errors(reports: &[&Report]) -> u64 {
    reports
        .iter()
        .flat_map(|report| report.connect_errors.values())
        .sum()
}

fn refusals(reports: &[&Report]) -> u64 {
    let refused = reports
        .iter()
        .filter_map(|report| report.connect_errors.get("ECONNREFUSED"));
    refused.sum()
}

fn refusals_agree(reports: &[&Report], facts: &Facts) -> Expectation {
    let kernel: u64 = facts.at_end.counts.iter().map(|counts| counts.refused).sum();
    let clients = refusals(reports);
    expect(
        "the kernels counted the refused connections that the clients saw, until the dead replica's row was gone: a tenth may be \
         younger than the last look at it",
        kernel <= clients && clients - kernel <= clients / 10,
        format!("kernels {kernel}; clients {clients}"),
    )
}

fn times_agree(stage: &Stage, facts: &Facts) -> Expectation {
    let (metered, bounds) = &facts.metered;
    let (mut compared, mut apart) = (0, Vec::new());
    for (replica, metered) in stage.replicas.iter().zip(metered) {
        let name = replica.cast.name;
        let seen = facts.heard.seen(name);
        for (what, server, kernel, client, bounds) in [
            (
                "TTFT",
                metered.server.first(bounds),
                metered.client.first(bounds),
                seen.first(),
                &bounds.first,
            ),
            (
                "ITL",
                metered.server.gap(bounds),
                metered.client.gap(bounds),
                seen.gap(),
                &bounds.gap,
            ),
        ] {
            compared += 1;
            let (Some(server), Some(kernel), Some(client)) = (server, kernel, client) else {
                apart.push(format!(
                    "{what} of {name} was not measured at each end, or seen by no client"
                ));
                continue;
            };
            if !kernel.agrees(&client, bounds) {
                apart.push(format!("{what} of {name}: kernel {kernel}, client {client}"));
            }
            if !server.agrees_but_for_the_way(&client, bounds) {
                apart.push(format!(
                    "{what} of {name}: kernel at the server {server}, client {client}"
                ));
            }
        }
    }
    expect(
        "the kernels' TTFT and ITL are what the clients saw: mean within 10 % or 1 ms, p50 and p99 within 10 % or a bucket; at the \
         server's own node p50 likewise, mean and p99 no longer",
        apart.is_empty(),
        match apart.as_slice() {
            [] => format!("all {compared} agree: TTFT and ITL of each replica"),
            apart => apart.join("; "),
        },
    )
}

fn nothing_stayed_in_flight(facts: &Facts) -> Expectation {
    let (metered, _) = &facts.metered;
    let [server, client]: [u64; 2] = [
        metered.iter().map(|metered| metered.server.in_flight).sum(),
        metered.iter().map(|metered| metered.client.in_flight).sum(),
    ];
    expect(
        "the kernels count no request in flight after the last one ended",
        server == 0 && client == 0,
        format!("{server} at the servers, {client} at the clients"),
    )
}

fn nobody_noticed_the_upheaval(upheaval: &Outcome) -> Expectation {
    let faults = upheaval.faults();
    let [same, other] = upheaval.upgrades;
    expect(
        format!(
            "{} kills of an agent, {same} upgrades of the same ABI and {other} of another cost no connect, no stream and no count, and \
             weights were followed while no agent ran",
            upheaval.kills
        ),
        faults.is_empty(),
        match faults.as_slice() {
            [] => format!(
                "{} connections and {} requests, all counted once; {:.0} % of those without an agent on the replica with 75 % of the weight",
                upheaval.seen.connections,
                upheaval.seen.ok,
                upheaval.heavy_share * 100.0
            ),
            faults => faults.join("; "),
        },
    )
}
