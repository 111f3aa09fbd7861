// SPDX-License-Identifier: Apache-2.0
//! The API server and its etcd, and `kubectl`, by which everything is done to it.
//!
//! Invariant: what is stored outlives the server's process and goes with this handle.

use std::{
    cell::RefCell,
    fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{SYSTEM, objects};
use crate::{
    certificate::Certificates,
    control::ControlPlane,
    etcd::Etcd,
    eventually::{PATIENCE, eventually, wait_until},
    process::{Process, binary},
    real::tool,
    single_node::said,
    topology::{Node, Pod},
};

/// Port of the API server.
const PORT: u16 = 6443;

/// A kind of request of a service account, as the API server has written it down.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Name of the account's user.
    pub user: String,
    /// What it wanted to do.
    pub verb: String,
    /// Group of the resource; empty for the core.
    pub group: String,
    /// Resource, with the subresource after a slash.
    pub resource: String,
    /// Empty for all.
    pub namespace: String,
    /// Whether a role allowed it.
    pub allowed: bool,
}

/// An API server that may run or not.
#[derive(Debug)]
pub struct ApiServer {
    pod: Pod,
    folder: TempDir,
    certificates: Certificates,
    etcd: Etcd,
    process: Option<Process>,
    /// Nodes that were told to the API.
    pub(super) nodes: RefCell<Vec<String>>,
}

impl ApiServer {
    /// Starts one on `node`, with the definitions of our resources and the namespaces of the tests.
    pub fn start(node: &Node) -> Result<Self> {
        let server = Self::start_empty(node)?;
        server.define();
        server.apply(&[objects::namespace(SYSTEM), objects::namespace(super::NAMESPACE)]);
        Ok(server)
    }

    /// Starts one with nothing in it.
    pub fn start_empty(node: &Node) -> Result<Self> {
        let pod = node.pod("api")?;
        let folder = tempfile::tempdir()?;
        let mut server = Self {
            certificates: Certificates::generate(folder.path(), &[pod.v4().to_string()])?,
            etcd: Etcd::start(node.pod("etcd")?)?,
            pod,
            folder,
            process: None,
            nodes: RefCell::default(),
        };
        server.restart()?;
        Ok(server)
    }

