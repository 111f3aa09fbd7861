// SPDX-License-Identifier: Apache-2.0
//! What should have been seen, each with the numbers that were.
//!
//! Invariant: an expectation reads only what the kernel, the clients and the servers said.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    client::Report,
    mesh,
    stage::{FASTEST, LEAVING, NEWCOMER, SLOWEST, Stage, VICTIM},
    story::Facts,
    wedge::{Stream, Wedged},
};

/// How soon a new replica has its first connection.
const JOIN_LIMIT: Duration = Duration::from_secs(1);

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
pub(super) fn judge(stage: &Stage, facts: &Facts, wedged: &Wedged) -> Verdict {
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
        failures_in_window(&reports, facts),
        victim_was_left_alone(facts),
        newcomer_was_found(facts),
        drained_got_nothing(facts),
        drained_ended_well(stage, facts),
        nothing_stayed_open(facts),
        totals_agree(&reports, facts),
        refusals_agree(&reports, facts),
        times_agree(stage, facts),
        nothing_stayed_in_flight(facts),
        wedged_is_not_slow(wedged),
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
    let (look, heard) = &facts.before_kill;
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
    let (look, heard) = &facts.before_kill;
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

fn failures_in_window(reports: &[&Report], facts: &Facts) -> Expectation {
    let (taken_out, _) = facts.taken_out;
    let inside: u64 = facts
        .heard
        .failed
        .iter()
        .filter(|failed| failed.span.1 >= facts.killed_at && failed.span.0 <= taken_out)
        .map(|failed| failed.count)
        .sum();
    let all: u64 = reports.iter().map(|report| report.failures()).sum();
    let (ok, cut) = reports.iter().fold((0, 0), |(ok, cut), report| {
        (ok + report.requests.ok, cut + report.requests.aborted)
    });
    expect(
        "requests failed only between the kill and the edit that took the replica out",
        inside > 0 && inside == all && cut == 0,
        format!(
            "{ok} answered; {inside} failed in the {:.1} s between, {} at any other time ({})",
            (taken_out - facts.killed_at).as_secs_f64(),
            all - inside,
            failures_by_kind(reports)
        ),
    )
}

fn failures_by_kind(reports: &[&Report]) -> String {
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    for (kind, count) in reports.iter().flat_map(|report| &report.requests.failed) {
        *kinds.entry(kind).or_default() += count;
    }
    let kinds: Vec<String> = kinds
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .map(|(kind, count)| format!("{count} {}", kind.replace('_', " ")))
        .collect();
    kinds.join(", ")
}

fn victim_was_left_alone(facts: &Facts) -> Expectation {
    let (_, then) = &facts.taken_out;
    let new = facts.at_end.counts[VICTIM].total - then.counts[VICTIM].total;
    expect(
        "the dead replica got no connection once it was out",
        new == 0,
        format!("{} before, {new} after", then.counts[VICTIM].total),
    )
}

fn newcomer_was_found(facts: &Facts) -> Expectation {
    expect(
        format!(
            "the new replica had its first connection within {} s of the edit",
            JOIN_LIMIT.as_secs()
        ),
        facts.joined_after.is_some_and(|after| after < JOIN_LIMIT),
        format!(
            "after {}; both kernels seen with the new configuration after {} ms; {} connections in the end",
            facts
                .joined_after
                .map_or_else(|| "never".to_owned(), |after| format!("{} ms", after.as_millis())),
            facts.joined_applied.as_millis(),
            facts.at_end.counts[NEWCOMER].total
        ),
    )
}

fn drained_got_nothing(facts: &Facts) -> Expectation {
    let (_, then) = &facts.drained;
    let new = facts.at_end.counts[LEAVING].total - then.counts[LEAVING].total;
    expect(
        "the draining replica got no new connection",
        new == 0,
        format!("{} before, {new} after", then.counts[LEAVING].total),
    )
}

fn drained_ended_well(stage: &Stage, facts: &Facts) -> Expectation {
    let (drained, then) = &facts.drained;
    let name = stage.replicas[LEAVING].cast.name;
    let failures: u64 = stage
        .clients
        .iter()
        .filter_map(|client| client.last.as_ref()?.replicas.get(name))
        .map(|part| part.failures)
        .sum();
    let clean = facts
        .left
        .as_ref()
        .is_some_and(|(status, said)| status.success() && said.is_empty());
    let open = facts.at_end.counts[LEAVING].active;
    expect(
        "what the draining replica had open it finished, and it ended without cutting anything",
        clean && failures == 0 && open == 0,
        format!(
            "{} connections open at the edit, {open} in the end ({:.1} s later), {failures} requests failed there; the \
             server {}",
            then.counts[LEAVING].active,
            (facts.ended_at - *drained).as_secs_f64(),
            match &facts.left {
                None => "did not end".to_owned(),
                Some((status, said)) => format!("ended with {status} {}", said.join("; ")),
            }
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
    let kernel: u64 = facts.at_end.counts.iter().map(|counts| counts.total).sum();
    let opened: u64 = reports.iter().map(|report| report.connections).sum();
    let errors: u64 = reports
        .iter()
        .flat_map(|report| report.connect_errors.values())
        .sum();
    expect(
        "the kernels placed as many connections as the clients opened or tried to",
        kernel == opened + errors && kernel > 0,
        format!("kernels {kernel}; clients {opened} opened and {errors} refused"),
    )
}

fn refusals_agree(reports: &[&Report], facts: &Facts) -> Expectation {
    let kernel: u64 = facts.at_end.counts.iter().map(|counts| counts.refused).sum();
    let clients: u64 = reports
        .iter()
        .filter_map(|report| report.connect_errors.get("ECONNREFUSED"))
        .sum();
    expect(
        "the kernels counted as many refused connections as the clients saw",
        kernel == clients,
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

fn wedged_is_not_slow(wedged: &Wedged) -> Expectation {
    let silence = |streams: &[Stream]| {
        let quiet = streams.iter().map(|stream| stream.quiet);
        quiet.fold(0.0, f64::max)
    };
    let stalled = |streams: &[Stream]| streams.iter().filter(|stream| stream.stalled).count();
    let (frozen, slow) = (&wedged.frozen, &wedged.slow);
    let [top_frozen, top_slow] = wedged.top;
    let (answered, all) = wedged.answered;
    expect(
        "nodemesh connections and top tell the frozen replica's streams from the slow one's",
        stalled(frozen) == frozen.len()
            && !frozen.is_empty()
            && stalled(slow) == 0
            && !slow.is_empty()
            && top_frozen > 0
            && top_slow == 0
            && answered == all,
        format!(
            "frozen: {} of {} stalled, silent for up to {:.1} s; slow: {} of {}, {:.2} s; top: {top_frozen} and {top_slow} stalled; \
             {answered} of {all} answered after the thaw",
            stalled(frozen),
            frozen.len(),
            silence(frozen),
            stalled(slow),
            slow.len(),
            silence(slow)
        ),
    )
}
