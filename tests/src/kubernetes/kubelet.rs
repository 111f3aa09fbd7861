// SPDX-License-Identifier: Apache-2.0
//! Pods as the kubelet runs them: in the cgroup that their UID gives them (systemd driver, containerd), told to the API with their addresses.
//!
//! Invariant: the object is there before its cgroup is, and its cgroup before its address, as on a real node.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::{ApiServer, NAMESPACE, objects};
use crate::{
    bed::Replica,
    topology::{Node, Pod},
};

/// A pod of the cluster.
#[derive(Debug)]
pub struct ClusterPod {
    /// Its network and its container's cgroup.
    pub pod: Pod,
    name: String,
    node: String,
}

impl ApiServer {
    /// Runs the pod `name` of the service account `account` on `node`.
    pub fn run(&self, node: &Node, name: &str, account: &str, labels: Value) -> ClusterPod {
        let known = self.nodes.borrow().iter().any(|known| known == node.name());
        if !known {
            self.apply(&[objects::node(node.name())]);
            self.nodes.borrow_mut().push(node.name().to_owned());
        }
        let mut object = objects::object("v1", "Pod", name);
        object["metadata"]["labels"] = labels;
        object["spec"] = json!({
            "serviceAccountName": account, "nodeName": node.name(),
            "containers": [{"name": "main", "image": "none"}],
        });
        self.apply(std::slice::from_ref(&object));
        let uid = self.get(&["pod", name, "-n", NAMESPACE])["metadata"]["uid"].clone();
        let uid = uid.as_str().expect("a UID").replace('-', "_");
        let cgroup = format!(
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{uid}.slice/cri-containerd-{name}.scope"
        );
        let pod = node.pod_in(name, &cgroup).expect("a pod");
        let address = |ip| json!({"ip": ip});
        let status = json!({
            "phase": "Running", "podIP": pod.v4(), "podIPs": [address(pod.v4()), address(pod.v6())],
        });
        self.patch_status(&object, &status);
        ClusterPod {
            pod,
            name: name.to_owned(),
            node: node.name().to_owned(),
        }
    }
}

impl ClusterPod {
    /// Starts a server in it that says the pod's name, at `port`.
    pub fn serve(&self, port: u16) -> Replica {
        Replica::start(&self.pod, &self.name, port)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its entry in an `EndpointSlice`, ready unless the caller changes it.
    pub fn endpoint(&self) -> Value {
        json!({
            "addresses": [self.pod.v4()], "nodeName": self.node,
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": self.name, "namespace": NAMESPACE},
        })
    }

    /// Its address at `port`.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.pod.v4(), port)
    }
}
