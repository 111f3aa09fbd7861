// SPDX-License-Identifier: Apache-2.0
//! The last lines of the agent's log, kept so that `nodemesh sysdump` has them wherever standard error went.
//!
//! Invariant: bounded in bytes; what is written always reaches standard error first.

use std::{
    collections::VecDeque,
    io::{self, Write},
    sync::{Arc, Mutex},
};

use tracing_subscriber::fmt::MakeWriter;

/// Bytes that are kept.
const CAPACITY: usize = 256 << 10;

/// The lines; clones share them.
#[derive(Clone, Debug, Default)]
pub struct RecentLog {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Each with its end.
    lines: VecDeque<String>,
    bytes: usize,
}

impl RecentLog {
    /// All that is kept, oldest first.
    pub fn text(&self) -> String {
        let kept = self.kept.lock().expect("no holder panics");
        kept.lines.iter().map(String::as_str).collect()
    }

    fn keep(&self, event: &[u8]) {
        let line = String::from_utf8_lossy(event).into_owned();
        let mut kept = self.kept.lock().expect("no holder panics");
        kept.bytes += line.len();
        kept.lines.push_back(line);
        while kept.bytes > CAPACITY
            && let Some(oldest) = kept.lines.pop_front()
        {
            kept.bytes -= oldest.len();
        }
    }
}

/// One event on its way: the formatter writes it in one piece.
#[derive(Debug)]
pub struct Event<'a> {
    recent: &'a RecentLog,
}

impl<'a> MakeWriter<'a> for RecentLog {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Event { recent: self }
    }
}

impl Write for Event<'_> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr().lock().write_all(event)?;
        self.recent.keep(event);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lines_go_when_there_is_no_room() {
        let recent = RecentLog::default();
        assert_eq!(recent.text(), "");
        for number in 0..3 {
            recent.keep(format!("{number}{}\n", "x".repeat(CAPACITY / 3)).as_bytes());
        }
        let text = recent.text();
        assert!(text.len() <= CAPACITY && text.starts_with('1') && text.contains("\n2"));
        recent.keep("y".repeat(CAPACITY + 1).as_bytes());
        assert_eq!(recent.text(), "", "an event beyond all bounds is not kept");
    }
}
