// SPDX-License-Identifier: Apache-2.0
//! A real agent of a node, and the CLI that asks it.
//!
//! Invariant: an agent has its own run, pin and configuration folders, so several nodes of one host do not meet.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use nodemesh_agent::api;
use serde::de::DeserializeOwned;

use crate::{
    cgroup::Cgroup,
    eventually::eventually,
    process::{Place, Process, binary},
};

/// Where an agent serves metrics, in its node's network namespace.
const HTTP: &str = "127.0.0.1:9464";

/// Which agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// That of this source tree.
    Own,
    /// The same with an ABI that is yet to come.
    Next,
}

impl Build {
    fn binary(self) -> Result<PathBuf> {
        match self {
            Self::Own => Ok(binary("nodemesh-agent")),
            Self::Next => {
                let next = binary("nodemesh-agent-next");
                ensure!(
                    next.exists(),
                    "there is no {}: run `cargo xtask build --next`",
                    next.display()
                );
                Ok(next)
            }
        }
    }
}

/// An agent that may run or not.
#[derive(Debug)]
pub struct Agent {
    place: Place,
    _cgroup: Cgroup,
    mesh: PathBuf,
    pins: PathBuf,
    folder: PathBuf,
    process: Option<Process>,
}

impl Agent {
    pub(crate) fn new(place: Place, cgroup: Cgroup, mesh: &Path, pins: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir(folder).with_context(|| format!("create {}", folder.display()))?;
        Ok(Self {
            place,
            _cgroup: cgroup,
            mesh: mesh.into(),
            pins: pins.into(),
            folder: folder.into(),
            process: None,
        })
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.folder.join("mesh.yaml")
    }

    /// Name of its node.
    pub fn name(&self) -> String {
        let name = self.folder.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    /// The run directory.
    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    /// Folder of the last state of the control plane.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Puts `yaml` in the place of the configuration file, by a rename, as a careful writer does.
    pub fn configure(&self, yaml: &str) -> Result<()> {
        let next = self.folder.join("mesh.yaml.next");
        fs::write(&next, yaml)?;
        fs::rename(&next, self.config()).context("replace the configuration")
    }

    /// Starts it with more `flags` and waits until it is ready.
    pub fn start(&mut self, flags: &[&str]) -> Result<()> {
        self.process = Some(self.launch(flags)?);
        self.process().wait_for_log(|line| line.contains(" ready "))?;
        Ok(())
    }

    /// Starts it with more `flags`; the caller sees to what becomes of it.
    pub fn launch(&self, flags: &[&str]) -> Result<Process> {
        self.launch_build(Build::Own, flags)
    }

    /// The same, of a build of the caller's choice.
    pub fn launch_build(&self, build: Build, flags: &[&str]) -> Result<Process> {
        Process::spawn(&self.place, &build.binary()?, &self.arguments(flags))
    }

    /// Starts it like [`Agent::start`], of a build of the caller's choice.
    pub fn start_build(&mut self, build: Build, flags: &[&str]) -> Result<()> {
        self.process = Some(self.launch_build(build, flags)?);
        self.process().wait_for_log(|line| line.contains(" ready "))?;
        Ok(())
    }

    /// Starts it through a shell command that has the agent and its arguments as `"$@"`.
    pub fn launch_through(&self, script: &str, flags: &[&str]) -> Result<Process> {
        let mut command = ["-c".to_owned(), script.to_owned(), "sh".to_owned()].to_vec();
        command.push(binary("nodemesh-agent").display().to_string());
        command.extend(self.arguments(flags));
        Process::spawn(&self.place, Path::new("/bin/sh"), &command)
    }

    /// Lets the next start take what is attached for programs of another build.
    pub fn disown_programs(&self) -> Result<()> {
        Ok(nodemesh_agent::datapath::PinRoot::new(&self.pins).forget_build()?)
    }

    /// Starts it in a mount namespace of its own, after the shell commands `preparation` ran there.
    pub fn launch_in_own_mounts(&self, preparation: &str, flags: &[&str]) -> Result<Process> {
        let script = format!("set -e; {preparation}; exec \"$0\" \"$@\"");
        let mut command = ["--mount", "sh", "-c", &script].map(str::to_owned).to_vec();
        command.push(binary("nodemesh-agent").display().to_string());
        command.extend(self.arguments(flags));
        Process::spawn(&self.place, Path::new("/usr/bin/unshare"), &command)
    }

    /// Its command line; what `flags` names takes the place of its own.
    fn arguments(&self, flags: &[&str]) -> Vec<String> {
        let own = [
            ("--config", self.config().display().to_string()),
            ("--cgroup", self.mesh.display().to_string()),
            ("--pin-dir", self.pins.display().to_string()),
            ("--run-dir", self.run_dir().display().to_string()),
            ("--http", HTTP.to_owned()),
            ("--state-dir", self.state_dir().display().to_string()),
            ("--node-name", self.name()),
        ];
        let mut arguments = vec!["run".to_owned()];
        // Resources come from one of the two.
        let is_other = |flag: &str| flag == "--config" && flags.contains(&"--control");
        let named = |flag: &str| flags.contains(&flag) || is_other(flag);
        for (flag, value) in own.into_iter().filter(|(flag, _)| !named(flag)) {
            arguments.extend([flag.to_owned(), value]);
        }
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        arguments
    }

    /// Its process; panics if it was not started.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the agent was started")
    }

