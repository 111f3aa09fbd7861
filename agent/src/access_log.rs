// SPDX-License-Identifier: Apache-2.0
//! The access log: one line per finished request and connection, as the kernel saw it.
//!
//! ```text
//! programs ─► ring buffer `access` ─► reader (task) ─► queue ─► writer (thread) ─► file or standard output
//!   full: lost, counted                    full: lost, counted      formats, names, writes
//! ```
//!
//! Off unless asked for; then the programs write no record, so nobody wakes up. They write none while no agent runs, unless it was
//! killed: then the ring buffer fills, and the next agent writes what is in it. Invariant: nothing here waits for the output but
//! the writer's own thread, and a record of a log that is on is either written or counted as lost.

mod line;
mod reader;
mod writer;

use std::{
    fs::OpenOptions,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, SyncSender, TrySendError},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use nodemesh_abi::AccessRecord;
use tokio::sync::watch;

use crate::{
    config::{AccessLogFormat, AgentConfig},
    reconcile::view::View,
};
pub use reader::AccessReader;
use writer::{Output, Writer};

/// Batches that may wait for the writer.
const QUEUE: usize = 64;

/// The access log as others see it: what it is set to, and what it has done.
#[derive(Debug)]
pub struct AccessLog {
    setting: Mutex<Setting>,
    path: Option<PathBuf>,
    queue: SyncSender<Message>,
    counts: Arc<Counts>,
}

/// What the log is set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Form, or off.
    pub format: AccessLogFormat,
    /// One of this many records is written.
    pub sample: u32,
}

impl Setting {
    /// [`nodemesh_abi::Settings::access_sample`] for this setting.
    pub fn kernel_sample(self) -> u32 {
        if self.format == AccessLogFormat::Off {
            0
        } else {
            self.sample
        }
    }
}

/// What the agent's flags ask for.
pub fn asked(config: &AgentConfig) -> Setting {
    Setting {
        format: config.access_log,
        sample: config.access_log_sample,
    }
}

/// Fails if the log is asked for and cannot be opened, before anything else is done.
pub fn check(config: &AgentConfig) -> Result<()> {
    if config.access_log != AccessLogFormat::Off {
        open(config.access_log_file.as_deref())?;
    }
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    lost: AtomicU64,
}

/// What the writer is told.
enum Message {
    Records(Vec<AccessRecord>),
    Format(Format),
    Output(Output),
    /// Say so when all that came before is written.
    Flush(mpsc::Sender<()>),
}

/// Form of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Logfmt,
}

impl AccessLog {
    /// The log, off, with its writer; `path` is where it will be written, standard output if absent.
    pub fn new(path: Option<PathBuf>, view: watch::Receiver<Arc<View>>) -> Result<Self> {
        let (queue, messages) = mpsc::sync_channel(QUEUE);
        let counts = Arc::new(Counts::default());
        let writer = Writer::new(view, Arc::clone(&counts));
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || writer.run(&messages))
            .context("start the thread of the access log")?;
        let setting = Setting {
            format: AccessLogFormat::Off,
            sample: 1,
        };
        Ok(Self {
            setting: Mutex::new(setting),
            path,
            queue,
            counts,
        })
    }

    /// What it is set to.
    pub fn setting(&self) -> Setting {
        *self.setting.lock().expect("no holder panics")
    }

    /// Changes what it is set to; the programs must be told [`Setting::kernel_sample`] afterwards. Fails, and changes nothing,
    /// if the output cannot be opened. What was written in a former format is not touched.
    pub fn set(&self, wanted: Setting) -> Result<()> {
        let mut setting = self.setting.lock().expect("no holder panics");
        let format = match wanted.format {
            AccessLogFormat::Off => None,
            AccessLogFormat::Json => Some(Format::Json),
            AccessLogFormat::Logfmt => Some(Format::Logfmt),
        };
        if let Some(format) = format {
            if setting.format == AccessLogFormat::Off {
                self.tell(Message::Output(open(self.path.as_deref())?))?;
            }
            // Records that are still on their way when the log is switched off are written in the last format.
            self.tell(Message::Format(format))?;
        }
        *setting = wanted;
        Ok(())
    }

    /// Opens the file anew: whoever rotates logs has renamed it. Nothing to do while the log is off or on standard output.
    pub fn reopen(&self) -> Result<()> {
        if self.path.is_none() || self.setting().format == AccessLogFormat::Off {
            return Ok(());
        }
        self.tell(Message::Output(open(self.path.as_deref())?))
    }

    /// Hands records to the writer, or counts them as lost if it is behind.
    fn push(&self, records: Vec<AccessRecord>) {
        match self.queue.try_send(Message::Records(records)) {
            Ok(()) => {}
            Err(TrySendError::Full(message) | TrySendError::Disconnected(message)) => {
                if let Message::Records(records) = message {
                    self.counts
                        .lost
                        .fetch_add(records.len() as u64, Ordering::Relaxed);
                }
            }
        }
    }

    /// Lines written since the agent started.
    pub fn written(&self) -> u64 {
        self.counts.written.load(Ordering::Relaxed)
    }

    /// Records that the agent has lost; those that the programs found no room for are counted by them.
    pub fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Waits until everything so far is written, but no longer than `patience`.
    pub fn flush(&self, patience: Duration) {
        let (done, wait) = mpsc::channel();
        if self.queue.try_send(Message::Flush(done)).is_ok() {
            // An output that blocks is its reader's business; the agent ends all the same.
            let _ = wait.recv_timeout(patience);
        }
    }

    fn tell(&self, message: Message) -> Result<()> {
        self.queue
            .try_send(message)
            .ok()
            .context("the access log is held up by its output; try again when it is read")
    }
}

