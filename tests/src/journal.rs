// SPDX-License-Identifier: Apache-2.0
//! Logs of exchanges: one JSON object per line, written by a thread of its own so that no request waits for a disk.
//!
//! Invariant: a line is in the file, whole, soon after [`Journal::write`], whatever the size of the log; and all lines are when
//! the last handle is dropped.

use std::{
    fs::File,
    io::{BufWriter, Write as _},
    path::Path,
    sync::{Mutex, PoisonError, mpsc},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result};
use serde::{Serialize, de::DeserializeOwned};

/// An open log.
pub(crate) struct Journal<T> {
    /// `None` only while it is dropped.
    lines: Option<mpsc::Sender<T>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl<T: Serialize + Send + 'static> Journal<T> {
    /// Creates or truncates the file.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| format!("create {}", path.display()))?;
        let (lines, received) = mpsc::channel();
        let path = path.to_owned();
        let writer = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || {
                if let Err(error) = write_all(file, &received) {
                    eprintln!("write {}: {error}; the log ends here", path.display());
                }
            })
            .context("start the thread that writes the log")?;
        Ok(Self {
            lines: Some(lines),
            writer: Mutex::new(Some(writer)),
        })
    }

    /// Adds a line.
    pub(crate) fn write(&self, line: T) {
        // A writer that failed has said so, and the run goes on without a log.
        let _ = self.lines.as_ref().expect("taken only by drop").send(line);
    }
}

fn write_all<T: Serialize>(file: File, lines: &mpsc::Receiver<T>) -> std::io::Result<()> {
    let mut file = BufWriter::new(file);
    while let Ok(first) = lines.recv() {
        for line in std::iter::once(first).chain(lines.try_iter()) {
            serde_json::to_writer(&mut file, &line)?;
            file.write_all(b"\n")?;
        }
        file.flush()?;
    }
    Ok(())
}

impl<T> Drop for Journal<T> {
    fn drop(&mut self) {
        drop(self.lines.take());
        let writer = self.writer.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = writer.take() {
            // A panic of the writer has been printed already.
            let _ = writer.join();
        }
    }
}

/// Reads the lines written so far; one that is being written at this moment is left out.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .zip(1..)
        .map(|(line, number)| {
            serde_json::from_str(line).with_context(|| format!("line {number} of {}", path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{Journal, read};

    #[test]
    fn lines_are_read_back_and_a_torn_one_is_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let journal = Journal::create(&path).unwrap();
        (0..1000_u32).for_each(|line| journal.write(line));
        drop(journal);
        assert_eq!(read::<u32>(&path).unwrap(), (0..1000).collect::<Vec<_>>());
        std::fs::write(&path, "1\n2\n3").unwrap();
        assert_eq!(read::<u32>(&path).unwrap(), [1, 2]);
        std::fs::write(&path, "1\nx\n").unwrap();
        let error = format!("{:#}", read::<u32>(&path).unwrap_err());
        assert!(error.contains("line 2 of "), "{error}");
    }
}
