// SPDX-License-Identifier: Apache-2.0
//! Times each stage at scale: `cargo run --release -p nodemesh-model --example scale [SERVICES [BACKENDS_PER_SERVICE]]`.
//!
//! Prints one line per stage. Invariant: the configuration is the same in each run with the same arguments.

use std::{
    fmt::Write as _,
    hint::black_box,
    time::{Duration, Instant},
};

use nodemesh_model::{Desired, Locality, Manifest, Resources, maglev::maglev_table, slots::alias_table};

const FILES: usize = 100;

/// How the replicas of a service are given.
#[derive(Clone, Copy, PartialEq)]
enum Layout {
    Listed,
    Selected,
}

/// Text of file `file`: every hundredth service, in a namespace per file, with its replicas.
fn text(layout: Layout, services: usize, replicas: usize, file: usize) -> String {
    let mut text = String::new();
    for service in (file..services).step_by(FILES) {
        let (high, low) = (service >> 8, service & 255);
        let _ = write!(
            text,
            "---\napiVersion: nodemesh.io/v1alpha1\nkind: Service\nmetadata: {{name: s{service}, namespace: n{file}}}\nspec:\n  addresses: [10.96.{high}.{low}]\n  ports: [{{port: 8000}}]\n"
        );
        match layout {
            Layout::Listed => {
                text.push_str("  backends:\n");
                for replica in 0..replicas {
                    let address = address(service * replicas + replica);
                    let _ = writeln!(
                        text,
                        "  - {{address: {address}, port: 8000, weight: 1, state: active}}"
                    );
                }
            }
            Layout::Selected => {
                let _ = writeln!(text, "  selector: {{app: a{service}, tier: model}}");
                for replica in 0..replicas {
                    let address = address(service * replicas + replica);
                    let _ = writeln!(
                        text,
                        "---\napiVersion: nodemesh.io/v1alpha1\nkind: Workload\nmetadata: {{name: w{service}-{replica}, namespace: n{file}, labels: {{app: a{service}, tier: model}}}}\nspec: {{addresses: [{address}], weight: 1}}"
                    );
                }
            }
        }
    }
    text
}

fn address(index: usize) -> std::net::Ipv4Addr {
    std::net::Ipv4Addr::from(0x0a80_0000 + index as u32)
}

fn timed<T>(stage: &str, run: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let value = black_box(run());
    report(stage, start.elapsed());
    value
}

fn report(stage: &str, time: Duration) {
    println!("{stage:<60} {:>10.3} ms", time.as_secs_f64() * 1e3);
}

fn merge(manifests: &[Manifest]) -> Resources {
    Resources::merge(manifests.iter().map(|manifest| ("file", manifest)))
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn compile(resources: &Resources, previous: Option<(&Resources, &Desired)>) -> Desired {
    Desired::compile(resources, &Locality::default(), previous).unwrap_or_else(|error| panic!("{error}"))
}

fn run(layout: Layout, services: usize, replicas: usize) {
    let texts: Vec<String> = (0..FILES)
        .map(|file| text(layout, services, replicas, file))
        .collect();
    let bytes: usize = texts.iter().map(String::len).sum();
    let name = if layout == Layout::Listed {
        "listed"
    } else {
        "selected"
    };
    println!(
        "{services} services, {} {name} backends, {FILES} files, {bytes} bytes",
        services * replicas
    );
    let mut manifests: Vec<Manifest> = timed("parse all files", || {
        texts.iter().map(|text| Manifest::parse(text)).collect()
    });
    let old = timed("merge", || merge(&manifests));
    let old_desired = timed("compile from scratch", || compile(&old, None));
    let changed = texts[0].replacen("weight: 1", "weight: 2", 1);
    let manifest = timed("parse one file again, one weight changed", || {
        Manifest::parse(&changed).sharing(&manifests[0])
    });
    manifests[0] = manifest;
    let new = timed("merge again", || merge(&manifests));
    let new_desired = timed("compile the change", || compile(&new, Some((&old, &old_desired))));
    timed("compile no change", || compile(&new, Some((&new, &new_desired))));
    let kept = old_desired
        .frontends
        .values()
        .zip(new_desired.frontends.values())
        .filter(|(old, new)| std::sync::Arc::ptr_eq(old, new))
        .count();
    println!("{kept} of {} frontends kept\n", new_desired.frontends.len());
}

fn main() {
    let mut arguments = std::env::args()
        .skip(1)
        .map(|text| text.parse().unwrap_or_else(|error| panic!("{error}")));
    let services = arguments.next().unwrap_or(10_000);
    let replicas = arguments.next().unwrap_or(10);
    run(Layout::Listed, services, replicas);
    run(Layout::Selected, services, replicas);

    let one = text(Layout::Listed, 1, services * replicas, 0);
    println!(
        "one service, {} backends, {} bytes",
        services * replicas,
        one.len()
    );
    let manifest = timed("parse", || Manifest::parse(&one));
    let resources = timed("merge", || merge(std::slice::from_ref(&manifest)));
    let desired = timed("compile", || compile(&resources, None));
    timed("slot table", || {
        desired
            .frontends
            .values()
            .map(|frontend| frontend.slot_table(|id| id as u32).len())
            .sum::<usize>()
    });

    println!();
    for (backends, size) in [(100, 16_381), (1_000, 131_071), (10_000, 1_048_573)] {
        let hashes: Vec<(u64, u32)> = (0..backends)
            .map(|index| (nodemesh_abi::client::mix(index), 1))
            .collect();
        timed(&format!("maglev, {backends} backends, {size} slots"), || {
            maglev_table(&hashes, size)
        });
    }
    let weights: Vec<u32> = (1..=100_000).map(|index| index % 65_535 + 1).collect();
    timed("alias table, 100000 backends", || alias_table(&weights));
}
