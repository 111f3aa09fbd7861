// SPDX-License-Identifier: Apache-2.0
//! A table for hundreds of thousands of rows: the same look as [`super::table`], with one allocation for all cells instead of several
//! for each. Used by the list of connections.

use std::fmt;

use comfy_table::CellAlignment;

/// One column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    /// Its header.
    pub(super) header: &'static str,
    /// Where its cells are aligned.
    pub(super) alignment: CellAlignment,
}

/// Rows of cells.
pub(super) struct Columns {
    shown: Vec<Column>,
    /// All cells, row by row.
    text: String,
    /// Where each cell ends in `text`, and how many characters it has.
    cells: Vec<(usize, usize)>,
    widths: Vec<usize>,
}

/// Blanks between two columns.
const GAP: usize = 2;

impl Columns {
    /// An empty table.
    pub(super) fn new(columns: Vec<Column>) -> Self {
        let widths = columns.iter().map(|column| column.header.len()).collect();
        Self {
            shown: columns,
            text: String::new(),
            cells: Vec::new(),
            widths,
        }
    }

    /// Adds the next cell; rows fill from left to right.
    pub(super) fn cell(&mut self, cell: impl fmt::Display) {
        use fmt::Write as _;
        let start = self.text.len();
        write!(self.text, "{cell}").expect("a string takes everything");
        let width = self.text[start..].chars().count();
        let column = self.cells.len() % self.shown.len();
        self.widths[column] = self.widths[column].max(width);
        self.cells.push((self.text.len(), width));
    }

    /// Rows so far.
    pub(super) fn rows(&self) -> usize {
        self.cells.len() / self.shown.len()
    }

    /// The table, headers first, without blanks at the ends of lines.
    pub(super) fn render(&self) -> String {
        let line: usize = self.widths.iter().map(|width| width + GAP).sum();
        let mut out = String::with_capacity((self.rows() + 1) * (line + 1));
        let headers = self
            .shown
            .iter()
            .map(|column| (column.header, column.header.len()));
        self.line(&mut out, headers);
        let mut start = 0;
        let mut cells = self.cells.iter().map(|(end, width)| {
            let cell = &self.text[start..*end];
            start = *end;
            (cell, *width)
        });
        for _ in 0..self.rows() {
            out.push('\n');
            self.line(&mut out, cells.by_ref().take(self.shown.len()));
        }
        out
    }

    fn line<'a>(&self, out: &mut String, cells: impl Iterator<Item = (&'a str, usize)>) {
        let start = out.len();
        for ((cell, width), (column, widest)) in cells.zip(self.shown.iter().zip(&self.widths)) {
            let blanks = widest - width;
            let before = if column.alignment == CellAlignment::Right {
                blanks
            } else {
                0
            };
            out.extend(std::iter::repeat_n(' ', before));
            out.push_str(cell);
            out.extend(std::iter::repeat_n(' ', blanks - before + GAP));
        }
        out.truncate(start + out[start..].trim_end().len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table;

    #[test]
    fn it_looks_like_every_other_table() {
        let headers = ["NAME", "COUNT", "NOTE"];
        let rows = [["a", "1", "x"], ["länger", "12345678", ""], ["", "-", "y z"]];
        let mut expected = table::new(&headers, &[1]);
        let mut columns = Columns::new(
            headers
                .iter()
                .map(|header| Column {
                    header,
                    alignment: if *header == "COUNT" {
                        CellAlignment::Right
                    } else {
                        CellAlignment::Left
                    },
                })
                .collect(),
        );
        for row in rows {
            expected.add_row(row);
            for cell in row {
                columns.cell(cell);
            }
        }
        assert_eq!(columns.rows(), 3);
        assert_eq!(columns.render(), table::text(&expected));
    }

    #[test]
    fn without_rows_there_are_headers() {
        let columns = Columns::new(vec![Column {
            header: "ONE",
            alignment: CellAlignment::Left,
        }]);
        assert_eq!((columns.rows(), columns.render()), (0, "ONE".to_owned()));
    }
}
