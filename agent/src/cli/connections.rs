// SPDX-License-Identifier: Apache-2.0
//! `nodemesh connections`.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use comfy_table::Table;

use super::{Output, client::AdminClient, table};
use crate::api;

const HEADERS: [&str; 8] = [
    "SERVICE", "PROTOCOL", "CLIENT", "BACKEND", "STATE", "AGE", "WORKLOAD", "PID",
];

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
        let connections = self.select(agent.get("/v1/connections")?);
        match output {
            Output::Json => table::print_json(&connections),
            Output::Table => table::print_table(&list(connections)),
        }
    }

    /// Those that were asked for, the oldest first.
    fn select(&self, mut connections: Vec<api::Connection>) -> Vec<api::Connection> {
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
        connections
    }
}

fn list(connections: Vec<api::Connection>) -> Table {
    let mut rows = table::new(&HEADERS, &[5, 7]);
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
    rows
}

/// An age in whole seconds.
fn age(seconds: f64) -> String {
    let age = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    humantime::format_duration(Duration::from_secs(age.as_secs())).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(service: &str, backend: &str, age_seconds: f64) -> api::Connection {
        api::Connection {
            service: service.into(),
            protocol: "TCP".into(),
            client: None,
            client_workload: None,
            client_cgroup: 7,
            client_pid: 42,
            service_address: "10.96.0.10:80".into(),
            backend: backend.into(),
            state: "connecting".into(),
            age_seconds,
        }
    }

    #[test]
    fn the_oldest_comes_first_and_filters_combine() {
        let all = vec![
            connection("a/b", "10.0.0.1:80", 1.0),
            connection("a/b", "10.0.0.2:80", 3.0),
            connection("c/d", "10.0.0.1:80", 2.0),
        ];
        let ages = |service: Option<&str>, backend: Option<&str>| -> Vec<f64> {
            let filter = Connections {
                service: service.map(str::to_owned),
                backend: backend.map(str::to_owned),
            };
            filter
                .select(all.clone())
                .iter()
                .map(|connection| connection.age_seconds)
                .collect()
        };
        assert_eq!(ages(None, None), [3.0, 2.0, 1.0]);
        assert_eq!(ages(Some("a/b"), None), [3.0, 1.0]);
        assert_eq!(ages(Some("a/b"), Some("10.0.0.1:80")), [1.0]);
        assert!(ages(Some("a"), None).is_empty());
    }

    #[test]
    fn what_is_not_known_yet_is_a_dash() {
        let lines = table::text(&list(vec![connection("a/b", "10.0.0.1:80", 61.9)]));
        let words: Vec<&str> = lines.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(words.join(" "), "a/b TCP - 10.0.0.1:80 connecting 1m 1s - 42");
    }

    #[test]
    fn an_age_that_is_no_time_is_none() {
        assert_eq!([age(0.4), age(-1.0), age(f64::NAN)], ["0s"; 3]);
    }
}