    /// Takes its process out, to be stopped, killed or waited for.
    pub fn take_process(&mut self) -> Process {
        self.process.take().expect("the agent was started")
    }

    /// Ends it by SIGKILL and waits.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.take_process();
        process.signal(Signal::SIGKILL)?;
        process.wait().map(drop)
    }

    /// Asks it to end, by SIGTERM, and waits.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.take_process().stop()
    }

    /// Replaces the configuration and waits until the kernel has it.
    pub fn reconfigure(&self, yaml: &str) -> Result<()> {
        let before = self.status()?.config.generation;
        self.configure(yaml)?;
        let status = eventually(
            "the new configuration",
            || self.status().ok(),
            |status| {
                status.as_ref().is_some_and(|status| {
                    !status.config.errors.is_empty()
                        || (status.config.generation > before
                            && status.config.applied_generation == status.config.generation)
                })
            },
        );
        match status.map(|status| status.config.errors) {
            Some(errors) if !errors.is_empty() => bail!("the configuration is invalid: {errors:?}"),
            _ => Ok(()),
        }
    }

    /// Runs the CLI.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        self.cli_command(arguments).output().context("run nodemesh")
    }

    fn cli_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary("nodemesh"));
        command.arg("--run-dir").arg(self.run_dir()).args(arguments);
        command
    }

    /// Removes every trace of the agent in the kernel.
    pub fn cleanup(&self) -> Result<Output> {
        self.cleanup_command().output().context("run nodemesh cleanup")
    }

    /// Begins to.
    pub fn launch_cleanup(&self) -> Result<Child> {
        self.cleanup_command().spawn().context("run nodemesh cleanup")
    }

    fn cleanup_command(&self) -> Command {
        self.cli_command(&["cleanup", "--pin-dir", &self.pins.display().to_string()])
    }

    fn ask<T: DeserializeOwned>(&self, verb: &[&str]) -> Result<T> {
        let output = self.cli(&[verb, &["-o", "json"]].concat())?;
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("nodemesh {verb:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    /// `nodemesh status`.
    pub fn status(&self) -> Result<api::Status> {
        self.ask(&["status"])
    }

    /// `nodemesh services`.
    pub fn services(&self) -> Result<Vec<api::Service>> {
        self.ask(&["services"])
    }

    /// `nodemesh backends`.
    pub fn backends(&self) -> Result<Vec<api::Backend>> {
        self.ask(&["backends"])
    }

    /// `nodemesh connections`, as the clients of this node see them: those that `connect()` placed.
    pub fn connections(&self) -> Result<Vec<api::Connection>> {
        self.ask(&["connections", "--vantage", "client"])
    }

    /// `nodemesh connections`, of the packet path.
    pub fn flows(&self) -> Result<Vec<api::Connection>> {
        self.ask(&["connections", "--path", "packet"])
    }

    /// `GET path` from the agent's HTTP listener: status code and body.
    pub fn http(&self, node: &crate::topology::Node, path: &str) -> Result<(u16, String)> {
        node.netns().run(|| {
            let mut stream = TcpStream::connect(HTTP).with_context(|| format!("connect to {HTTP}"))?;
            write!(stream, "GET {path} HTTP/1.0\r\nHost: agent\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
            let code = head.split(' ').nth(1).context("a status code")?.parse()?;
            Ok((code, body.to_owned()))
        })?
    }
}
