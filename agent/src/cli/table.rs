// SPDX-License-Identifier: Apache-2.0
//! Output: plain tables that also work with `awk`, and JSON. Used by every verb.

use std::io::{self, Write as _};

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

/// A table with `headers`; the columns named in `numbers` are aligned to the right.
pub(super) fn new(headers: &[&str], numbers: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(headers);
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// The lines of a table, each with its words one space apart.
#[cfg(test)]
pub(super) fn rows(table: &Table) -> Vec<String> {
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    text(table).lines().map(words).collect()
}

/// Prints text; a reader that went away is no error.
pub(super) fn print(text: &str) -> Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// A table without the padding that would end its lines.
pub(super) fn text(table: &Table) -> String {
    table
        .to_string()
        .lines()
        .map(str::trim_end)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Prints a table.
pub(super) fn print_table(table: &Table) -> Result<()> {
    print(&text(table))
}

/// YAML, with the end of its last line.
pub(super) fn yaml(value: &impl Serialize) -> Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

/// Prints JSON.
pub(super) fn print_json(value: &impl Serialize) -> Result<()> {
    print(&serde_json::to_string_pretty(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let mut table = new(&["NAME", "COUNT", "NOTE"], &[1]);
        table.add_row(["a", "1", "x"]).add_row(["longer", "12345678", ""]);
        assert_eq!(
            text(&table),
            "NAME       COUNT  NOTE\na              1  x\nlonger  12345678"
        );
    }
}
