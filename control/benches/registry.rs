// SPDX-License-Identifier: Apache-2.0
//! How fast the registry on the embedded store registers, and what a full one costs to open: time and memory.
//!
//! `cargo bench -p nodemesh-control --bench registry [-- DIR]`: `DIR` is a folder on the disk to be measured (default: the one for
//! temporary files).

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nodemesh_control::{
    registry::{AddressRanges, Registry, RegistryOptions},
    store::{MAX_OPS, Store, Transaction, embedded::EmbeddedStore},
};
use serde_json::{Value, json};

const SERVICES: usize = 10_000;
const WORKLOADS_EACH: usize = 10;
const REGISTER_FOR: Duration = Duration::from_secs(10);
const TTL: Duration = Duration::from_secs(600);
/// What tells the process that only opens from the one that measures.
const OPEN: &str = "--open";

#[tokio::main]
async fn main() {
    let words: Vec<String> = env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [open, path] = &words[..]
        && open == OPEN
    {
        return open_full(Path::new(path)).await;
    }
    let folder = words.first().map_or_else(env::temp_dir, PathBuf::from);
    let folder = folder.join(format!("nodemesh-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("make a folder");
    for clients in [1, 16, 64, 256] {
        register(&folder.join(format!("register-{clients}.redb")), clients).await;
    }
    let full = folder.join("full.redb");
    fill(&full).await;
    let opened = Command::new(env::current_exe().expect("know this program"))
        .arg(OPEN)
        .arg(&full)
        .status();
    fs::remove_dir_all(&folder).expect("remove the folder");
    assert!(opened.expect("start this program").success());
}

async fn open(path: &Path) -> Registry {
    let store = EmbeddedStore::open(path).expect("open the store");
    let ranges = ["10.96.0.0/16", "fd00:96::/112"].map(|range| range.parse().expect("a range"));
    let options = RegistryOptions {
        ranges: AddressRanges::new(ranges).expect("ranges"),
        grace: TTL,
    };
    Registry::open(Arc::new(store), options)
        .await
        .expect("open the registry")
}

/// `clients` servers that register one workload after the other, all at the same time.
async fn register(path: &Path, clients: usize) {
    let registry = open(path).await;
    let next = Arc::new(AtomicUsize::new(0));
    let start = Instant::now();
    let clients_at_work = (0..clients).map(|_| {
        let (registry, next) = (registry.clone(), Arc::clone(&next));
        tokio::spawn(async move {
            let mut times = Vec::new();
            while start.elapsed() < REGISTER_FOR {
                let document = workload(next.fetch_add(1, Ordering::Relaxed));
                let asked = Instant::now();
                registry.register(document, TTL).await.expect("register");
                times.push(asked.elapsed());
            }
            times
        })
    });
    let mut times = Vec::new();
    for client in futures_util::future::join_all(clients_at_work).await {
        times.extend(client.expect("a client"));
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_unstable();
    let quantile = |percent| times[(times.len() - 1) * percent / 100];
    println!(
        "{clients} clients: {rate:.0} registrations/s, p50 {:.1?}, p99 {:.1?}, {} in all",
        quantile(50),
        quantile(99),
        times.len()
    );
}

async fn fill(path: &Path) {
    let store = EmbeddedStore::open(path).expect("open the store");
    let services = (0..SERVICES).map(|n| ("Service", format!("s{n}"), service(n)));
    let workloads = (0..SERVICES * WORKLOADS_EACH).map(|n| ("Workload", format!("w{n}"), workload(n)));
    let items: Vec<_> = services.chain(workloads).collect();
    for chunk in items.chunks(MAX_OPS) {
        let transaction = chunk
            .iter()
            .fold(Transaction::default(), |all, (kind, name, document)| {
                all.put(
                    &format!("{kind}/models/{name}"),
                    Bytes::from(document.to_string()),
                    None,
                )
            });
        store.commit(transaction).await.expect("write");
    }
}

/// Opens a full store and says what it took.
async fn open_full(path: &Path) {
    let start = Instant::now();
    let registry = open(path).await;
    let (state, took) = (registry.state(), start.elapsed());
    assert_eq!(
        (state.entries().count(), state.faults().count()),
        (SERVICES * (1 + WORKLOADS_EACH), 0)
    );
    let bytes = fs::metadata(path).expect("the file").len();
    let memory = fs::read_to_string("/proc/self/status").expect("the status of this process");
    let memory: Vec<&str> = memory
        .lines()
        .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
        .collect();
    println!(
        "{SERVICES} services, {} workloads: open in {took:.2?}, file {} MiB, {}",
        SERVICES * WORKLOADS_EACH,
        bytes >> 20,
        memory.join(", ")
    );
}

fn service(n: usize) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service",
        "metadata": {"namespace": "models", "name": format!("s{n}"), "labels": {"team": "search"}},
        "spec": {
            "addresses": [format!("10.96.{}.{}", n / 250, n % 250 + 1)],
            "ports": [{"name": "http", "port": 80, "targetPort": 8000}],
            "selector": {"app": format!("s{n}")},
        },
    })
}

fn workload(n: usize) -> Value {
    json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Workload",
        "metadata": {
            "namespace": "models", "name": format!("w{n}"),
            "labels": {"app": format!("s{}", n / WORKLOADS_EACH), "zone": "a"},
        },
        "spec": {"addresses": [format!("10.{}.{}.{}", 100 + n / 62_500, n / 250 % 250, n % 250 + 1)], "weight": 1},
    })
}
