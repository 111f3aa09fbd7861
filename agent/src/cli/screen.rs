// SPDX-License-Identifier: Apache-2.0
//! A view that is drawn again and again: in place on a terminal, one after the other elsewhere. Used by `top` and
//! `connections -w`.
//!
//! Plain ANSI sequences, no raw mode: whatever ends the process leaves a usable terminal.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::Result;

/// Where the view is drawn.
pub(super) struct Screen {
    terminal: bool,
    drawn: bool,
}

/// Columns and lines.
type Size = (usize, usize);

impl Screen {
    /// Standard output.
    pub(super) fn new() -> Self {
        Self {
            terminal: io::stdout().is_terminal(),
            drawn: false,
        }
    }

    /// Lines of text that there is room for; `None` if any number is fine.
    pub(super) fn lines(&self) -> Option<usize> {
        self.size().map(|(_, lines)| lines)
    }

    /// Draws `text`, with `title` above it on a terminal; false if nobody looks any more.
    pub(super) fn draw(&mut self, title: &str, text: &str) -> Result<bool> {
        let frame = match self.size() {
            Some(size) => frame(title, text, size, !self.drawn),
            None if self.drawn => format!("\n{text}\n"),
            None => format!("{text}\n"),
        };
        self.drawn = true;
        let mut stdout = io::stdout().lock();
        match stdout.write_all(frame.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
            result => Ok(result.map(|()| true)?),
        }
    }

    /// Lets `interval` pass.
    pub(super) fn pause(interval: Duration) -> Result<()> {
        let clock = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        // A sleep is made inside of a runtime.
        clock.block_on(async { tokio::time::sleep(interval).await });
        Ok(())
    }

    fn size(&self) -> Option<Size> {
        let asked = self.terminal.then(terminal_size::terminal_size).flatten();
        asked.map(|(width, height)| (usize::from(width.0), usize::from(height.0)))
    }
}

/// What overwrites the frame before it: no line wraps, and nothing of a longer frame stays.
fn frame(title: &str, text: &str, (columns, lines): Size, first: bool) -> String {
    let mut frame = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" }.to_owned();
    let visible = std::iter::once(title).chain(text.lines()).take(lines);
    for (index, line) in visible.enumerate() {
        if index > 0 {
            frame.push_str("\r\n");
        }
        frame.extend(line.chars().take(columns));
        frame.push_str("\x1b[K");
    }
    frame.push_str("\x1b[J");
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_terminal() {
        assert_eq!(
            frame("title", "one\ntwo\nthree", (4, 3), true),
            "\x1b[2J\x1b[Htitl\x1b[K\r\none\x1b[K\r\ntwo\x1b[K\x1b[J"
        );
        assert_eq!(frame("t", "", (80, 24), false), "\x1b[Ht\x1b[K\x1b[J");
    }
}
