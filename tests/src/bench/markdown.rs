// SPDX-License-Identifier: Apache-2.0
//! Tables in Markdown.

use std::fmt;

/// A table.
pub(super) struct Table {
    lines: Vec<String>,
}

impl Table {
    /// A table with `headers`.
    pub(super) fn new(headers: &[&str]) -> Self {
        let mut table = Self { lines: Vec::new() };
        table.row(headers);
        table.row(&vec!["---"; headers.len()]);
        table
    }

    /// Adds a row.
    pub(super) fn row(&mut self, cells: &[impl fmt::Display]) {
        let cells: Vec<String> = cells.iter().map(ToString::to_string).collect();
        self.lines.push(format!("| {} |", cells.join(" | ")));
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
