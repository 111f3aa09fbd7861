// SPDX-License-Identifier: Apache-2.0
//! `nodemesh connections`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::{Output, client::AdminClient, table};
use crate::api;

/// Arguments of `nodemesh connections`.
#[derive(Args, Debug)]
pub(super) struct Connections {
    /// Only those to this service (`namespace/name`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only those on this backend (`ip:port`).
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<String>,
}

impl Connections {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let mut connections: Vec<api::Connection> = agent.get("/v1/connections")?;
        connections.retain(|connection| {
            self.service
                .as_ref()
                .is_none_or(|service| connection.service == *service)
                && self
                    .backend
                    .as_ref()
                    .is_none_or(|backend| connection.backend == *backend)
        });
        connections.sort_by(|a, b| b.age_seconds.total_cmp(&a.age_seconds));
        if output == Output::Json {
            return table::print_json(&connections);
        }
        let headers = [
            "SERVICE", "PROTOCOL", "CLIENT", "BACKEND", "STATE", "AGE", "WORKLOAD", "PID",
        ];
        let mut rows = table::new(&headers, &[5, 7]);
        for connection in connections {
            rows.add_row([
                connection.service,
                connection.protocol,
                connection.client.unwrap_or_else(|| "-".to_owned()),
                connection.backend,
                connection.state,
                age(connection.age_seconds),
                connection.client_workload.unwrap_or_else(|| "-".to_owned()),
                connection.client_pid.to_string(),
            ]);
        }
        table::print_table(&rows)
    }
}

/// An age in whole seconds.
fn age(seconds: f64) -> String {
    let age = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}
