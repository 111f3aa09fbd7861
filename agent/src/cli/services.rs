// SPDX-License-Identifier: Apache-2.0
//! `nodemesh services`.

use anyhow::Result;
use clap::Args;

use super::{Output, client::AdminClient, table};
use crate::api;

/// Arguments of `nodemesh services`.
#[derive(Args, Debug)]
pub(super) struct Services {}

impl Services {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let services: Vec<api::Service> = agent.get("/v1/services")?;
        if output == Output::Json {
            return table::print_json(&services);
        }
        let headers = [
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
        let mut rows = table::new(&headers, &[6, 7, 8]);
        for service in services {
            let affinity = match service.session_affinity_seconds {
                0 => "-".to_owned(),
                seconds => {
                    humantime::format_duration(std::time::Duration::from_secs(seconds.into())).to_string()
                }
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
        table::print_table(&rows)
    }
}

/// `3 active, 1 draining`.
fn backends(states: &std::collections::BTreeMap<api::BackendState, usize>) -> String {
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
