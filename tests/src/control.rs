// SPDX-License-Identifier: Apache-2.0
//! A real control plane in a pod, and the CLI that talks to it.
//!
//! Invariant: its store outlives its process, so that a test may kill and start it again.

use std::{
    io::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    eventually::eventually,
    netns::NetNs,
    process::{Process, binary},
    single_node::said,
    topology::Pod,
};

/// Port of the gRPC API and of xDS.
const GRPC_PORT: u16 = 15010;
/// Port of DNS.
const DNS_PORT: u16 = 53;
/// Port of metrics.
const HTTP_PORT: u16 = 9465;

/// A control plane that may run or not.
#[derive(Debug)]
pub struct ControlPlane {
    pod: Pod,
    folder: TempDir,
    process: Option<Process>,
}

impl ControlPlane {
    /// One in `pod`, with an empty store of its own.
    pub fn new(pod: Pod) -> Self {
        Self {
            pod,
            folder: tempfile::tempdir().expect("a folder for the store"),
            process: None,
        }
    }

    /// Starts it with more `flags` and waits until it is ready. Plaintext, unless `flags` say otherwise.
    pub fn start(&mut self, flags: &[&str]) -> Result<()> {
        self.start_through(&[], flags)
    }

    /// The same, started by another program: `wrapper` is its command line, to which that of the control plane is added.
    pub fn start_through(&mut self, wrapper: &[&str], flags: &[&str]) -> Result<()> {
        let process = self.launch(wrapper, flags)?;
        process.wait_for_log(|line| line.contains(" ready"))?;
        self.process = Some(process);
        Ok(())
    }

    /// The same; the caller sees to what becomes of it.
    pub fn launch(&self, wrapper: &[&str], flags: &[&str]) -> Result<Process> {
        let mut command: Vec<String> = wrapper.iter().map(|&word| word.to_owned()).collect();
        command.push(binary("nodemesh-control").display().to_string());
        command.extend(self.arguments(flags));
        Process::spawn(&self.pod.place(), Path::new(&command[0]), &command[1..])
    }

    /// Its command line; what `flags` names takes the place of its own.
    fn arguments(&self, flags: &[&str]) -> Vec<String> {
        let address = |port| SocketAddr::new(self.ip(), port).to_string();
        let own = [
            ("--listen", address(GRPC_PORT)),
            ("--http", address(HTTP_PORT)),
            ("--dns", address(DNS_PORT)),
            ("--store", format!("embedded://{}", self.store().display())),
            ("--address-range", "10.97.0.0/16,fd97::/112".to_owned()),
            ("--report-interval", "1s".to_owned()),
        ];
        let mut arguments = Vec::new();
        for (flag, value) in own.into_iter().filter(|(flag, _)| !flags.contains(flag)) {
            arguments.extend([flag.to_owned(), value]);
        }
        if !flags.contains(&"--tls-cert") {
            arguments.push("--insecure".to_owned());
        }
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        arguments
    }

    /// The file of its store.
    pub fn store(&self) -> PathBuf {
        self.folder().join("store.redb")
    }

    /// Folder for what belongs to it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process; panics if it was not started.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the control plane was started")
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.process.as_mut().is_none_or(Process::has_ended)
    }

    /// Ends it by SIGKILL and waits.
    pub fn kill(&mut self) -> Result<()> {
        let mut process = self.process.take().context("it was started")?;
        process.signal(Signal::SIGKILL)?;
        process.wait().map(drop)
    }

    /// Asks it to end, by SIGTERM, and waits.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.take().context("it was started")?.stop()?;
        ensure!(status.success(), "the control plane ended with {status}");
        Ok(())
    }

    /// Its address.
    pub fn ip(&self) -> IpAddr {
        self.pod.v4()
    }

    /// Where it runs.
    pub fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Its network namespace.
    pub fn netns(&self) -> &NetNs {
        self.pod.netns()
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.ip(), GRPC_PORT))
    }

    /// Flags with which an agent or the CLI reaches it in plaintext.
    pub fn flags(&self) -> [String; 3] {
        [
            "--control".to_owned(),
            self.url(),
            "--control-plaintext".to_owned(),
        ]
    }

    /// Runs a verb of the CLI against it, in its pod.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        self.cli_with(arguments, "")
    }

    /// The same, with `input` on standard input.
    pub fn cli_with(&self, arguments: &[&str], input: &str) -> Output {
        self.cli_as(&self.flags(), arguments, input)
    }

    /// The same, with `flags` that say how the control plane is reached.
    pub fn cli_as(&self, flags: &[String], arguments: &[&str], input: &str) -> Output {
        let (verb, rest) = arguments.split_first().expect("a verb");
        let run = || -> Result<Output> {
            let mut child = Command::new(binary("nodemesh"))
                .arg(verb)
                .args(flags)
                .args(rest)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut stdin = child.stdin.take().context("the input is piped")?;
            stdin.write_all(input.as_bytes())?;
            drop(stdin);
            Ok(child.wait_with_output()?)
        };
        let output = self.netns().run(run).and_then(|output| output);
        output.expect("run nodemesh")
    }

    /// Applies resources and returns what the CLI said; panics if it did not take them.
    pub fn apply(&self, resources: &impl ToString) -> String {
        let output = self.cli_with(&["apply", "-f", "-"], &resources.to_string());
        assert!(output.status.success(), "apply: {}", said(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// `nodemesh get ...` as JSON.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[&["get"], arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "get {arguments:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Waits until `nodemesh get ...` is as it should be.
    pub fn wait_for(&self, what: &str, arguments: &[&str], is_right: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.get(arguments), is_right)
    }
}
