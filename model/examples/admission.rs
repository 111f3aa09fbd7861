// SPDX-License-Identifier: Apache-2.0
//! Times access policies at scale: `cargo run --release -p nodemesh-model --example admission [WORKLOADS [RULES]]`.
//!
//! Prints one line per stage. Invariant: the configuration is the same in each run with the same arguments.

use std::{collections::HashSet, fmt::Write as _, hint::black_box, net::Ipv4Addr, sync::Arc, time::Instant};

use nodemesh_abi::Access;
use nodemesh_model::{AccessRules, Desired, Directory, Locality, Manifest, Resources};

const SERVICES: usize = 1_000;
const NAMESPACES: usize = 100;

fn timed<T>(stage: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = black_box(run());
    println!("{stage:<70} {:>10.3} ms", start.elapsed().as_secs_f64() * 1e3);
    value
}

fn head(text: &mut String, kind: &str, namespace: &str, name: &str) {
    let _ = write!(
        text,
        "---\napiVersion: nodemesh.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}"
    );
}

/// Rule `index` of the mesh, in one of the ways to name clients.
fn rule(text: &mut String, index: usize, workloads: usize) {
    let action = ["allow", "allow", "allow", "deny", "audit"][index % 5];
    let (workload, namespace) = (index % workloads, index % NAMESPACES);
    let from = match index % 6 {
        0 => format!("namespaces: [n{namespace}], workloads: [w{workload}]"),
        1 => format!("workloads: [\"w{workload}*\"]"),
        2 => format!("identities: [\"spiffe://mesh.local/ns/n{namespace}/workload/w{workload}\"]"),
        3 => format!("labels: {{app: a{workload}}}"),
        4 => format!("cidrs: [10.{}.{}.0/24]", 128 + index / 256 % 64, index % 256),
        _ => format!("identities: [\"spiffe://mesh.local/ns/n{namespace}/workload/w{workload}*\"]"),
    };
    let _ = writeln!(text, "  - {{action: {action}, from: [{{{from}}}]}}");
}

fn services_and_workloads(workloads: usize, label: &str) -> String {
    let mut text = String::new();
    for index in 0..SERVICES {
        head(
            &mut text,
            "Service",
            &format!("n{}", index % NAMESPACES),
            &format!("s{index}"),
        );
        let address = Ipv4Addr::from(0x0a60_0000 + index as u32);
        let _ = writeln!(
            text,
            "}}\nspec: {{addresses: [{address}], ports: [{{port: 8000}}], selector: {{service: s{index}}}}}"
        );
    }
    for index in 0..workloads {
        head(
            &mut text,
            "Workload",
            &format!("n{}", index % NAMESPACES),
            &format!("w{index}"),
        );
        let app = if index == 0 {
            label.to_owned()
        } else {
            format!("a{index}")
        };
        let address = Ipv4Addr::from(0x0a80_0000 + index as u32);
        let _ = writeln!(
            text,
            ", labels: {{app: {app}, tier: client}}}}\nspec: {{addresses: [{address}]}}"
        );
    }
    text
}

/// All rules in `policies` policies: the one of the mesh, or one per service.
fn policies(rules: usize, policies: usize, workloads: usize, first: &str) -> String {
    let mut text = String::new();
    for policy in 0..policies {
        if policies == 1 {
            head(&mut text, "AccessPolicy", "nodemesh-system", "mesh");
            text.push_str("}\nspec:\n  targetRef: {kind: Mesh}\n  default: deny\n  rules:\n");
        } else {
            head(
                &mut text,
                "AccessPolicy",
                &format!("n{}", policy % NAMESPACES),
                &format!("p{policy}"),
            );
            let _ = writeln!(
                text,
                "}}\nspec:\n  targetRef: {{kind: Service, name: s{policy}}}\n  rules:"
            );
        }
        if policy == 0 {
            let _ = writeln!(text, "  - {{name: first, action: {first}}}");
        }
        for index in (policy..rules).step_by(policies) {
            rule(&mut text, index, workloads);
        }
    }
    text
}

fn merge(manifests: [&Manifest; 2]) -> Resources {
    Resources::merge(manifests.map(|manifest| ("file", manifest))).unwrap_or_else(|errors| panic!("{errors}"))
}

fn compile(resources: &Resources, previous: Option<(&Resources, &Desired)>) -> Desired {
    Desired::compile(resources, &Locality::default(), previous).unwrap_or_else(|error| panic!("{error}"))
}

/// The different sets of rules.
fn sets(desired: &Desired) -> Vec<Arc<AccessRules>> {
    let sets: HashSet<_> = desired
        .frontends
        .values()
        .filter_map(|frontend| frontend.access.clone())
        .collect();
    sets.into_iter().collect()
}

fn run(workloads: usize, rules: usize, count: usize) {
    println!("{SERVICES} services, {workloads} workloads, {rules} rules in {count} policies");
    let base = Manifest::parse(&services_and_workloads(workloads, "a0"));
    let text = policies(rules, count, workloads, "audit");
    let access = timed("parse the policies", || Manifest::parse(&text));
    let old = timed("merge", || merge([&base, &access]));
    let desired = timed("compile from scratch", || compile(&old, None));
    let sets = sets(&desired);
    let (number, all) = (desired.principals.len(), desired.prefixes.len());
    println!(
        "{} sets of rules, {number} principals, {all} prefixes",
        sets.len()
    );
    let directory = timed("directory of the principals", || {
        Directory::new(desired.principals.values().cloned().map(Some).collect())
    });
    timed("table of one set", || sets[0].table(&directory));
    timed("tables of all sets", || {
        sets.iter()
            .map(|rules| rules.table(&directory).len())
            .sum::<usize>()
    });
    let last = desired
        .principals
        .values()
        .next_back()
        .cloned()
        .unwrap_or_default();
    timed("one principal in all sets", || {
        sets.iter()
            .filter(|rules| rules.access(&last) == Access::Deny)
            .count()
    });
    timed("warnings", || old.warnings().len());

    let relabelled = Manifest::parse(&services_and_workloads(workloads, "another")).sharing(&base);
    let new = merge([&relabelled, &access]);
    timed("compile another label of one workload", || {
        compile(&new, Some((&old, &desired)))
    });
    let edited = Manifest::parse(&policies(rules, count, workloads, "allow")).sharing(&access);
    let new = merge([&base, &edited]);
    timed("compile another action of one rule", || {
        compile(&new, Some((&old, &desired)))
    });
    timed("compile no change", || compile(&old, Some((&old, &desired))));
    println!();
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")));
    let workloads = arguments.next().unwrap_or(10_000);
    let rules = arguments.next().unwrap_or(10_000);
    run(workloads, rules, 1);
    run(workloads, rules, SERVICES);
}
