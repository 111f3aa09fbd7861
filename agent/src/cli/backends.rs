// SPDX-License-Identifier: Apache-2.0
//! `nodemesh backends`.

use anyhow::Result;
use clap::Args;

use super::{Output, client::AdminClient, table};
use crate::api;

/// Arguments of `nodemesh backends`.
#[derive(Args, Debug)]
pub(super) struct Backends {
    /// Only those of this service (`namespace/name`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
}

impl Backends {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let mut backends: Vec<api::Backend> = agent.get("/v1/backends")?;
        if let Some(service) = &self.service {
            backends.retain(|backend| backend.service == *service);
        }
        if output == Output::Json {
            return table::print_json(&backends);
        }
        let headers = [
            "SERVICE", "ADDRESS", "WEIGHT", "STATE", "ACTIVE", "TOTAL", "FAILED", "CONNECT", "WORKLOAD",
        ];
        let mut rows = table::new(&headers, &[2, 4, 5, 6, 7]);
        for backend in backends {
            let connect = backend
                .connect_seconds_mean
                .map_or_else(|| "-".to_owned(), |mean| format!("{:.0} us", mean * 1e6));
            rows.add_row([
                backend.service,
                backend.address,
                backend.weight.to_string(),
                backend.state.word().to_owned(),
                backend.active_connections.to_string(),
                backend.connections_total.to_string(),
                backend.connections_failed.values().sum::<u64>().to_string(),
                connect,
                backend.workload.unwrap_or_else(|| "-".to_owned()),
            ]);
        }
        table::print_table(&rows)
    }
}
