// SPDX-License-Identifier: Apache-2.0
//! The live table: redrawn in place on a terminal, appended otherwise; and lines of text, which stay above it.
//!
//! Invariant: a reader of the output that goes away does not end the demo, which has things to remove.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};

use super::{
    kernels::{Listing, Metered},
    latency::{Bounds, Figures},
    replica::Replica,
    stage::Look,
    watch::Watch,
};

/// Erases from the cursor to the end of the screen.
const ERASE_BELOW: &str = "\x1b[J";
/// Keeps a terminal that is too narrow from wrapping lines, which would make them two.
const WRAP_OFF: &str = "\x1b[?7l";
const WRAP_ON: &str = "\x1b[?7h";

/// Where the demo shows itself.
pub(super) struct Screen {
    in_place: bool,
    /// The table that stands at the bottom of a terminal.
    table: String,
}

/// What one drawing shows.
pub(super) struct Frame<'a> {
    /// Since the beginning.
    pub(super) clock: Duration,
    /// Since the last drawing.
    pub(super) elapsed: Duration,
    /// Those to show, with their index in the looks.
    pub(super) replicas: &'a [(usize, &'a Replica)],
    pub(super) former: &'a Look,
    pub(super) look: &'a Look,
    /// What the kernels have measured, before and now.
    pub(super) former_metered: &'a [Metered],
    pub(super) metered: &'a [Metered],
    pub(super) bounds: &'a Bounds,
    /// Since the last drawing.
    pub(super) recent: &'a Watch,
    /// Since the beginning.
    pub(super) heard: &'a Watch,
}

const HEADERS: [&str; 13] = [
    "REPLICA",
    "SPEED",
    "STATE",
    "ACTIVE",
    "TOTAL",
    "SHARE",
    "TOKENS/S",
    "TTFT KERNEL",
    "TTFT CLIENT",
    "ITL KERNEL",
    "ITL CLIENT",
    "IN FLIGHT",
    "SERVER SAYS",
];
const NUMBERS: std::ops::Range<usize> = 3..13;

impl Screen {
    /// The standard output.
    pub(super) fn new(plain: bool) -> Self {
        Self {
            in_place: !plain && io::stdout().is_terminal(),
            table: String::new(),
        }
    }

    /// Time between two drawings.
    pub(super) fn row_interval(&self) -> Duration {
        Duration::from_secs(if self.in_place { 1 } else { 2 })
    }

    /// Says something that stays.
    pub(super) fn say(&mut self, text: &str) {
        let erase = self.erase();
        put(&format!("{erase}{text}\n{}", self.table));
    }

    /// Draws the table.
    pub(super) fn draw(&mut self, frame: &Frame<'_>) {
        let erase = self.erase();
        let table = frame.render();
        if self.in_place {
            self.table = format!("{WRAP_OFF}\n{table}{WRAP_ON}");
            put(&format!("{erase}{}", self.table));
        } else {
            put(&format!("\n{table}"));
        }
    }

    /// Leaves the table where it is; what comes next comes below.
    pub(super) fn settle(&mut self) {
        self.table.clear();
    }

    /// What takes the table off the screen.
    fn erase(&self) -> String {
        match self.table.lines().count() {
            0 => String::new(),
            lines => format!("\r\x1b[{}A{ERASE_BELOW}", lines - 1),
        }
    }
}

fn put(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
}

impl Frame<'_> {
    fn render(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING).set_header(HEADERS);
        for (index, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if NUMBERS.contains(&index) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        for (index, replica) in self.replicas {
            table.add_row(self.row(*index, replica));
        }
        let lines: Vec<String> = table
            .to_string()
            .lines()
            .map(|line| format!("  {}\n", line.trim_end()))
            .collect();
        format!(
            "{:>5.1} s  {} requests answered, {} failed\n{}",
            self.clock.as_secs_f64(),
            self.heard.ok,
            self.heard.failures(),
            lines.concat()
        )
    }

    fn row(&self, index: usize, replica: &Replica) -> Vec<String> {
        let absent = || "-".to_owned();
        let (counts, former) = (self.look.counts[index], self.former.counts[index]);
        let seen = self.recent.seen(replica.cast.name);
        let kernel = self.metered[index]
            .server
            .since(&self.former_metered[index].server);
        let shown = |figures: Option<Figures>| figures.map_or_else(absent, |figures| figures.to_string());
        let new = counts.total.saturating_sub(former.total);
        let all: u64 = self
            .replicas
            .iter()
            .map(|(index, _)| {
                let [now, before] = [self.look, self.former].map(|look| look.counts[*index].total);
                now.saturating_sub(before)
            })
            .sum();
        vec![
            replica.cast.name.to_owned(),
            format!("{}+{} ms", replica.cast.speed.prefill, replica.cast.speed.token),
            state(replica, self.look.listings[index]),
            counts.active.to_string(),
            counts.total.to_string(),
            (new * 100)
                .checked_div(all)
                .map_or_else(absent, |share| format!("{share} %")),
            format!(
                "{:.0}",
                self.recent.tokens(replica.cast.name) as f64 / self.elapsed.as_secs_f64()
            ),
            shown(kernel.first(self.bounds)),
            shown(seen.first()),
            shown(kernel.gap(self.bounds)),
            shown(seen.gap()),
            self.metered[index].server.in_flight.to_string(),
            self.look.truths[index].map_or_else(absent, |truth| truth.in_flight().to_string()),
        ]
    }
}

/// As the kernels list it, and whether there is a process.
fn state(replica: &Replica, listing: Listing) -> String {
    let listed = listing.word();
    if replica.runs() {
        listed.to_owned()
    } else {
        format!("{listed}, gone")
    }
}