fn open(path: Option<&Path>) -> Result<Output> {
    let Some(path) = path else {
        return Ok(Output::Standard);
    };
    let file = OpenOptions::new().create(true).append(true).open(path);
    let remedy = "name another file with --access-log-file";
    Ok(Output::File(file.with_context(|| {
        format!("open the access log {}; {remedy}", path.display())
    })?))
}

#[cfg(test)]
mod tests {
    use zerocopy::FromZeros as _;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const JSON: Setting = Setting {
        format: AccessLogFormat::Json,
        sample: 1,
    };

    fn log(path: &Path) -> AccessLog {
        let (_, view) = watch::channel(Arc::default());
        AccessLog::new(Some(path.into()), view).unwrap()
    }

    fn push(log: &AccessLog, count: usize) {
        log.push(vec![AccessRecord::new_zeroed(); count]);
        log.flush(PATIENCE);
    }

    fn lines(path: &Path) -> usize {
        std::fs::read_to_string(path).unwrap_or_default().lines().count()
    }

    #[test]
    fn every_record_is_a_line_of_the_file_that_is_open() {
        let folder = tempfile::tempdir().unwrap();
        let (file, rotated) = (folder.path().join("log"), folder.path().join("log.1"));
        let log = log(&file);
        log.reopen().unwrap();
        assert!(!file.exists(), "nothing is opened while the log is off");
        log.set(JSON).unwrap();
        push(&log, 3);
        std::fs::rename(&file, &rotated).unwrap();
        push(&log, 2);
        log.reopen().unwrap();
        log.set(Setting {
            format: AccessLogFormat::Logfmt,
            sample: 5,
        })
        .unwrap();
        push(&log, 4);
        assert_eq!((lines(&rotated), lines(&file)), (5, 4));
        assert!(
            std::fs::read_to_string(&rotated)
                .unwrap()
                .starts_with("{\"kind\":")
        );
        assert!(
            std::fs::read_to_string(&file)
                .unwrap()
                .starts_with("kind=request ")
        );
        assert_eq!((log.written(), log.lost()), (9, 0));
        assert_eq!(log.setting().kernel_sample(), 5);
    }

    #[test]
    fn records_that_a_killed_agent_left_are_nothing_to_a_log_that_is_off() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("log");
        let log = log(&file);
        push(&log, 3);
        assert_eq!((log.written(), log.lost(), file.exists()), (0, 0, false));
        log.set(JSON).unwrap();
        push(&log, 2);
        assert_eq!((log.written(), lines(&file)), (2, 2));
    }

    #[test]
    fn what_cannot_be_written_is_counted() {
        let log = log(Path::new("/dev/full"));
        log.set(JSON).unwrap();
        push(&log, 7);
        assert_eq!((log.written(), log.lost()), (0, 7));
    }

    #[test]
    fn a_file_that_cannot_be_opened_leaves_the_log_as_it_is() {
        let log = log(Path::new("/nowhere/access.log"));
        let error = log.set(JSON).unwrap_err();
        assert!(format!("{error:#}").contains("--access-log-file"), "{error:#}");
        assert_eq!(
            (log.setting().format, log.setting().kernel_sample()),
            (AccessLogFormat::Off, 0)
        );
    }

    #[test]
    fn a_writer_that_is_behind_loses_records_instead_of_holding_anybody_up() {
        let (queue, messages) = mpsc::sync_channel(1);
        let log = AccessLog {
            setting: Mutex::new(JSON),
            path: None,
            queue,
            counts: Arc::default(),
        };
        for _ in 0..3 {
            log.push(vec![AccessRecord::new_zeroed(); 10]);
        }
        assert_eq!(log.lost(), 20);
        log.flush(Duration::ZERO);
        assert!(log.reopen().is_ok(), "standard output is not opened anew");
        drop(messages);
        log.push(vec![AccessRecord::new_zeroed()]);
        assert_eq!(log.lost(), 21);
    }
}
