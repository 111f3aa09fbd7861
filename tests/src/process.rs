// SPDX-License-Identifier: Apache-2.0
//! Processes in the namespaces and cgroups of a topology. Ended when dropped.
//!
//! Invariant: a process enters its namespace and cgroup before its program starts (`pod-exec`), so no socket of it is outside.

use std::{
    io::{BufRead as _, BufReader, Read, Write as _},
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::de::DeserializeOwned;

use crate::eventually::PATIENCE;

/// Where the binaries of the workspace are: `NODEMESH_BIN_DIR`, or beside the running test's folder.
pub fn binary(name: &str) -> PathBuf {
    if let Some(folder) = std::env::var_os("NODEMESH_BIN_DIR") {
        return PathBuf::from(folder).join(name);
    }
    let running = std::env::current_exe().expect("the running binary has a path");
    let beside = running.parent().expect("a binary is in a folder");
    let folder = if beside.ends_with("deps") {
        beside.parent().expect("deps is in a profile")
    } else {
        beside
    };
    folder.join(name)
}

/// Where a process runs.
#[derive(Clone, Debug)]
pub struct Place {
    /// File of its network namespace.
    pub netns: PathBuf,
    /// Folder of its cgroup.
    pub cgroup: PathBuf,
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Lines,
    stderr: Lines,
}

impl Process {
    /// Starts `program` at `place`.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(place: &Place, program: &Path, arguments: &[S]) -> Result<Self> {
        let name = program
            .file_name()
            .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let mut child = Command::new(binary("pod-exec"))
            .args([
                "--netns".as_ref(),
                place.netns.as_os_str(),
                "--cgroup".as_ref(),
                place.cgroup.as_os_str(),
                "--".as_ref(),
            ])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {name} through {}", binary("pod-exec").display()))?;
        let stdin = child.stdin.take();
        let stdout = Lines::of(child.stdout.take().context("the output is piped")?);
        let stderr = Lines::of(child.stderr.take().context("the output is piped")?);
        Ok(Self {
            name,
            child,
            stdin,
            stdout,
            stderr,
        })
    }

    /// Its process id, the same before and after `pod-exec`.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far on standard output.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.so_far()
    }

    /// What it has printed so far on standard error.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.so_far()
    }

    /// Waits for a line on standard output that `is_right` accepts.
    pub fn wait_for_line(&self, is_right: impl Fn(&str) -> bool) -> Result<String> {
        self.stdout.wait_for(is_right).with_context(|| self.describe())
    }

    /// Waits for a line on standard error that `is_right` accepts.
    pub fn wait_for_log(&self, is_right: impl Fn(&str) -> bool) -> Result<String> {
        self.stderr.wait_for(is_right).with_context(|| self.describe())
    }

    /// Waits for the JSON of the last line that it prints before it ends; its exit status is up to the caller.
    pub fn report<T: DeserializeOwned>(mut self) -> Result<(T, ExitStatus)> {
        let status = self.wait()?;
        let lines = self.stdout.until_end();
        let last = lines
            .last()
            .with_context(|| format!("{} printed nothing", self.describe()))?;
        let report =
            serde_json::from_str(last).with_context(|| format!("no report: {last}; {}", self.describe()))?;
        Ok((report, status))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .with_context(|| format!("signal {}", self.name))
    }

    /// Closes its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// Writes a line to its standard input.
    pub fn write_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("its input is closed")?;
        writeln!(stdin, "{line}")
            .and_then(|()| stdin.flush())
            .with_context(|| format!("write to {}", self.name))
    }

    /// Waits until it ends.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait()?)
    }

    /// All that it said on standard output and on standard error, up to its end.
    pub fn output(&self) -> (String, String) {
        [&self.stdout, &self.stderr]
            .map(|lines| lines.until_end().join("\n"))
            .into()
    }

    /// Waits until it ends and gives all that it said on standard error.
    pub fn finish(mut self) -> Result<(ExitStatus, String)> {
        let status = self.wait()?;
        Ok((status, self.stderr.until_end().join("\n")))
    }

    /// Asks it to end, by SIGTERM, and waits.
    pub fn stop(mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait()
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn describe(&self) -> String {
        format!(
            "{} (pid {}) said:\n{}",
            self.name,
            self.child.id(),
            self.stderr.so_far().join("\n")
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether a process was ended by SIGKILL.
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(Signal::SIGKILL as i32)
}

/// Lines that a thread collects.
#[derive(Clone, Debug)]
struct Lines {
    shared: Arc<(Mutex<Collected>, Condvar)>,
}

#[derive(Debug, Default)]
struct Collected {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn of(source: impl Read + Send + 'static) -> Self {
        let lines = Self {
            shared: Arc::default(),
        };
        let collector = lines.clone();
        thread::spawn(move || {
            for line in BufReader::new(source).lines().map_while(Result::ok) {
                collector.update(|collected| collected.lines.push(line));
            }
            collector.update(|collected| collected.ended = true);
        });
        lines
    }

    fn update(&self, change: impl FnOnce(&mut Collected)) {
        change(&mut self.shared.0.lock().expect("no holder panics"));
        self.shared.1.notify_all();
    }

    fn so_far(&self) -> Vec<String> {
        self.shared.0.lock().expect("no holder panics").lines.clone()
    }

    fn until_end(&self) -> Vec<String> {
        let collected = self.shared.0.lock().expect("no holder panics");
        self.shared
            .1
            .wait_while(collected, |collected| !collected.ended)
            .expect("no holder panics")
            .lines
            .clone()
    }

    fn wait_for(&self, is_right: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        let mut collected = self.shared.0.lock().expect("no holder panics");
        loop {
            if let Some(line) = collected.lines.iter().find(|line| is_right(line)) {
                return Ok(line.clone());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if collected.ended || left.is_zero() {
                bail!("the expected line did not come; so far: {:?}", collected.lines);
            }
            collected = self
                .shared
                .1
                .wait_timeout(collected, left)
                .expect("no holder panics")
                .0;
        }
    }
}
