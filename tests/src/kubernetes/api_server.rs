// SPDX-License-Identifier: Apache-2.0
//! An API server, and what is done to it: by `kubectl`, or, where it is the double, directly.
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
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{SYSTEM, Served, double::Double, objects, real::Real};
use crate::{
    control::ControlPlane,
    eventually::{PATIENCE, eventually, wait_until},
    process::binary,
    real::tool,
    single_node::said,
    topology::{Node, Pod},
};

/// Port of the API server.
pub(super) const PORT: u16 = 6443;

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

/// What serves the API.
#[derive(Debug)]
enum Server {
    Real(Box<Real>),
    Double(Double),
}

/// An API server that may run or not.
#[derive(Debug)]
pub struct ApiServer {
    pod: Pod,
    folder: TempDir,
    server: Server,
    /// Nodes that were told to the API.
    pub(super) nodes: RefCell<Vec<String>>,
}

impl ApiServer {
    /// Starts one on `node`, with the definitions of our resources and the namespaces of the tests.
    pub fn start(node: &Node, served: Served) -> Result<Self> {
        let api = Self::start_empty(node, served)?;
        if served == Served::Real {
            api.define();
        }
        api.apply(&[objects::namespace(SYSTEM), objects::namespace(super::NAMESPACE)]);
        Ok(api)
    }

    /// Starts one with nothing in it.
    pub fn start_empty(node: &Node, served: Served) -> Result<Self> {
        let pod = node.pod("api")?;
        let folder = tempfile::tempdir()?;
        let program = match served {
            Served::Real => Server::Real(Box::new(Real::new(node, &pod, folder.path())?)),
            Served::Double => Server::Double(Double::new()),
        };
        let mut api = Self {
            server: program,
            pod,
            folder,
            nodes: RefCell::default(),
        };
        api.restart()?;
        Ok(api)
    }

    /// Starts it with what is stored, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        let (trail, address) = (self.trail(), self.address());
        match &mut self.server {
            Server::Double(double) => {
                return double.serve(self.pod.netns(), address);
            }
            Server::Real(real) => real.start(&self.pod, &trail)?,
        }
        wait_until(PATIENCE, || {
            self.kubectl(&["get", "--raw", "/readyz"]).status.success()
        })
        .context("wait until the API server is ready")
    }

    /// Ends it in the middle of everything, and waits.
    pub fn kill(&mut self) -> Result<()> {
        match &mut self.server {
            Server::Real(real) => real.kill()?,
            Server::Double(double) => double.stop(),
        }
        Ok(())
    }

    /// Stops its time, or lets it go on.
    pub fn pause(&self, is_paused: bool) -> Result<()> {
        match &self.server {
            Server::Real(real) => real.pause(is_paused)?,
            Server::Double(double) => double.pause(is_paused),
        }
        Ok(())
    }

    /// The double, if it is one.
    pub fn double(&self) -> Option<&Double> {
        match &self.server {
            Server::Real(_) => None,
            Server::Double(double) => Some(double),
        }
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
        let wait = ["wait", condition, "--timeout=10s", "crd", "--all"];
        // It fails at once for one that has no conditions yet.
        let is_served = || self.kubectl(&wait).status.success();
        wait_until(PATIENCE, is_served).expect("what is defined is served");
    }

    /// A kubeconfig of `user`, or of an administrator.
    pub fn kubeconfig(&self, user: Option<&str>) -> PathBuf {
        self.kubeconfig_in(SYSTEM, user)
    }

    /// The same for a pod of `namespace`.
    pub fn kubeconfig_in(&self, namespace: &str, user: Option<&str>) -> PathBuf {
        let name = format!("{namespace}-{}", user.unwrap_or("admin"));
        let address = self.address();
        let cluster = match self.authority() {
            Some(authority) => {
                json!({"server": format!("https://{address}"), "certificate-authority": authority})
            }
            None => json!({"server": format!("http://{address}")}),
        };
        // kubectl asks for a name and a password where there is nothing.
        let administrator = || json!({"username": "admin", "password": "none"});
        let token = user.map_or_else(administrator, |user| json!({"token": user}));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": token}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
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

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.pod.v4(), PORT)
    }

    /// Who signed its certificate, if it serves over TLS.
    pub(super) fn authority(&self) -> Option<&Path> {
        match &self.server {
            Server::Real(real) => Some(&real.certificates.ca),
            Server::Double(_) => None,
        }
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
        if let Some(double) = self.double() {
            let applied = objects.iter().try_for_each(|object| double.apply(object));
            return applied.expect("apply objects");
        }
        self.expect(
            &["apply", "--server-side", "-f", "-"],
            &objects::document(objects),
        );
    }

    /// Deletes objects.
    #[track_caller]
    pub fn delete(&self, objects: &[Value]) {
        if let Some(double) = self.double() {
            let deleted = objects.iter().try_for_each(|object| double.delete(object));
            return deleted.expect("delete objects");
        }
        self.expect(
            &["delete", "--wait=false", "-f", "-"],
            &objects::document(objects),
        );
    }

    /// Deletes all objects of these kinds in the namespace of the tests, as the end of the namespace does.
    #[track_caller]
    pub fn delete_all(&self, kinds: &[&str]) {
        let flags = ["--all", "-n", super::NAMESPACE, "--wait=false"];
        if self.double().is_none() {
            self.expect(&[&["delete", &kinds.join(",")], &flags[..]].concat(), "");
            return;
        }
        for kind in kinds {
            let all = self.get(&[kind, "-n", super::NAMESPACE]);
            self.delete(all["items"].as_array().expect("a list"));
        }
    }

    /// Merges `status` into the status of `object`, as a kubelet or a controller does.
    #[track_caller]
    pub fn patch_status(&self, object: &Value, status: &Value) {
        let patch = json!({"status": status});
        if let Some(double) = self.double() {
            return double.patch_status(object, &patch).expect("patch a status");
        }
        let flags = [
            "--subresource=status",
            "--type=merge",
            "--patch",
            &patch.to_string(),
        ];
        self.expect(&[&["patch", "-f", "-"], &flags[..]].concat(), &object.to_string());
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
        if let Some(double) = self.double() {
            return double.get(arguments).expect("get objects");
        }
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
