// SPDX-License-Identifier: Apache-2.0
//! What is expected of each change: the restart of the control plane, the replica that dies, the one that joins, the one that
//! leaves, and what the control plane tells of the fleet in the end.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{Expectation, expect};
use crate::demo::{
    client::Report,
    facts::Facts,
    fleet::{Fleet, Node},
    mesh,
    roles::{LEAVING, NEWCOMER, NODES, VICTIM},
    stage::Stage,
    wedge::Wedged,
};

/// How soon a new replica has its first connection.
const JOIN_LIMIT: Duration = Duration::from_secs(1);
/// How soon after its lease a dead replica is out of every kernel.
const EXPIRY_LIMIT: Duration = Duration::from_secs(1);
/// What `nodemesh register` says begins with this; the rest is the server's.
const OWN_WORDS: &str = "nodemesh: ";

pub(super) fn nobody_noticed_the_restart(facts: &Facts) -> Expectation {
    let restart = &facts.restart;
    let placed = |seen: &super::Seen| seen.look.counts.iter().map(|counts| counts.total).sum::<u64>();
    let placed = placed(&restart.after) - placed(&restart.before);
    let answered = restart.after.heard.ok - restart.before.heard.ok;
    // Until the next change, so that what is reported late counts too.
    let failed = facts.killed.before.heard.failures() - restart.before.heard.failures();
    expect(
        "nobody noticed that the control plane was killed and started again",
        failed == 0 && answered > 0 && placed > 0 && restart.census.lapses == 0 && restart.followed.is_some(),
        format!(
            "failed requests during the restart {failed}; away for {:.1} s, both agents back {}; {answered} requests answered and \
             {placed} connections placed meanwhile; the kernels had all four replicas in {} of {} looks",
            restart.away.as_secs_f64(),
            restart.followed.map_or("never".to_owned(), |followed| format!(
                "{} ms later",
                followed.as_millis()
            )),
            restart.census.looks - restart.census.lapses,
            restart.census.looks
        ),
    )
}

pub(super) fn failures_in_window(reports: &[&Report], facts: &Facts) -> Expectation {
    let killed = &facts.killed;
    let inside: u64 = facts
        .heard
        .failed
        .iter()
        .filter(|failed| failed.span.1 >= killed.at && killed.out.is_none_or(|out| failed.span.0 <= out))
        .map(|failed| failed.count)
        .sum();
    let all: u64 = reports.iter().map(|report| report.failures()).sum();
    let (ok, cut) = reports.iter().fold((0, 0), |(ok, cut), report| {
        (ok + report.requests.ok, cut + report.requests.aborted)
    });
    expect(
        "requests failed only between the kill and the end of the replica's lease",
        killed.out.is_some() && inside > 0 && inside == all && cut == 0,
        format!(
            "{ok} answered; {inside} failed in between, {} at any other time ({})",
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

pub(super) fn lease_ran_out(facts: &Facts) -> Expectation {
    let killed = &facts.killed;
    let after = killed.out.map(|out| out - killed.at);
    expect(
        format!(
            "the dead replica was out of every kernel within its lease of {} s and {} s, without anybody doing anything, and stayed out",
            mesh::LEASE.as_secs(),
            EXPIRY_LIMIT.as_secs()
        ),
        after.is_some_and(|after| after < mesh::LEASE + EXPIRY_LIMIT)
            && facts.at_end.listings[VICTIM].is_nowhere(),
        format!(
            "after {}; {} in the end",
            after.map_or("never".to_owned(), |after| format!(
                "{:.2} s",
                after.as_secs_f64()
            )),
            facts.at_end.listings[VICTIM].word()
        ),
    )
}

pub(super) fn newcomer_was_found(facts: &Facts) -> Expectation {
    let shown = |time: Option<Duration>| {
        time.map_or_else(|| "never".to_owned(), |time| format!("{} ms", time.as_millis()))
    };
    expect(
        format!(
            "the new replica had its first connection within {} s of listening",
            JOIN_LIMIT.as_secs()
        ),
        facts.joined.first.is_some_and(|after| after < JOIN_LIMIT) && facts.joined.listed.is_some(),
        format!(
            "first connection after {}; both kernels seen with it after {}; {} connections in the end",
            shown(facts.joined.first),
            shown(facts.joined.listed),
            facts.at_end.counts[NEWCOMER].total
        ),
    )
}

pub(super) fn drained_got_nothing(facts: &Facts) -> Expectation {
    let end = facts.at_end.counts[LEAVING].total;
    let then = facts
        .left
        .drained
        .as_ref()
        .map(|(_, look)| look.counts[LEAVING].total);
    expect(
        "the replica that left got no new connection once it drained",
        then == Some(end),
        then.map_or_else(
            || "it did not drain".to_owned(),
            |then| format!("{then} before, {} after", end.saturating_sub(then)),
        ),
    )
}

pub(super) fn drained_ended_well(stage: &Stage, facts: &Facts) -> Expectation {
    let name = stage.replicas[LEAVING].cast.name;
    let failures: u64 = stage
        .clients
        .iter()
        .filter_map(|client| client.last.as_ref()?.replicas.get(name))
        .map(|part| part.failures)
        .sum();
    let open = facts.at_end.counts[LEAVING].active;
    let then = facts
        .left
        .drained
        .as_ref()
        .map(|(_, look)| look.counts[LEAVING].active);
    let (clean, ended) = match &facts.left.ended {
        None => (false, "did not end".to_owned()),
        Some((at, status, said)) => {
            let complaints: Vec<&str> = said
                .iter()
                .map(String::as_str)
                .filter(|line| !line.starts_with(OWN_WORDS))
                .collect();
            let after = (*at - facts.left.asked).as_secs_f64();
            (
                status.success() && complaints.is_empty(),
                format!(
                    "ended with {status} {after:.1} s after SIGTERM {}",
                    complaints.join("; ")
                ),
            )
        }
    };
    expect(
        "what the replica that left had open it finished, and it ended without cutting anything",
        clean && failures == 0 && open == 0 && facts.at_end.listings[LEAVING].is_nowhere(),
        format!(
            "{} connections open when it drained, {open} in the end, {failures} requests failed there; it {}",
            then.unwrap_or_default(),
            ended.trim_end()
        ),
    )
}

pub(super) fn fleet_is_told(stage: &Stage, wedged: &Wedged, fleet: &Fleet) -> Expectation {
    let running = stage.replicas.iter().filter(|replica| replica.runs());
    let running: BTreeSet<&str> = running.map(|replica| replica.cast.name).collect();
    let well = |node: &&Node| node.is_well() && NODES.contains(&node.id.as_str());
    let well = fleet.nodes.iter().filter(well).count();
    let (in_flight, open) = fleet.open();
    let registered = fleet.workloads();
    expect(
        "the control plane tells of both nodes, of the replicas that run and no others, and of their load",
        well == NODES.len()
            && fleet.nodes.len() == NODES.len()
            && registered == running
            && wedged.told > 0
            && (in_flight, open) == (0, 0),
        format!(
            "{well} of {} nodes connected without errors; registered: {}; {} requests in flight at the frozen replica, {in_flight} \
             in the end, with {open} connections",
            NODES.len(),
            registered.into_iter().collect::<Vec<_>>().join(", "),
            wedged.told
        ),
    )
}
