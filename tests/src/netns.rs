// SPDX-License-Identifier: Apache-2.0
//! Network namespaces: the nodes and pods of a topology. Removed when dropped.
//!
//! Invariant: everything inside a namespace is configured through `ip -batch`, in one process per namespace.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::sched::{CloneFlags, setns};

/// Folder of the namespaces that `ip netns` names.
const NETNS_DIR: &str = "/run/netns";

/// A network namespace.
#[derive(Debug)]
pub struct NetNs {
    name: String,
}

impl NetNs {
    /// Creates the namespace `name`, with its loopback device up.
    pub fn create(name: &str) -> Result<Self> {
        run_ip(&["netns", "add", name])?;
        let namespace = Self {
            name: name.to_owned(),
        };
        namespace.configure(&["link set lo up".to_owned()])?;
        namespace.skip_duplicate_detection()?;
        Ok(namespace)
    }

    /// Makes the addresses of devices yet to come usable at once: a router whose link-local address is still tentative asks
    /// no neighbour, and loses IPv6 packets for up to two seconds.
    fn skip_duplicate_detection(&self) -> Result<()> {
        self.run(|| {
            let conf = Path::new("/proc/sys/net/ipv6/conf");
            // The larger of the two counts.
            ["all", "default"]
                .iter()
                .try_for_each(|devices| fs::write(conf.join(devices).join("accept_dad"), "0"))
        })?
        .context("turn off duplicate address detection")
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(NETNS_DIR).join(&self.name)
    }

    /// Runs lines of `ip -batch` inside.
    pub fn configure(&self, lines: &[String]) -> Result<()> {
        run_ip_in(&self.name, lines)
    }

    /// Runs `work` on a thread inside the namespace.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("open {}", self.path().display()))?;
        thread::scope(|scope| {
            let inside = scope.spawn(move || -> Result<T> {
                setns(&file, CloneFlags::CLONE_NEWNET).context("enter the network namespace")?;
                Ok(work())
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Drop for NetNs {
    fn drop(&mut self) {
        if let Err(error) = run_ip(&["netns", "del", &self.name]) {
            eprintln!("cannot remove a network namespace: {error:#}");
        }
    }
}

/// Runs `ip` with `arguments` in the caller's namespace.
pub(crate) fn run_ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .context("run ip; `cargo xtask setup` installs it")?;
    if !output.status.success() {
        bail!(
            "ip {} failed: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Runs lines of `ip -batch` in the namespace `name`.
pub(crate) fn run_ip_in(name: &str, lines: &[String]) -> Result<()> {
    let mut ip = Command::new("ip")
        .args(["-n", name, "-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("run ip")?;
    let mut input = ip.stdin.take().context("ip has a standard input")?;
    input.write_all((lines.join("\n") + "\n").as_bytes())?;
    drop(input);
    let output = ip.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "ip -n {name} failed on {lines:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

/// Names of the namespaces that there are.
pub(crate) fn names() -> Vec<String> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else {
        return Vec::new();
    };
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}
