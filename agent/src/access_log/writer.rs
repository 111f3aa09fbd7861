// SPDX-License-Identifier: Apache-2.0
//! The thread that turns records into lines and writes them. The only part of the agent that may wait for the output.

use std::{
    fs::File,
    io::{self, Write as _},
    sync::{
        Arc,
        atomic::Ordering,
        mpsc::{Receiver, TryRecvError},
    },
};

use nodemesh_abi::AccessRecord;
use tokio::sync::watch;
use tracing::warn;

use super::{Counts, Format, Message, line::Line};
use crate::{datapath::clock::TimeOfDay, names::Names, reconcile::view::View};

/// Bytes written at once.
const CHUNK: usize = 64 * 1024;

/// Where lines go.
#[derive(Debug)]
pub(super) enum Output {
    Standard,
    File(File),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File(file) => file.write_all(bytes),
        }
    }
}

/// The writer's state.
pub(super) struct Writer {
    view: watch::Receiver<Arc<View>>,
    names: Names,
    /// Absent until the log is on for the first time.
    output: Option<Output>,
    format: Format,
    counts: Arc<Counts>,
    /// Lines that are not written yet, and how many they are.
    lines: Vec<u8>,
    waiting: u64,
    /// Whether the last write failed.
    failing: bool,
}

impl Writer {
    pub(super) fn new(mut view: watch::Receiver<Arc<View>>, counts: Arc<Counts>) -> Self {
        let names = Names::of(view.borrow_and_update().clone());
        Self {
            view,
            names,
            output: None,
            format: Format::Json,
            counts,
            lines: Vec::new(),
            waiting: 0,
            failing: false,
        }
    }

    /// Writes until the senders are gone. What waits is written when the queue is empty, or enough has gathered.
    pub(super) fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let message = match messages.try_recv() {
                Ok(message) => message,
                Err(TryRecvError::Disconnected) => return self.write(),
                Err(TryRecvError::Empty) => {
                    self.write();
                    match messages.recv() {
                        Ok(message) => message,
                        Err(_) => return,
                    }
                }
            };
            match message {
                Message::Records(records) => self.append(&records),
                Message::Format(format) => self.format = format,
                Message::Output(output) => {
                    self.write();
                    self.output = Some(output);
                }
                Message::Flush(done) => {
                    self.write();
                    // Whoever asked may have lost patience.
                    let _ = done.send(());
                }
            }
        }
    }

    fn append(&mut self, records: &[AccessRecord]) {
        if self.output.is_none() {
            // Of an agent that was killed while its log was on. Nobody asked this one for them.
            return;
        }
        if self.view.has_changed().unwrap_or_default() {
            self.names = Names::of(self.view.borrow_and_update().clone());
        }
        let clock = TimeOfDay::now();
        for record in records {
            let line = Line::new(record, &self.names, clock);
            match self.format {
                Format::Json => line.json(&mut self.lines),
                Format::Logfmt => line.logfmt(&mut self.lines),
            }
            self.waiting += 1;
            if self.lines.len() >= CHUNK {
                self.write();
            }
        }
    }

    /// Writes what waits. What cannot be written is lost: kept, it would only pile up.
    fn write(&mut self) {
        let Some(output) = &mut self.output else { return };
        if self.lines.is_empty() {
            return;
        }
        let result = output.write(&self.lines);
        let count = if result.is_ok() {
            &self.counts.written
        } else {
            &self.counts.lost
        };
        count.fetch_add(self.waiting, Ordering::Relaxed);
        if let Err(error) = &result
            && !self.failing
        {
            warn!(%error, "cannot write the access log; its lines are lost and counted until that is mended");
        }
        self.failing = result.is_err();
        self.lines.clear();
        self.waiting = 0;
    }
}
