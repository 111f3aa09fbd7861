// SPDX-License-Identifier: Apache-2.0
//! `nodemesh services`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Result;
use comfy_table::Table;

use super::{Output, client::AdminClient, table};
use crate::api;

const HEADERS: [&str; 10] = [
    "SERVICE",
    "ADDRESS",
    "PROTOCOL",
    "ALGORITHM",
    "AFFINITY",
    "BACKENDS",
    "ACTIVE",
    "TOTAL",
    "REFUSED",
    "MODEL",
];

/// Lists the services.
pub(super) fn run(agent: &AdminClient, output: Output) -> Result<()> {
    let services: Vec<api::Service> = agent.get("/v1/services")?;
    match output {
        Output::Json => table::print_json(&services),
        Output::Table => table::print_table(&list(services)),
    }
}

fn list(services: Vec<api::Service>) -> Table {
    let mut rows = table::new(&HEADERS, &[6, 7, 8]);
    for service in services {
        let affinity = match service.session_affinity_seconds {
            0 => "-".to_owned(),
            seconds => humantime::format_duration(Duration::from_secs(seconds.into())).to_string(),
        };
        rows.add_row([
            service.service,
            service.address,
            service.protocol,
            service.algorithm,
            affinity,
            backends(&service.backends),
            service.active_connections.to_string(),
            service.connections_total.to_string(),
            service.refused.values().sum::<u64>().to_string(),
            service.model.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    rows
}

/// `3 active, 1 draining`.
fn backends(states: &BTreeMap<api::BackendState, usize>) -> String {
    let words: Vec<String> = states
        .iter()
        .map(|(state, count)| format!("{count} {}", state.word()))
        .collect();
    if words.is_empty() {
        "none".to_owned()
    } else {
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use api::BackendState;

    use super::*;

    #[test]
    fn one_line_says_what_a_service_does() {
        let service = api::Service {
            service: "prod/chat".into(),
            model: Some("llama".into()),
            address: "10.96.0.10:80".into(),
            protocol: "TCP".into(),
            algorithm: "maglev".into(),
            session_affinity_seconds: 90,
            backends: [(BackendState::Draining, 1), (BackendState::Active, 3)].into(),
            active_connections: 4,
            connections_total: 1234,
            refused: [("no_backend".to_owned(), 2), ("other".to_owned(), 3)].into(),
        };
        let bare = api::Service {
            service: "a/b".into(),
            model: None,
            session_affinity_seconds: 0,
            backends: BTreeMap::new(),
            ..service.clone()
        };
        let rows = table::rows(&list(vec![service, bare]));
        assert_eq!(rows[0], HEADERS.join(" "));
        assert_eq!(
            rows[1],
            "prod/chat 10.96.0.10:80 TCP maglev 1m 30s 3 active, 1 draining 4 1234 5 llama"
        );
        assert_eq!(rows[2], "a/b 10.96.0.10:80 TCP maglev - none 4 1234 5 -");
    }
}
