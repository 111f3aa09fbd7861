// SPDX-License-Identifier: Apache-2.0
//! `nodemesh connections`. The agent filters, sorts and limits; this shows.
//!
//! Invariant: memory and time grow with what is shown, a few hundred bytes and a microsecond for each connection.

#[cfg(test)]
mod tests;

use std::{
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::Args;
use comfy_table::CellAlignment::{Left, Right};

use super::{
    Output,
    client::AdminClient,
    columns::{Column, Columns},
    screen::Screen,
    table, units,
};
use crate::api::{Connection, ConnectionQuery, Path, Phase, Sort, Vantage};

/// Arguments of `nodemesh connections`.
#[derive(Args, Debug, Default)]
pub(super) struct Connections {
    /// Only those to this service (`namespace/name`).
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Only those on this backend (`ip:port`).
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<String>,
    /// Only those in this phase.
    #[arg(long, value_enum)]
    phase: Option<Phase>,
    /// Only those seen from this end; a connection within the node is listed once for each.
    #[arg(long, value_enum)]
    vantage: Option<Vantage>,
    /// Only those that reach their backends by this path.
    #[arg(long, value_enum)]
    path: Option<Path>,
    /// Only those opened longer ago than this, such as 30s or 5m.
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    older_than: Option<Duration>,
    /// Only those with a request that has been silent for longer than its backend's usual pace allows.
    #[arg(long)]
    stalled: bool,
    /// Order; the largest comes first.
    #[arg(long, value_enum, default_value_t = Sort::Age)]
    sort: Sort,
    /// Only the first so many.
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// More columns: the address that was dialled, the socket, and who connected.
    #[arg(long)]
    wide: bool,
    /// Show them again and again, in place on a terminal.
    #[arg(short, long)]
    watch: bool,
    /// Time between two looks.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = humantime::parse_duration)]
    interval: Duration,
}

impl Connections {
    pub(super) fn run(&self, agent: &AdminClient, output: Output) -> Result<()> {
        if !self.watch {
            return match output {
                Output::Json => pass_on(agent, &self.url(None, false)?),
                Output::Table => table::print(&self.look(agent, None)?.render()),
            };
        }
        let mut screen = Screen::new();
        loop {
            if output == Output::Json {
                pass_on(agent, &self.url(None, false)?)?;
            } else {
                // A title and the headers.
                let room = screen.lines().map(|lines| lines.saturating_sub(2));
                let connections = self.look(agent, room)?;
                let title = format!(
                    "{} connections, every {}",
                    connections.rows(),
                    units::seconds(self.interval.as_secs_f64())
                );
                if !screen.draw(&title, &connections.render())? {
                    return Ok(());
                }
            }
            Screen::pause(self.interval)?;
        }
    }

    /// What to ask the agent for; at most `room` connections.
    fn url(&self, room: Option<usize>, lines: bool) -> Result<String> {
        let limits = [self.limit, room];
        let query = ConnectionQuery {
            service: self.service.clone(),
            backend: self.backend.clone(),
            phase: self.phase,
            vantage: self.vantage,
            path: self.path,
            older_than: self.older_than.map(|age| age.as_secs_f64()),
            stalled: self.stalled,
            sort: self.sort,
            limit: limits.into_iter().flatten().min(),
            lines,
        };
        let query = serde_urlencoded::to_string(&query).context("encode the query")?;
        Ok(format!("/v1/connections?{query}"))
    }

    fn look(&self, agent: &AdminClient, room: Option<usize>) -> Result<Columns> {
        let mut rows = Rows::new(self.wide);
        agent.stream(&self.url(room, true)?, |chunk| rows.append(chunk))?;
        rows.finish()
    }
}

/// Copies the agent's JSON to standard output; a reader that went away is no error.
fn pass_on(agent: &AdminClient, path: &str) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let copied = agent.stream(path, |chunk| Ok(stdout.write_all(chunk)?));
    match copied.and_then(|()| Ok(stdout.flush()?)) {
        Err(error)
            if error.downcast_ref::<io::Error>().map(io::Error::kind) == Some(io::ErrorKind::BrokenPipe) =>
        {
            Ok(())
        }
        result => result,
    }
}

