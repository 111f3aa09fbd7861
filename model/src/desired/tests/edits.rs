// SPDX-License-Identifier: Apache-2.0
//! Random edits: compiling step by step gives what compiling from scratch gives, and keeps what did not change.

use proptest::{collection::vec, prelude::*};

use super::*;

const NAMESPACES: [&str; 2] = ["a", "b"];
const NAMES: usize = 4;
const LABELS: usize = 3;

/// A file: for each resource that may be in it, its variant, or `None` if it is not there.
#[derive(Clone, Debug)]
struct File {
    services: Vec<Option<(u16, Option<usize>, u8)>>,
    workloads: Vec<Option<(usize, u8, u8)>>,
    policies: Vec<Option<(bool, u8)>>,
}

/// A change of one resource.
#[derive(Clone, Debug)]
enum Edit {
    Service(usize, Option<(u16, Option<usize>, u8)>),
    Workload(usize, Option<(usize, u8, u8)>),
    Policy(usize, Option<(bool, u8)>),
}

fn service() -> impl Strategy<Value = Option<(u16, Option<usize>, u8)>> {
    prop::option::of((1..4_u16, prop::option::of(0..LABELS), 0..4_u8))
}

fn workload() -> impl Strategy<Value = Option<(usize, u8, u8)>> {
    prop::option::of((0..LABELS, 0..3_u8, 0..3_u8))
}

fn policy() -> impl Strategy<Value = Option<(bool, u8)>> {
    prop::option::of((any::<bool>(), 0..3_u8))
}

const SLOTS: usize = NAMES * NAMESPACES.len();

fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        (0..SLOTS, service()).prop_map(|(at, value)| Edit::Service(at, value)),
        (0..SLOTS, workload()).prop_map(|(at, value)| Edit::Workload(at, value)),
        (0..SLOTS, policy()).prop_map(|(at, value)| Edit::Policy(at, value)),
    ]
}

fn file() -> impl Strategy<Value = File> {
    (
        vec(service(), SLOTS),
        vec(workload(), SLOTS),
        vec(policy(), SLOTS),
    )
        .prop_map(|(services, workloads, policies)| File {
            services,
            workloads,
            policies,
        })
}

fn named(kind: &str, at: usize, labels: &Value, spec: &Value) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": kind,
        "metadata": {"name": format!("n{}", at / 2), "namespace": NAMESPACES[at % 2], "labels": labels}, "spec": spec,
    })
}

impl File {
    fn apply(&mut self, edit: &Edit) {
        match edit {
            Edit::Service(at, value) => self.services[*at] = *value,
            Edit::Workload(at, value) => self.workloads[*at] = *value,
            Edit::Policy(at, value) => self.policies[*at] = *value,
        }
    }

    fn parse(&self, previous: &Manifest) -> Manifest {
        let services = self.services.iter().enumerate().filter_map(|(at, service)| {
            let (ports, selector, backends) = (*service)?;
            let ports: Vec<_> = (0..ports).map(|port| json!({"name": format!("p{port}"), "port": 80 + port})).collect();
            let backends: Vec<_> = (0..backends).map(|host| json!({"address": format!("10.1.0.{host}")})).collect();
            let mut spec = json!({"addresses": [format!("10.96.0.{at}"), format!("fd00::{at}")], "ports": ports, "backends": backends});
            if let Some(label) = selector {
                spec["selector"] = json!({"app": format!("l{label}")});
            }
            Some(named("Service", at, &json!({}), &spec))
        });
        let workloads = self.workloads.iter().enumerate().filter_map(|(at, workload)| {
            let (label, shape, weight) = (*workload)?;
            let addresses = match shape {
                0 => json!([format!("10.1.0.{at}")]),
                1 => json!([format!("fd00:1::{at}"), "10.1.0.77"]),
                _ => json!([]),
            };
            let mut spec = json!({"addresses": addresses, "weight": weight + 1});
            if shape > 0 {
                spec["cgroup"] = json!(format!("pods/{at}/{weight}"));
            }
            Some(named(
                "Workload",
                at,
                &json!({"app": format!("l{label}"), "x": "y"}),
                &spec,
            ))
        });
        let policies = self.policies.iter().enumerate().filter_map(|(at, policy)| {
            let (whole_namespace, affinity) = (*policy)?;
            // One resource of each namespace may have the whole of it as its target.
            let target = if whole_namespace && at < NAMESPACES.len() {
                json!({"kind": "Service"})
            } else {
                json!({"kind": "Service", "name": format!("n{}", at / 2)})
            };
            let timeout = json!({"timeout": format!("{}s", affinity + 1)});
            Some(named(
                "TrafficPolicy",
                at,
                &json!({}),
                &json!({"targetRef": target, "sessionAffinity": timeout}),
            ))
        });
        Manifest::from_values(services.chain(workloads).chain(policies)).sharing(previous)
    }
}

/// The allocations that a service's frontends are made of.
fn inputs(resources: &Resources, service: &Service) -> Vec<usize> {
    let name = &service.metadata.name;
    let policy = resources
        .policy_of(name)
        .map_or(0, |policy| Arc::as_ptr(policy).addr());
    let workloads = resources
        .workloads_of(name.namespace())
        .filter(|w| service.selects(&w.metadata.labels));
    [std::ptr::from_ref(service).addr(), policy]
        .into_iter()
        .chain(workloads.map(|w| Arc::as_ptr(w).addr()))
        .collect()
}

proptest! {
    #[test]
    fn step_by_step_equals_from_scratch(start in file(), steps in vec(vec(edit(), 1..4), 1..6)) {
        let mut file = start;
        let mut manifest = file.parse(&Manifest::default());
        let mut resources = Resources::merge([("file", &manifest)]).unwrap();
        let mut desired = Desired::compile(&resources, &Locality::default(), None).unwrap();
        for edits in &steps {
            for edit in edits {
                file.apply(edit);
            }
            let new_manifest = file.parse(&manifest);
            let new_resources = Resources::merge([("file", &new_manifest)]).unwrap();
            let new_desired = Desired::compile(&new_resources, &Locality::default(), Some((&resources, &desired))).unwrap();

            prop_assert_eq!(&new_desired, &Desired::compile(&new_resources, &Locality::default(), None).unwrap());
            let rows: usize = new_desired.frontends.values().map(|frontend| frontend.backends.len()).sum();
            prop_assert_eq!(new_desired.backend_count(), rows);
            for (name, frontend) in &new_desired.frontends {
                let (old, new) = (resources.services().get(&name.service), &new_resources.services()[&name.service]);
                if old.is_some_and(|old| inputs(&resources, old) == inputs(&new_resources, new)) {
                    prop_assert!(Arc::ptr_eq(&desired.frontends[name], frontend), "{} was compiled again", name);
                }
            }
            (manifest, resources, desired) = (new_manifest, new_resources, new_desired);
        }
    }
}
