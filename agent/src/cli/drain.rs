// SPDX-License-Identifier: Apache-2.0
//! `nodemesh drain`.

use anyhow::Result;
use clap::Args;

use super::{Output, client::AdminClient, table};
use crate::{
    api::{DrainQuery, Drained},
    drain::DrainTarget,
};

/// Arguments of `nodemesh drain`.
#[derive(Args, Debug)]
pub(super) struct Drain {
    /// What to drain: an address, an address and port, or a workload (`namespace/name`), alone or behind a service
    /// (`namespace/service/...`).
    #[arg(value_name = "[SERVICE/]BACKEND")]
    backend: DrainTarget,
    /// Return when its last byte has left; exit code 1 if the time was over first.
    #[arg(long, conflicts_with = "undo")]
    wait: bool,
    /// Longest wait, such as `90s` or `5m`; without it as long as it takes.
    #[arg(long, value_name = "TIME", requires = "wait", value_parser = duration)]
    timeout: Option<String>,
    /// Let it take connections again.
    #[arg(long)]
    undo: bool,
}

fn duration(text: &str) -> Result<String, humantime::DurationError> {
    humantime::parse_duration(text).map(|_| text.to_owned())
}

impl Drain {
    /// Whether what was asked for has come to be.
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<bool> {
        let query = DrainQuery {
            backend: self.backend.to_string(),
            undo: self.undo,
            wait: Some(self.wait),
            timeout: self.timeout.clone(),
        };
        let path = format!("/v1/drain?{}", serde_urlencoded::to_string(query)?);
        let left: Drained = agent.post(&path)?;
        match output {
            Output::Json => table::print_json(&left)?,
            Output::Table => table::print_table(&list(&left))?,
        }
        Ok(left.drained || !self.wait)
    }
}

fn list(left: &Drained) -> comfy_table::Table {
    let mut rows = table::new(
        &["SERVICE", "BACKEND", "DRAINED", "CONNECTIONS", "INFLIGHT"],
        &[3, 4],
    );
    for backend in &left.backends {
        rows.add_row([
            backend.service.clone(),
            backend.backend.clone(),
            if backend.drained { "yes" } else { "no" }.to_owned(),
            backend.connections.to_string(),
            backend.requests_in_flight.to_string(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::DrainedBackend;

    #[test]
    fn each_backend_says_what_is_left() {
        let left = Drained {
            drained: false,
            backends: vec![DrainedBackend {
                service: "prod/chat".into(),
                backend: "10.0.0.1:8000".into(),
                drained: false,
                connections: 3,
                requests_in_flight: 2,
            }],
        };
        let rows = table::rows(&list(&left));
        assert_eq!(rows[1], "prod/chat 10.0.0.1:8000 no 3 2");
    }
}
