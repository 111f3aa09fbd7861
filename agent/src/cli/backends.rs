// SPDX-License-Identifier: Apache-2.0
//! `nodemesh backends`.

use anyhow::Result;
use clap::Args;
use comfy_table::Table;

use super::{Output, client::AdminClient, table, units};
use crate::api;

const HEADERS: [&str; 11] = [
    "SERVICE", "ADDRESS", "WEIGHT", "STATE", "ACTIVE", "INFLIGHT", "TOTAL", "FAILED", "CONNECT", "TTFT50",
    "WORKLOAD",
];

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
        backends.retain(|backend| self.matches(backend));
        match output {
            Output::Json => table::print_json(&backends),
            Output::Table => table::print_table(&list(backends)),
        }
    }

    fn matches(&self, backend: &api::Backend) -> bool {
        self.service
            .as_ref()
            .is_none_or(|service| backend.service == *service)
    }
}

fn list(backends: Vec<api::Backend>) -> Table {
    let mut rows = table::new(&HEADERS, &[2, 4, 5, 6, 7, 8, 9]);
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
            backend
                .requests_in_flight
                .map_or_else(|| "-".to_owned(), |requests| requests.to_string()),
            backend.connections_total.to_string(),
            backend.connections_failed.values().sum::<u64>().to_string(),
            connect,
            units::maybe_seconds(backend.time_to_first_token_seconds_p50),
            backend.workload.unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backend() -> api::Backend {
        api::Backend {
            service: "prod/chat".into(),
            address: "[fd00::1]:8000".into(),
            workload: Some("prod/chat-0".into()),
            weight: 100,
            state: api::BackendState::Unhealthy,
            active_connections: 1,
            connections_total: 20,
            connections_closed: 16,
            connections_failed: [("refused".to_owned(), 1), ("timeout".to_owned(), 2)].into(),
            connect_seconds_mean: Some(0.000_042_4),
            requests_in_flight: Some(7),
            time_to_first_token_seconds_p50: Some(0.25),
        }
    }

    #[test]
    fn one_line_says_how_a_backend_fares() {
        let idle = api::Backend {
            workload: None,
            connect_seconds_mean: None,
            requests_in_flight: None,
            time_to_first_token_seconds_p50: None,
            ..backend()
        };
        let rows = table::rows(&list(vec![backend(), idle]));
        assert_eq!(rows[0], HEADERS.join(" "));
        assert_eq!(
            rows[1],
            "prod/chat [fd00::1]:8000 100 unhealthy 1 7 20 3 42 us 250ms prod/chat-0"
        );
        assert_eq!(rows[2], "prod/chat [fd00::1]:8000 100 unhealthy 1 - 20 3 - - -");
    }

    #[test]
    fn the_filter_wants_the_whole_name() {
        let filter = |service: Option<&str>| Backends {
            service: service.map(str::to_owned),
        };
        assert!(filter(None).matches(&backend()));
        assert!(filter(Some("prod/chat")).matches(&backend()));
        assert!(!filter(Some("chat")).matches(&backend()));
        assert!(!filter(Some("prod/chat-0")).matches(&backend()));
    }
}