    /// Starts its process with what is stored, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        let path = |path: &Path| path.display().to_string();
        let arguments = [
            ["--bind", &self.pod.v4().to_string()],
            ["--port", &PORT.to_string()],
            ["--etcd", &self.etcd.url()],
            ["--cert", &path(&self.certificates.cert)],
            ["--key", &path(&self.certificates.key)],
            ["--audit", &path(&self.trail())],
        ];
        let process = Process::spawn(&self.pod.place(), &tool::kapi(), arguments.as_flattened())?;
        process.wait_for_log(|line| line.contains("Serving securely"))?;
        self.process = Some(process);
        wait_until(PATIENCE, || {
            self.kubectl(&["get", "--raw", "/readyz"]).status.success()
        })
        .context("wait until the API server is ready")
    }

    /// Ends its process by SIGKILL and waits.
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

    /// Applies the definitions that the control plane prints, and waits until they are served.
    fn define(&self) {
        let printed = Command::new(binary("nodemesh-control")).arg("crds").output();
        let printed = printed.expect("run nodemesh-control");
        let definitions = String::from_utf8(printed.stdout).expect("text");
        self.expect(&["apply", "-f", "-"], &definitions);
        self.established();
    }

    /// Waits until what is defined is served.
    pub(super) fn established(&self) {
        let condition = "--for=condition=Established";
        self.expect(&["wait", condition, "--timeout=60s", "crd", "--all"], "");
    }

    /// A kubeconfig of `user`, or of an administrator.
    pub fn kubeconfig(&self, user: Option<&str>) -> PathBuf {
        let name = user.unwrap_or("admin");
        let server = format!("https://{}", SocketAddr::new(self.pod.v4(), PORT));
        // kubectl asks for a name and a password where there is nothing.
        let administrator = || json!({"username": "admin", "password": "none"});
        let token = user.map_or_else(administrator, |user| json!({"token": user}));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": self.certificates.ca}}],
            "users": [{"name": "test", "user": token}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": SYSTEM}}],
        });
        let path = self.folder.path().join(name.replace(':', "-"));
        fs::write(&path, config.to_string()).expect("write a kubeconfig");
        path
    }

    /// Starts `control` on this cluster, as an administrator, with more `flags`.
    pub fn start_control(&self, control: &mut ControlPlane, flags: &[&str]) {
        self.start_control_as(None, control, flags);
    }

    /// The same as `user`.
    pub fn start_control_as(&self, user: Option<&str>, control: &mut ControlPlane, flags: &[&str]) {
        let variable = format!("KUBECONFIG={}", self.kubeconfig(user).display());
        let flags = [&["--store", "kubernetes"], flags].concat();
        let started = control.start_through(&["/usr/bin/env", &variable], &flags);
        started.expect("start the control plane");
    }

    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(super) fn pod(&self) -> &Pod {
        &self.pod
    }

    /// Runs `kubectl` as an administrator.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, "")
    }

    /// The same, with `input` on standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Output {
        let kubeconfig = self.kubeconfig(None);
        let cache = self.folder.path().join("cache");
        let run = || -> Result<Output> {
            let mut child = Command::new(tool::kubectl())
                .env("KUBECONFIG", kubeconfig)
                .env("KUBECACHEDIR", cache)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            child
                .stdin
                .take()
                .context("the input is piped")?
                .write_all(input.as_bytes())?;
            Ok(child.wait_with_output()?)
        };
        let output = self.pod.netns().run(run).and_then(|output| output);
        output.expect("run kubectl")
    }

    /// Runs `kubectl`, which must succeed, and returns what it printed.
    #[track_caller]
    pub fn expect(&self, arguments: &[&str], input: &str) -> String {
        let output = self.kubectl_with(arguments, input);
        assert!(
            output.status.success(),
            "kubectl {arguments:?}: {}",
            said(&output)
        );
        String::from_utf8(output.stdout).expect("text")
    }

    /// Applies objects.
    #[track_caller]
    pub fn apply(&self, objects: &[Value]) {
        self.expect(
            &["apply", "--server-side", "-f", "-"],
            &objects::document(objects),
        );
    }

    /// Deletes objects.
    #[track_caller]
    pub fn delete(&self, objects: &[Value]) {
        self.expect(
            &["delete", "--wait=false", "-f", "-"],
            &objects::document(objects),
        );
    }

    /// Why the API server does not take `object`.
    #[track_caller]
    pub fn refusal(&self, object: &Value) -> String {
        let output = self.kubectl_with(&["apply", "--server-side", "-f", "-"], &object.to_string());
        assert!(!output.status.success(), "it was taken: {object}");
        said(&output)
    }

    /// `kubectl get ... -o json`.
    #[track_caller]
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.expect(&[&["get", "-o", "json"], arguments].concat(), "");
        serde_json::from_str(&text).expect("JSON")
    }

    /// Waits until `kubectl get ...` is as it should be.
    pub fn wait_for(&self, what: &str, arguments: &[&str], is_right: impl Fn(&Value) -> bool) -> Value {
        eventually(what, || self.get(arguments), is_right)
    }

    /// Waits for an event with `reason` about the object `name`, and returns its note.
    pub fn event(&self, reason: &str, name: &str) -> String {
        let is_it = |event: &&Value| event["reason"] == reason && event["regarding"]["name"] == name;
        let note = |events: &Value| {
            let mut found = events["items"].as_array().into_iter().flatten().filter(is_it);
            found
                .next()
                .map(|event| event["note"].as_str().unwrap_or_default().to_owned())
        };
        let all = ["events.events.k8s.io", "-A"];
        let events = self.wait_for("the event", &all, |events| note(events).is_some());
        note(&events).expect("it was seen")
    }

    /// What service accounts have asked for so far.
    pub fn audit(&self) -> Vec<Asked> {
        let text = fs::read_to_string(self.trail()).unwrap_or_default();
        let read = |line| serde_json::from_str(line).expect("a line of the audit");
        text.lines().map(read).collect()
    }

    fn trail(&self) -> PathBuf {
        self.folder.path().join("audit.jsonl")
    }
}
