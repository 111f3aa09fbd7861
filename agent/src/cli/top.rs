// SPDX-License-Identifier: Apache-2.0
//! `nodemesh top`: what each service and replica is doing, from two readings of the kernel's counters.

mod rates;

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use comfy_table::Table;

use self::rates::{Rates, rates};
use super::{Output, client::AdminClient, screen::Screen, table, units};
use crate::api::{TrafficReport, Vantage};

const HEADERS: [&str; 14] = [
    "SERVICE", "BACKEND", "VANTAGE", "INFLIGHT", "REQ/S", "CHUNK/S", "TTFT50", "TTFT99", "ITL50", "ITL99",
    "ERR/S", "CANCEL/S", "STALLED", "CONNS",
];

/// Arguments of `nodemesh top`.
#[derive(Args, Debug)]
pub(super) struct Top {
    /// Print one table over one interval and end.
    #[arg(long)]
    once: bool,
    /// Time between two readings: what rates and quantiles are about.
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,
    /// Only this service (`namespace/name`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only what is seen from this end.
    #[arg(long, value_enum)]
    vantage: Option<Vantage>,
}

impl Top {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        let mut screen = Screen::new();
        let mut before = self.read(agent)?;
        loop {
            Screen::pause(self.interval)?;
            let now = self.read(agent)?;
            let lines = self.select(rates(&before, &now));
            match output {
                Output::Json => table::print_json(&lines)?,
                Output::Table if self.once => table::print_table(&list(&lines))?,
                Output::Table => {
                    let every = units::seconds(self.interval.as_secs_f64());
                    let title = format!("traffic of the last {every}");
                    if !screen.draw(&title, &table::text(&list(&lines)))? {
                        return Ok(());
                    }
                }
            }
            if self.once {
                return Ok(());
            }
            before = now;
        }
    }

    fn read(&self, agent: &AdminClient) -> Result<TrafficReport> {
        let query = serde_urlencoded::to_string([("service", &self.service)])?;
        agent.get(&format!("/v1/traffic?{query}"))
    }

    fn select(&self, mut lines: Vec<Rates>) -> Vec<Rates> {
        lines.retain(|line| self.vantage.is_none_or(|vantage| line.vantage == vantage));
        lines
    }
}

fn list(lines: &[Rates]) -> Table {
    let mut rows = table::new(&HEADERS, &[3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
    for line in lines {
        rows.add_row([
            line.service.clone(),
            line.backend.clone(),
            line.vantage.word().to_owned(),
            line.requests_in_flight.to_string(),
            units::rate(line.requests_per_second),
            units::rate(line.chunks_per_second),
            units::maybe_seconds(line.time_to_first_token_p50),
            units::maybe_seconds(line.time_to_first_token_p99),
            units::maybe_seconds(line.inter_token_latency_p50),
            units::maybe_seconds(line.inter_token_latency_p99),
            units::rate(line.errors_per_second),
            units::rate(line.cancels_per_second),
            line.stalled_streams.to_string(),
            line.open_connections.to_string(),
        ]);
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_says_how_a_replica_fares() {
        let line = Rates {
            service: "prod/chat".into(),
            backend: rates::ALL.into(),
            vantage: Vantage::Server,
            requests_in_flight: 12,
            requests_per_second: 3.25,
            chunks_per_second: 812.4,
            time_to_first_token_p50: Some(0.12),
            time_to_first_token_p99: Some(2.5),
            inter_token_latency_p50: Some(0.015),
            inter_token_latency_p99: None,
            errors_per_second: 0.0,
            cancels_per_second: 0.5,
            stalled_streams: 1,
            open_connections: 40,
        };
        let rows = table::rows(&list(&[line]));
        assert_eq!(rows[0], HEADERS.join(" "));
        assert_eq!(
            rows[1],
            "prod/chat * server 12 3.2 812 120ms 2.5s 15.0ms - 0 0.5 1 40"
        );
    }
}