/// Turns lines of JSON into rows while they come.
struct Rows {
    columns: Columns,
    wide: bool,
    /// Beginning of a line whose end has not come yet.
    rest: Vec<u8>,
}

impl Rows {
    fn new(wide: bool) -> Self {
        let shown = if wide { &COLUMNS[..] } else { &COLUMNS[..NARROW] };
        Self {
            columns: Columns::new(shown.to_vec()),
            wide,
            rest: Vec::new(),
        }
    }

    fn append(&mut self, chunk: &[u8]) -> Result<()> {
        let Some(end) = chunk.iter().rposition(|byte| *byte == b'\n') else {
            self.rest.extend_from_slice(chunk);
            return Ok(());
        };
        let (lines, rest) = chunk.split_at(end + 1);
        let mut whole = std::mem::take(&mut self.rest);
        whole.extend_from_slice(lines);
        self.rest = rest.to_vec();
        for line in whole.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let connection = serde_json::from_slice(line)
                .context("the agent's answer is not what this version of the CLI expects")?;
            self.row(&connection);
        }
        Ok(())
    }

    fn finish(self) -> Result<Columns> {
        anyhow::ensure!(
            self.rest.is_empty(),
            "the agent's answer broke off; it may have ended"
        );
        Ok(self.columns)
    }

    fn row(&mut self, connection: &Connection) {
        let columns = &mut self.columns;
        columns.cell(&connection.service);
        columns.cell(connection.client.as_deref().unwrap_or("-"));
        columns.cell(&connection.backend);
        columns.cell(connection.vantage.word());
        columns.cell(connection.path.word());
        columns.cell(&connection.wire);
        columns.cell(connection.phase.word());
        columns.cell(if connection.stalled { "stalled" } else { "-" });
        columns.cell(units::maybe_seconds(connection.request_age_seconds));
        columns.cell(units::maybe_seconds(connection.quiet_seconds));
        columns.cell(units::seconds(connection.age_seconds));
        columns.cell(units::bytes(connection.request_bytes));
        columns.cell(units::bytes(connection.response_bytes));
        columns.cell(connection.requests_total);
        columns.cell(units::maybe_seconds(connection.rtt_seconds));
        if self.wide {
            columns.cell(&connection.service_address);
            columns.cell(connection.seen_as.as_deref().unwrap_or("-"));
            columns.cell(&connection.protocol);
            columns.cell(&connection.tcp_state);
            columns.cell(connection.retransmits);
            columns.cell(connection.unread_bytes);
            columns.cell(connection.client_workload.as_deref().unwrap_or("-"));
            columns.cell(connection.client_pid);
            columns.cell(connection.cookie);
        }
    }
}

const fn column(header: &'static str, alignment: comfy_table::CellAlignment) -> Column {
    Column { header, alignment }
}

/// Columns that are shown without `--wide`.
const NARROW: usize = 15;

const COLUMNS: [Column; 24] = [
    column("SERVICE", Left),
    column("CLIENT", Left),
    column("BACKEND", Left),
    column("VANTAGE", Left),
    column("PATH", Left),
    column("WIRE", Left),
    column("PHASE", Left),
    column("STALL", Left),
    column("REQUEST", Right),
    column("QUIET", Right),
    column("AGE", Right),
    column("UP", Right),
    column("DOWN", Right),
    column("REQS", Right),
    column("RTT", Right),
    column("DIALLED", Left),
    column("SEEN AS", Left),
    column("PROTOCOL", Left),
    column("STATE", Left),
    column("RETRANS", Right),
    column("UNREAD", Right),
    column("WORKLOAD", Left),
    column("PID", Right),
    column("COOKIE", Right),
];
