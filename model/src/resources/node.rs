// SPDX-License-Identifier: Apache-2.0
//! The node itself as a client: what comes from its own addresses, such as the agent's health checks and the kubelet's probes, reaches
//! its replicas although a default denies.
//!
//! Made by the agent, since nobody configures it. Invariant: it is a workload and a rule like any other: what denies it wins, and an
//! address that a configured workload has as well is allowed what both are.

use std::{net::IpAddr, sync::Arc};

use serde_json::json;

use super::Resources;
use crate::{
    manifest::Manifest,
    resource::{AccessPolicy, Resource, Workload, access_policy::MESH_NAMESPACE},
};

/// Name of the workload, and of the policy that allows it.
const NAME: &str = "node";

/// What stands for a node.
#[derive(Clone, Debug)]
pub struct NodeAccess {
    workload: Arc<Workload>,
    policy: Arc<AccessPolicy>,
}

impl NodeAccess {
    /// The node that has `addresses`.
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        let document = |kind: &str, spec: serde_json::Value| {
            json!({
                "apiVersion": "nodemesh.io/v1alpha1", "kind": kind,
                "metadata": {"name": NAME, "namespace": MESH_NAMESPACE}, "spec": spec,
            })
        };
        let from = json!([{"namespaces": [MESH_NAMESPACE], "workloads": [NAME]}]);
        let rules = json!([{"name": NAME, "action": "allow", "from": from}]);
        let manifest = Manifest::from_values([
            // A manifest has at most one address per family and at least one in all; a node is not held to that.
            document("Workload", json!({"addresses": ["192.0.2.1"]})),
            document(
                "AccessPolicy",
                json!({"targetRef": {"kind": "Mesh"}, "rules": rules}),
            ),
        ]);
        let mut resources = manifest.resources();
        let (Some(Resource::Workload(workload)), Some(Resource::AccessPolicy(policy))) =
            (resources.next(), resources.next())
        else {
            unreachable!("constants that are valid: {}", manifest.errors());
        };
        let mut workload = Workload::clone(workload);
        workload.addresses = addresses;
        Self {
            workload: Arc::new(workload),
            policy: Arc::clone(policy),
        }
    }

    /// Its addresses.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.workload.addresses
    }
}

impl Resources {
    /// Adds `node`, if any policy could deny it anything; what is configured under its names stays.
    pub fn add_node(&mut self, node: &NodeAccess) {
        let (workload, policy) = (&node.workload.metadata.name, &node.policy.metadata.name);
        let is_taken = self.workloads.contains_key(workload) || self.access_policies.contains_key(policy);
        if self.access_policies.is_empty() || is_taken {
            return;
        }
        self.workloads
            .insert(workload.clone(), Arc::clone(&node.workload));
        self.access_policies
            .insert(policy.clone(), Arc::clone(&node.policy));
        let policies = self.access_targets.entry(node.policy.target.clone()).or_default();
        let place = policies.partition_point(|other| other.metadata.name < *policy);
        policies.insert(place, Arc::clone(&node.policy));
    }

    /// Takes `node` out again.
    pub fn remove_node(&mut self, node: &NodeAccess) {
        let name = &node.policy.metadata.name;
        let is_its = |policy: &Arc<AccessPolicy>| Arc::ptr_eq(policy, &node.policy);
        if !self.access_policies.get(name).is_some_and(is_its) {
            return;
        }
        self.access_policies.remove(name);
        self.workloads.remove(&node.workload.metadata.name);
        if let Some(policies) = self.access_targets.get_mut(&node.policy.target) {
            policies.retain(|policy| !is_its(policy));
            if policies.is_empty() {
                self.access_targets.remove(&node.policy.target);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nodemesh_abi::Access;

    use super::*;
    use crate::{Desired, Locality};

    const NODE: &str = "192.168.0.7";

    /// A mesh with a service and these rules of its policy, which denies by default.
    fn closed(rules: &serde_json::Value) -> Resources {
        let document = |kind: &str, spec: serde_json::Value| json!({"apiVersion": "nodemesh.io/v1alpha1", "kind": kind, "metadata": {"name": "a"}, "spec": spec});
        let service = json!({"addresses": ["10.96.0.1"], "ports": [{"port": 80}], "backends": []});
        let policy = json!({"targetRef": {"kind": "Service"}, "default": "deny", "rules": rules});
        let workload = json!({"addresses": ["10.1.0.1"]});
        let manifest = Manifest::from_values([
            document("Service", service),
            document("AccessPolicy", policy),
            document("Workload", workload),
        ]);
        Resources::merge([("test", &manifest)]).unwrap()
    }

    fn access(resources: &Resources, address: &str) -> Access {
        let desired = Desired::compile(resources, &Locality::default(), None).unwrap();
        let (_, principal) = desired.principal_at(address.parse().unwrap());
        let frontend = desired.frontends.values().next().unwrap();
        frontend.access.as_ref().unwrap().access(&principal)
    }

    #[test]
    fn a_node_reaches_its_replicas_unless_a_rule_denies_it() {
        let node = NodeAccess::new(vec![NODE.parse().unwrap()]);
        let mut resources = closed(&json!([]));
        assert_eq!(access(&resources, NODE), Access::Deny);
        resources.add_node(&node);
        assert_eq!(access(&resources, NODE), Access::Allow);
        assert_eq!(access(&resources, "192.168.0.8"), Access::Deny);
        assert_eq!(access(&resources, "10.1.0.1"), Access::Deny);
        resources.remove_node(&node);
        assert_eq!(access(&resources, NODE), Access::Deny);
        for from in [
            json!({"cidrs": ["192.168.0.0/16"]}),
            json!({"workloads": ["node"]}),
        ] {
            let mut resources = closed(&json!([{"action": "deny", "from": [from]}]));
            resources.add_node(&node);
            assert_eq!(access(&resources, NODE), Access::Deny, "{from}");
        }
    }

    #[test]
    fn what_has_the_address_of_the_node_is_allowed_what_both_are() {
        let mut resources = closed(&json!([]));
        resources.add_node(&NodeAccess::new(vec!["10.1.0.1".parse().unwrap()]));
        assert_eq!(access(&resources, "10.1.0.1"), Access::Deny);
        let allow = json!([{"action": "allow", "from": [{"workloads": ["a"]}]}]);
        let mut resources = closed(&allow);
        resources.add_node(&NodeAccess::new(vec!["10.1.0.1".parse().unwrap()]));
        assert_eq!(access(&resources, "10.1.0.1"), Access::Allow);
    }

    #[test]
    fn without_policies_and_beside_its_own_names_it_is_left_out() {
        let node = NodeAccess::new(vec![NODE.parse().unwrap()]);
        let mut resources = Resources::default();
        resources.add_node(&node);
        assert!(resources.workloads().is_empty() && resources.access_policies().is_empty());
        let mut resources = closed(&json!([]));
        resources.add_node(&node);
        resources.add_node(&NodeAccess::new(vec!["10.9.9.9".parse().unwrap()]));
        assert_eq!(access(&resources, "10.9.9.9"), Access::Deny, "there is one");
        resources.remove_node(&NodeAccess::new(Vec::new()));
        assert_eq!(access(&resources, NODE), Access::Allow, "that was another one");
    }
}
