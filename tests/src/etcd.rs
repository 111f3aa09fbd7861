// SPDX-License-Identifier: Apache-2.0
//! A real etcd in a pod: one member that may be killed, paused and started again.
//!
//! Invariant: its data outlives its process and goes with this handle.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{process::Process, real::tool, topology::Pod};

/// Port for clients.
const CLIENT_PORT: u16 = 2379;
/// Port for other members, of which there are none.
const PEER_PORT: u16 = 2380;

/// An etcd that may run or not.
#[derive(Debug)]
pub struct Etcd {
    pod: Pod,
    program: PathBuf,
    data: TempDir,
    process: Option<Process>,
}

impl Etcd {
    /// Starts one in `pod`, with nothing in it, and waits until it answers.
    pub fn start(pod: Pod) -> Result<Self> {
        let mut etcd = Self {
            pod,
            program: tool::etcd(),
            data: tempfile::tempdir()?,
            process: None,
        };
        etcd.restart()?;
        Ok(etcd)
    }

    /// Starts it with the data that it had, and waits until it answers.
    pub fn restart(&mut self) -> Result<()> {
        let url = |port| format!("http://{}", SocketAddr::new(self.pod.v4(), port));
        let (client, peer) = (url(CLIENT_PORT), url(PEER_PORT));
        let data = self.data.path().display().to_string();
        let member = format!("m={peer}");
        let arguments = [
            ["--name", "m"],
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &member],
            ["--heartbeat-interval", "50"],
            ["--election-timeout", "500"],
            ["--logger", "zap"],
        ];
        let process = Process::spawn(&self.pod.place(), &self.program, arguments.as_flattened())?;
        // It says so once it has a leader.
        process.wait_for_log(|line| line.contains("serving client traffic"))?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it by SIGKILL and waits.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it was started")?;
        process.signal(Signal::SIGKILL)?;
        process.wait().map(drop)
    }

    /// Stops its time, or lets it go on.
    pub fn pause(&self, is_paused: bool) -> Result<()> {
        let process = self.process.as_ref().context("it was started")?;
        process.signal(if is_paused {
            Signal::SIGSTOP
        } else {
            Signal::SIGCONT
        })
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.pod.v4(), CLIENT_PORT))
    }

    /// The flag of a control plane that keeps its resources here.
    pub fn store_url(&self) -> String {
        format!("etcd://{}", SocketAddr::new(self.pod.v4(), CLIENT_PORT))
    }
}
