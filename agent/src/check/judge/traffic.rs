// SPDX-License-Identifier: Apache-2.0
//! What happens to traffic while the agent runs: services without backends, full maps, losses.

use super::source::some;
use crate::{
    api::{BackendState, MapUsage, Service, Status},
    check::{Finding, facts::Answers},
};

/// Fill, in percent, from which a map is worth a word.
const PRESSURE: u64 = 80;
/// Maps that let go of what was used least recently: to be full is their nature.
const RECENT_ONLY: [&str; 2] = ["affinity", "flows"];

pub(super) fn judge(answers: &Answers) -> Vec<Finding> {
    let status = &answers.status;
    let mut findings = vec![services(&answers.services)];
    findings.push(maps(status));
    findings.extend(not_programmed(status));
    findings.push(losses(status));
    findings.extend(cgroups(status));
    findings.extend(stalled(status));
    findings
}

fn services(services: &Result<Vec<Service>, String>) -> Finding {
    let looked_at = "backends of each service, and connections that were refused";
    let services = match services {
        Ok(services) => services,
        Err(error) => {
            return Finding::warning("services", looked_at, error, "the agent's log has the details");
        }
    };
    let is_empty = |service: &&Service| {
        service
            .backends
            .get(&BackendState::Active)
            .is_none_or(|count| *count == 0)
    };
    let empty: Vec<String> = services
        .iter()
        .filter(is_empty)
        .map(|service| format!("{} at {}", service.service, service.address))
        .collect();
    if !empty.is_empty() {
        return Finding::failure(
            "services",
            looked_at,
            format!(
                "without an available backend, so that connects fail with ECONNREFUSED: {}",
                some(&empty)
            ),
            "`nodemesh backends` shows their states; add replicas, correct the selector's labels, or undo a drain (`nodemesh drain --undo`)",
        );
    }
    let refused: Vec<String> = services.iter().filter_map(refusals).collect();
    let found = format!("{} addresses, each with an available backend", services.len());
    if refused.is_empty() {
        return Finding::ok("services", looked_at, found);
    }
    Finding::ok(
        "services",
        looked_at,
        format!("{found}; refused since the maps were created: {}", some(&refused)),
    )
}

fn refusals(service: &Service) -> Option<String> {
    let reasons: Vec<String> = service
        .refused
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    (!reasons.is_empty()).then(|| {
        format!(
            "{} at {} {}",
            service.service,
            service.address,
            reasons.join(", ")
        )
    })
}

fn maps(status: &Status) -> Finding {
    let looked_at = "fill of the maps";
    let meter = &status.datapath.meter;
    let table = (meter.connection_limit > 0).then_some((
        "connections",
        MapUsage {
            entries: meter.connections,
            capacity: meter.connection_limit,
        },
    ));
    let maps = status
        .datapath
        .maps
        .iter()
        .map(|(name, usage)| (name.as_str(), *usage));
    let full: Vec<(&str, MapUsage)> = maps
        .chain(table)
        .filter(|(name, _)| !RECENT_ONLY.contains(name))
        .filter(|(_, usage)| usage.capacity > 0 && usage.entries * 100 >= usage.capacity * PRESSURE)
        .collect();
    if full.is_empty() {
        return Finding::ok("maps", looked_at, format!("all below {PRESSURE} %"));
    }
    let list: Vec<String> = full
        .iter()
        .map(|(name, usage)| format!("{name} {} of {}", usage.entries, usage.capacity))
        .collect();
    let flags: Vec<&str> = full.iter().map(|(name, _)| flag(name)).collect();
    Finding::warning(
        "maps",
        looked_at,
        format!("nearly full: {}", some(&list)),
        format!(
            "raise {}; --max-connections takes effect with a restart, the others with `nodemesh cleanup` and a start",
            flags.join(", ")
        ),
    )
}

/// The flag that bounds a map.
fn flag(map: &str) -> &'static str {
    match map {
        "services" => "--max-services",
        "traffic" => "--max-metered-backends",
        "connections" => "--max-connections",
        _ => "--max-backends",
    }
}

fn not_programmed(status: &Status) -> Option<Finding> {
    let missing: Vec<String> = status
        .datapath
        .frontends_not_programmed
        .iter()
        .map(|(frontend, reason)| format!("{frontend}: {reason}"))
        .collect();
    (!missing.is_empty()).then(|| {
        Finding::failure(
            "programmed",
            "addresses of services that are in the configuration and not in the kernel",
            some(&missing),
            "`no room`: raise --max-services or --max-backends, after `nodemesh cleanup`; else the agent's log says what the kernel answered",
        )
    })
}

fn losses(status: &Status) -> Finding {
    let looked_at = "internal errors of the programs since the maps were created";
    let errors: Vec<String> = status
        .datapath
        .internal_errors
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if errors.is_empty() {
        return Finding::ok("losses", looked_at, "none");
    }
    Finding::warning(
        "losses",
        looked_at,
        some(&errors),
        "connection_table: raise --max-connections; access_record: sample the access log (`nodemesh log --access-sample`); connection_record, flow_record, stream_record: the host lacks memory; slot_table, backend, policy: report it with `nodemesh sysdump`",
    )
}

fn cgroups(status: &Status) -> Option<Finding> {
    let missing = &status.datapath.cgroups_missing;
    (!missing.is_empty()).then(|| {
        Finding::warning(
            "workloads",
            "cgroups that the configuration or --exclude-cgroup names",
            format!("do not exist (yet): {}", some(missing)),
            "correct the path; processes in them are otherwise treated like everybody else's",
        )
    })
}

fn stalled(status: &Status) -> Option<Finding> {
    let meter = &status.datapath.meter;
    let count = meter.stalled_client + meter.stalled_server;
    (count > 0).then(|| {
        Finding::warning(
            "streams",
            "requests that have been silent for much longer than their replica's pace",
            format!("{count} are stalled"),
            "`nodemesh connections --stalled` names them; see NodemeshReplicaWedged in the runbook",
        )
    })
}
