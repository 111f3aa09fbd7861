// SPDX-License-Identifier: Apache-2.0
//! Each verb of the chart's roles in turn is missing: the log of the control plane names the verb and the resource.

use std::net::SocketAddr;

use nodemesh_e2e::{
    kubernetes::{SYSTEM, objects},
    process::Process,
};
use serde_json::{Value, json};

use super::{
    Scene,
    rights::{CLUSTER_ROLE, worth_telling},
};

/// Control planes that run at once.
const AT_ONCE: usize = 9;
/// The first port of the first of them.
const PORTS: u16 = 20_000;

/// The rules of a role, each with one verb for one resource.
fn single(role: &Value) -> Vec<Value> {
    let words = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut all = Vec::new();
    for rule in words(&role["rules"]) {
        for resource in words(&rule["resources"]) {
            for verb in words(&rule["verbs"]) {
                let mut one = rule.clone();
                (one["resources"], one["verbs"]) = (json!([resource]), json!([verb]));
                all.push(one);
            }
        }
    }
    all
}

/// A control plane whose account has all rights but one, and what that is.
struct Lacking {
    namespace: String,
    verb: String,
    resource: String,
}

impl Lacking {
    /// The `number`th right is what it lacks.
    fn new(number: usize, rule: &Value) -> Self {
        let word = |field: &str| rule[field][0].as_str().expect("a word").to_owned();
        Self {
            namespace: format!("lacking-{number}"),
            verb: word("verbs"),
            resource: word("resources"),
        }
    }

    fn user(&self) -> String {
        format!("system:serviceaccount:{}:control", self.namespace)
    }

    /// Its namespace, where its lease is, and its roles.
    fn objects(&self, cluster: &[&Value], own: &[&Value]) -> Vec<Value> {
        let api = "rbac.authorization.k8s.io/v1";
        let (name, namespace) = (&self.namespace, &self.namespace);
        let subjects = json!([{"kind": "ServiceAccount", "name": "control", "namespace": namespace}]);
        let role = |kind: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let placed = json!({"name": name, "namespace": namespace});
        vec![
            objects::namespace(namespace),
            json!({"apiVersion": api, "kind": "ClusterRole", "metadata": {"name": name}, "rules": cluster}),
            json!({"apiVersion": api, "kind": "ClusterRoleBinding", "metadata": {"name": name}, "subjects": subjects, "roleRef": role("ClusterRole")}),
            json!({"apiVersion": api, "kind": "Role", "metadata": placed, "rules": own}),
            json!({"apiVersion": api, "kind": "RoleBinding", "metadata": placed, "subjects": subjects, "roleRef": role("Role")}),
        ]
    }

    /// Starts it, at ports of its own.
    fn launch(&self, scene: &Scene, number: u16) -> Process {
        let at = |port: u16| SocketAddr::new(scene.control.ip(), PORTS + 4 * number + port).to_string();
        let kubeconfig = scene.api.kubeconfig_in(&self.namespace, Some(&self.user()));
        let kubeconfig = format!("KUBECONFIG={}", kubeconfig.display());
        let flags = [
            ["--store", "kubernetes"],
            ["--listen", &at(0)],
            ["--http", &at(1)],
            ["--dns", &at(2)],
        ];
        let launched = scene
            .control
            .launch(&["/usr/bin/env", &kubeconfig], flags.as_flattened());
        launched.expect("launch a control plane")
    }
}

#[test]
fn each_verb_that_is_missing_is_named() {
    let Some(scene) = Scene::empty_for("what roles allow") else {
        return;
    };
    scene.api.install(&["control.store.kind=kubernetes"]);
    let (r0, _s0) = scene.replica("r0");
    scene.serve(&[&r0]);
    scene.api.apply(&worth_telling(&scene));
    let cluster = single(&scene.api.get(&["clusterrole", CLUSTER_ROLE]));
    let own = single(&scene.api.get(&["role", "nodemesh-control", "-n", SYSTEM]));
    assert!(cluster.len() > 30 && own.len() == 3, "{cluster:?} {own:?}");
    let rules: Vec<&Value> = cluster.iter().chain(&own).collect();
    let all: Vec<Lacking> = rules
        .iter()
        .enumerate()
        .map(|(number, rule)| Lacking::new(number, rule))
        .collect();
    let others = |range: std::ops::Range<usize>, but: usize| -> Vec<&Value> {
        range
            .filter(|number| *number != but)
            .map(|number| rules[number])
            .collect()
    };
    let accounts = all.iter().enumerate().flat_map(|(number, lacking)| {
        lacking.objects(
            &others(0..cluster.len(), number),
            &others(cluster.len()..rules.len(), number),
        )
    });
    scene.api.apply(&accounts.collect::<Vec<_>>());
    // Who finds a condition as it should be writes none: these run alone, on resources that have none.
    let (alone, together): (Vec<&Lacking>, Vec<&Lacking>) = all
        .iter()
        .partition(|lacking| lacking.resource.ends_with("/status"));
    for batch in together.chunks(AT_ONCE) {
        until_named(&scene, batch);
    }
    let own: Vec<Value> = worth_telling(&scene)
        .into_iter()
        .filter(|object| object["apiVersion"] == "nodemesh.io/v1alpha1")
        .collect();
    for lacking in &alone {
        scene.api.delete(&own);
        scene.api.apply(&own);
        until_named(&scene, &[lacking]);
    }
}

/// Runs them at once until each has named what it lacks.
fn until_named(scene: &Scene, all: &[&Lacking]) {
    let running: Vec<_> = all
        .iter()
        .zip(0..)
        .map(|(lacking, number)| lacking.launch(scene, number))
        .collect();
    for (lacking, process) in all.iter().zip(&running) {
        let Lacking { verb, resource, .. } = lacking;
        let said = format!("cannot {verb} resource");
        let named = process.wait_for_log(|line| line.contains(&said) && line.contains(resource.as_str()));
        named.unwrap_or_else(|error| panic!("{verb} {resource}: {error:#}"));
    }
}
