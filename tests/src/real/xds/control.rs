// SPDX-License-Identifier: Apache-2.0
//! `nodemesh-control` in a pod, on its loopback.

use std::path::{Path, PathBuf};

use nodemesh_proto::v1::{
    ApplyRequest, DeleteRequest, NodeState, NodesRequest, registry_client::RegistryClient,
};
use serde_json::Value;
use tonic::{Status, transport::Channel};

use super::within;
use crate::{manifest::NAMESPACE, process::Process, topology::Pod};

/// A running control plane with a store of its own; ends when dropped.
#[derive(Debug)]
pub struct Control<'p> {
    pod: &'p Pod,
    store: PathBuf,
    process: Process,
}

impl<'p> Control<'p> {
    /// Where gRPC is served, in the network namespace of its pod.
    pub const ADDRESS: &'static str = "127.0.0.1:15010";

    /// Starts one in `pod` that keeps its store in `folder`.
    pub fn start(pod: &'p Pod, folder: &Path) -> Self {
        let store = folder.join("store.redb");
        let process = launch(pod, &store);
        Self { pod, store, process }
    }

    /// Ends it without a warning, and starts it with the same store.
    pub fn restart(&mut self) {
        self.process
            .signal(nix::sys::signal::Signal::SIGKILL)
            .expect("kill the control plane");
        self.process.wait().expect("it ends");
        self.process = launch(self.pod, &self.store);
    }

    /// Creates or replaces a resource.
    pub fn apply(&self, resource: impl Into<Value>) {
        let request = ApplyRequest {
            resource: resource.into().to_string(),
            ..ApplyRequest::default()
        };
        let answer = self.ask(async |mut registry| registry.apply(request).await);
        answer.expect("apply a resource");
    }

    /// Deletes a resource of [`NAMESPACE`].
    pub fn delete(&self, kind: &str, name: &str) {
        let request = DeleteRequest {
            kind: kind.into(),
            namespace: NAMESPACE.into(),
            name: name.into(),
            ..DeleteRequest::default()
        };
        let answer = self.ask(async |mut registry| registry.delete(request).await);
        answer.expect("delete a resource");
    }

    /// The node `id`, if it is connected.
    pub fn node(&self, id: &str) -> Option<NodeState> {
        let answer = self.ask(async |mut registry| registry.nodes(NodesRequest {}).await);
        let nodes = answer.expect("list the nodes").into_inner().nodes;
        nodes.into_iter().find(|node| node.id == id)
    }

    fn ask<T: Send>(
        &self,
        call: impl AsyncFnOnce(RegistryClient<Channel>) -> Result<T, Status> + Send,
    ) -> Result<T, Status> {
        within(self.pod, async || {
            let url = format!("http://{}", Self::ADDRESS);
            let client = RegistryClient::connect(url)
                .await
                .expect("the control plane listens");
            call(client).await
        })
    }
}

fn launch(pod: &Pod, store: &Path) -> Process {
    let store = format!("embedded://{}", store.display());
    let arguments = ["--listen", Control::ADDRESS, "--store", &store];
    let process = pod
        .spawn("nodemesh-control", &arguments)
        .expect("start the control plane");
    process
        .wait_for_log(|line| line.contains(" ready"))
        .expect("the control plane is ready");
    process
}
