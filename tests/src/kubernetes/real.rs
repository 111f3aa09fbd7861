// SPDX-License-Identifier: Apache-2.0
//! The real API server (`tests/kapi`) and its etcd. Run by `api_server`.
//!
//! Invariant: what is stored outlives the server's process and goes with this handle.

use std::path::Path;

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;

use super::api_server::PORT;
use crate::{
    certificate::Certificates,
    etcd::Etcd,
    process::Process,
    real::tool,
    topology::{Node, Pod},
};

/// One that may run or not.
#[derive(Debug)]
pub(super) struct Real {
    pub(super) certificates: Certificates,
    etcd: Etcd,
    process: Option<Process>,
}

impl Real {
    /// One with nothing in it, that does not run yet; its etcd does.
    pub(super) fn new(node: &Node, pod: &Pod, folder: &Path) -> Result<Self> {
        Ok(Self {
            certificates: Certificates::generate(folder, &[pod.v4().to_string()])?,
            etcd: Etcd::start(node.pod("etcd")?)?,
            process: None,
        })
    }

    /// Starts its process with what is stored; what service accounts ask for goes to the file `trail`.
    pub(super) fn start(&mut self, pod: &Pod, trail: &Path) -> Result<()> {
        let path = |path: &Path| path.display().to_string();
        let arguments = [
            ["--bind", &pod.v4().to_string()],
            ["--port", &PORT.to_string()],
            ["--etcd", &self.etcd.url()],
            ["--cert", &path(&self.certificates.cert)],
            ["--key", &path(&self.certificates.key)],
            ["--audit", &path(trail)],
        ];
        let program = tool::kapi()
            .context("no API server of the sources in tests/kapi: `cargo xtask setup` builds it")?;
        let process = Process::spawn(&pod.place(), &program, arguments.as_flattened())?;
        process.wait_for_log(|line| line.contains("Serving securely"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends its process by SIGKILL and waits.
    pub(super) fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it was started")?;
        process.signal(Signal::SIGKILL)?;
        process.wait().map(drop)
    }

    /// Stops its time, or lets it go on.
    pub(super) fn pause(&self, is_paused: bool) -> Result<()> {
        let process = self.process.as_ref().context("it was started")?;
        process.signal(if is_paused {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        })
    }
}
