// SPDX-License-Identifier: Apache-2.0
//! What the doors between xDS and the model cost: `cargo run --release -p nodemesh-proto --example assembly -- [SERVICES [REPLICAS]]`.

use std::time::{Duration, Instant};

use nodemesh_model::{Desired, Locality, Manifest, Resources};
use nodemesh_proto::{
    Assembled, IntoAny, Received,
    to_xds::{self, Rows},
    xds::google::protobuf::Any,
};
use serde_json::{Value, json};

fn timed<T>(stage: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = std::hint::black_box(run());
    report(stage, start.elapsed());
    value
}

fn report(stage: &str, time: Duration) {
    println!("{stage:<60} {:>10.3} ms", time.as_secs_f64() * 1e3);
}

fn service(number: usize, replicas: usize) -> Value {
    let backends: Vec<_> = (0..replicas)
        .map(|replica| {
            let host = number * replicas + replica;
            let address = format!("10.{}.{}.{}", 1 + (host >> 16), (host >> 8) & 0xff, host & 0xff);
            json!({"address": address, "weight": 1 + replica, "workload": format!("replica-{host}")})
        })
        .collect();
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service",
        "metadata": {"namespace": "models", "name": format!("service-{number}")},
        "spec": {
            "addresses": [format!("172.16.{}.{}", number >> 8, number & 0xff)],
            "ports": [{"port": 80, "targetPort": 8000}], "backends": backends,
        },
    })
}

fn workload(number: usize) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Workload",
        "metadata": {"namespace": "models", "name": format!("replica-{number}"), "labels": {"app": "llama"}},
        "spec": {
            "addresses": [format!("10.{}.{}.{}", 1 + (number >> 16), (number >> 8) & 0xff, number & 0xff)],
            "cgroup": format!("kubepods/burstable/pod{number}"),
        },
    })
}

fn merge(manifest: &Manifest) -> Resources {
    Resources::merge([("xds", manifest)]).unwrap_or_else(|errors| panic!("{errors}"))
}

fn compile(resources: &Resources, previous: Option<(&Resources, &Desired)>) -> Desired {
    Desired::compile(resources, &Locality::default(), previous).unwrap_or_else(|error| panic!("{error}"))
}

/// All resources but the tables of workloads.
fn sent(resources: &Resources) -> Vec<(String, Any)> {
    let mut sent = Vec::new();
    for service in resources.services().values() {
        let wire = to_xds::resources(service, &[], None);
        sent.extend(
            wire.clusters
                .into_iter()
                .map(|wire| (wire.name.clone(), wire.into_any())),
        );
        let assignments = wire.assignments.into_iter();
        sent.extend(assignments.map(|wire| (wire.cluster_name.clone(), wire.into_any())));
        sent.extend(
            wire.listeners
                .into_iter()
                .map(|wire| (wire.name.clone(), wire.into_any())),
        );
    }
    sent
}

fn table(number: usize) -> (String, Any) {
    let resources = merge(&Manifest::from_values([workload(number)]));
    let workload = resources.workloads().values().next();
    let (name, table) = to_xds::workload_table(
        workload.unwrap_or_else(|| panic!("the document is valid")),
        Rows::Compact,
    );
    (name, table.into_any())
}

fn put(received: &mut Received, sent: &[(String, Any)]) {
    for (name, any) in sent {
        let result = received.put(&any.type_url, name, &any.value);
        result.unwrap_or_else(|rejected| panic!("{rejected}"));
    }
}

/// Resident memory of this process, MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

fn change(received: &mut Received, before: &Assembled, resources: &Resources) {
    let (old, old_desired) = {
        let old = timed("merge", || merge(&before.manifest));
        let desired = timed("compile from scratch", || compile(&old, None));
        (old, desired)
    };
    timed("put one assignment", || put(received, &sent(resources)[1..2]));
    let after = timed("assemble the change", || received.assemble());
    let new = timed("merge again", || merge(&after.manifest));
    timed("compile the change", || compile(&new, Some((&old, &old_desired))));
    timed("assemble no change", || received.assemble());
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")));
    let services: usize = arguments.next().unwrap_or(10_000);
    let replicas: usize = arguments.next().unwrap_or(10);
    println!("{services} services, {} endpoints", services * replicas);
    // One by one, so that the memory that is measured later is not what is left over here.
    let messages: Vec<_> = timed("documents to messages", || {
        let one = |number| sent(&merge(&Manifest::from_values([service(number, replicas)])));
        (0..services).flat_map(one).collect()
    });
    let bytes: usize = messages.iter().map(|(_, any)| any.value.len()).sum();
    println!("{} resources, {bytes} bytes", messages.len());
    let tables: Vec<_> = (0..services * replicas).map(table).collect();

    let before = resident();
    let mut received = Received::default();
    timed("put", || put(&mut received, &messages));
    println!("received: {:.0} MiB", resident() - before);
    let assembled = timed("assemble", || received.assemble());
    println!("with the model: {:.0} MiB", resident() - before);
    assert!(assembled.rejected.is_empty() && assembled.unsupported.is_empty());
    let other = merge(&Manifest::from_values([service(0, replicas - 1)]));
    change(&mut received, &assembled, &other);

    println!("\nwith {} workloads", tables.len());
    let before = resident();
    timed("put", || put(&mut received, &tables));
    let assembled = timed("assemble", || received.assemble());
    println!("workloads: {:.0} MiB", resident() - before);
    let other = merge(&Manifest::from_values([service(0, replicas)]));
    change(&mut received, &assembled, &other);
}
