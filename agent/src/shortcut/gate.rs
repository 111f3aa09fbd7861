// SPDX-License-Identifier: Apache-2.0
//! Runs the self-test in a process of its own, once per kernel and build, and keeps what it found.
//!
//! Called by the keeper's thread. Invariant: whatever becomes of the process, its cgroup and pins are removed.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use tracing::{debug, warn};

use super::{pause::pause, report::Report};
use crate::datapath::PinRoot;

/// Longest that the self-test may take: about two seconds on an idle machine.
const LONGEST: Duration = Duration::from_secs(90);
/// Name of the file with the last report, in the run directory.
pub const FILE: &str = "shortcut.json";

/// What the self-test is to be done with.
#[derive(Clone, Debug)]
pub struct Gate {
    /// The mesh's cgroup, below which one is made.
    pub cgroup: PathBuf,
    /// The folder for pins, below which one is made.
    pub pin_dir: PathBuf,
    /// Where the report is kept.
    pub run_dir: PathBuf,
    /// Number of the build of the programs.
    pub build: u64,
}

/// Release and version of the running kernel: two kernels of one release differ in the latter.
pub fn kernel() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "unknown".into(),
        |uts| {
            let (release, version) = (uts.release().to_string_lossy(), uts.version().to_string_lossy());
            format!("{release} {version}")
        },
    )
}

impl Gate {
    /// The report of an earlier test, if it was of this kernel and build and was done.
    pub fn kept(&self) -> Option<Report> {
        let text = fs::read_to_string(self.run_dir.join(FILE)).ok()?;
        let report: Report = serde_json::from_str(&text).ok()?;
        let fits = report.kernel == kernel() && report.build == self.build && report.error.is_none();
        fits.then_some(report)
    }

    /// The kept report, or that of a test that is done now, unless the sender of `stopped` goes meanwhile.
    pub fn report(&self, stopped: &mpsc::Receiver<()>) -> Report {
        if let Some(report) = self.kept() {
            return report;
        }
        let started = Instant::now();
        let report = self.test(stopped);
        debug!(
            elapsed_ms = started.elapsed().as_millis() as u64,
            "tested the shortcut"
        );
        if report.error.is_none()
            && let Ok(text) = serde_json::to_string_pretty(&report)
            && let Err(error) = fs::write(self.run_dir.join(FILE), text)
        {
            warn!(%error, "could not keep the report of the shortcut's self-test; it is done again at the next start");
        }
        report
    }

    fn test(&self, stopped: &mpsc::Receiver<()>) -> Report {
        let name = format!("nodemesh-shortcut-{}", std::process::id());
        let (cgroup, pins) = (self.cgroup.join(&name), self.pin_dir.join(&name));
        let result = Self::run(&cgroup, &pins, stopped);
        clear(&cgroup, &pins);
        let mut report = result.unwrap_or_else(|error| Report {
            error: Some(error),
            ..Report::default()
        });
        (report.kernel, report.build) = (kernel(), self.build);
        report
    }

    fn run(cgroup: &Path, pins: &Path, stopped: &mpsc::Receiver<()>) -> Result<Report, String> {
        fs::create_dir(cgroup).map_err(|error| format!("create the cgroup {}: {error}", cgroup.display()))?;
        let program = std::env::current_exe().map_err(|error| format!("find the agent's file: {error}"))?;
        let mut child = Command::new(program)
            .arg("shortcut-test")
            .args(["--cgroup".as_ref(), cgroup.as_os_str()])
            .args(["--pin-dir".as_ref(), pins.as_os_str()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("start the process of the self-test: {error}"))?;
        let ended = wait(&mut child, stopped);
        let mut output = [String::new(), String::new()];
        if let (Some(stdout), Some(stderr)) = (&mut child.stdout, &mut child.stderr) {
            let _cut = stdout.read_to_string(&mut output[0]);
            let _cut = stderr.read_to_string(&mut output[1]);
        }
        let [stdout, stderr] = output;
        if !ended {
            return Err(format!("was ended, after {} s at the latest", LONGEST.as_secs()));
        }
        serde_json::from_str(&stdout).map_err(|_| format!("failed: {}", stderr.trim()))
    }
}

/// Waits until the process has ended; false if it had to be ended.
fn wait(child: &mut Child, stopped: &mpsc::Receiver<()>) -> bool {
    let deadline = Instant::now() + LONGEST;
    loop {
        match child.try_wait() {
            Ok(Some(_)) => return true,
            Ok(None) if Instant::now() < deadline && is_waited_for(stopped) => {
                pause(Duration::from_millis(20));
            }
            _ => {
                let _gone = child.kill();
                let _gone = child.wait();
                return false;
            }
        }
    }
}

/// Whether the agent does not end meanwhile.
fn is_waited_for(stopped: &mpsc::Receiver<()>) -> bool {
    stopped.try_recv() == Err(mpsc::TryRecvError::Empty)
}

/// Removes what the process used.
fn clear(cgroup: &Path, pins: &Path) {
    let folders = PinRoot::new(pins).remove_all().map(drop);
    // A process that has just ended may be in its cgroup for a moment.
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut removed = fs::remove_dir(cgroup);
    while removed.is_err() && cgroup.exists() && Instant::now() < deadline {
        pause(Duration::from_millis(10));
        removed = fs::remove_dir(cgroup);
    }
    if let Err(error) = folders.and(removed) {
        warn!(%error, "could not remove what the shortcut's self-test used");
    }
}
