// SPDX-License-Identifier: Apache-2.0
//! A writer of resources that remembers what was acknowledged, while the control plane and what it stands on fail.
//!
//! Invariant: a write is in exactly one of the lists of [`Told`], and is never tried twice.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    mem,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use nodemesh_e2e::{control::ControlPlane, eventually::wait_until, manifest::NAMESPACE, netns::NetNs};
use nodemesh_proto::v1::{ApplyRequest, registry_client::RegistryClient};
use serde_json::{Value, json};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};

/// Longest that a store may take to be noticed as failed, or as well again.
const PATIENCE: Duration = Duration::from_secs(40);
/// Longest that a write is waited for.
const CALL: Duration = Duration::from_secs(15);
/// Pause after a write that failed.
const PAUSE: Duration = Duration::from_millis(20);

/// What the writer was told.
#[derive(Debug, Default)]
pub struct Told {
    /// Names of what was written.
    pub acknowledged: BTreeSet<String>,
    /// Names of what was not written, with the reason.
    pub refused: Vec<(String, String)>,
    /// Names of what may have been written.
    pub unknown: BTreeSet<String>,
}

/// A writer at work.
pub struct Journal {
    told: Arc<Mutex<Told>>,
    is_over: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Journal {
    /// Writes services named `prefix` and a number, each of `backends` backends, from `netns`, to the first of `urls` that takes them.
    pub fn start(netns: &NetNs, urls: Vec<String>, prefix: &'static str, backends: u16) -> Self {
        let (told, is_over) = (Arc::<Mutex<Told>>::default(), Arc::<AtomicBool>::default());
        let namespace = std::fs::File::open(netns.path()).expect("open the network namespace");
        let (told_too, is_over_too) = (Arc::clone(&told), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            nix::sched::setns(&namespace, nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("enter the network namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let writer = Writer {
                prefix,
                backends,
                told: told_too,
                is_over: is_over_too,
            };
            runtime.expect("a runtime").block_on(writer.run(&urls));
        });
        Self {
            told,
            is_over,
            thread: Some(thread),
        }
    }

    /// Waits until `more` writes are acknowledged.
    pub fn until_acknowledged(&self, more: usize) {
        let count = || self.told.lock().expect("the writer lives").acknowledged.len();
        let target = count() + more;
        wait_until(PATIENCE, || count() >= target).unwrap_or_else(|error| panic!("{error}: {}", self.say()));
    }

    /// Waits until one more write is not acknowledged.
    pub fn until_failed(&self) {
        let count = || {
            let told = self.told.lock().expect("the writer lives");
            told.refused.len() + told.unknown.len()
        };
        let target = count() + 1;
        wait_until(PATIENCE, || count() >= target).unwrap_or_else(|error| panic!("{error}: {}", self.say()));
    }

    /// What was refused so far, in one line each.
    pub fn refusals(&self) -> Vec<String> {
        let told = self.told.lock().expect("the writer lives");
        told.refused.iter().map(|(_, reason)| reason.clone()).collect()
    }

    /// Ends the writer; what it was told.
    pub fn finish(mut self) -> Told {
        self.is_over.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("it is finished once");
        thread.join().expect("the writer ends in order");
        mem::take(&mut *self.told.lock().expect("the writer lives"))
    }

    fn say(&self) -> String {
        let told = self.told.lock().expect("the writer lives");
        let (acknowledged, unknown) = (told.acknowledged.len(), told.unknown.len());
        let mut text = format!("{acknowledged} acknowledged, {unknown} unknown");
        if let Some((name, reason)) = told.refused.last() {
            let _ = write!(text, "; last refused: {name}: {reason}");
        }
        text
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

impl Told {
    /// Panics unless `control` has what was acknowledged, and nothing that was not written.
    pub fn compare(&self, control: &ControlPlane, prefix: &str) {
        let listed = control.get(&["services", "-n", NAMESPACE]);
        let items = listed["items"].as_array().expect("a list");
        let names = items.iter().filter_map(|item| item["metadata"]["name"].as_str());
        let there: BTreeSet<&str> = names.filter(|name| name.starts_with(prefix)).collect();
        for name in &self.acknowledged {
            assert!(there.contains(name.as_str()), "{name} was acknowledged");
        }
        let is_known = |name: &str| self.acknowledged.contains(name) || self.unknown.contains(name);
        for name in there {
            assert!(is_known(name), "{name} was not written");
        }
    }
}

/// The writer's own side.
struct Writer {
    prefix: &'static str,
    backends: u16,
    told: Arc<Mutex<Told>>,
    is_over: Arc<AtomicBool>,
}

impl Writer {
    async fn run(self, urls: &[String]) {
        let channels = urls.iter().map(|url| {
            let endpoint = Endpoint::from_shared(url.clone()).expect("a URL");
            endpoint.timeout(CALL).connect_timeout(CALL).connect_lazy()
        });
        let mut channels: Vec<Channel> = channels.collect();
        for number in 0.. {
            if self.is_over.load(Ordering::Relaxed) {
                return;
            }
            let name = format!("{}{number:05}", self.prefix);
            let request = ApplyRequest {
                resource: self.service(&name).to_string(),
                ..ApplyRequest::default()
            };
            let answer = RegistryClient::new(channels[0].clone()).apply(request).await;
            let has_failed = answer.is_err();
            self.note(name, answer.err());
            if has_failed {
                channels.rotate_left(1);
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    fn note(&self, name: String, error: Option<Status>) {
        let mut told = self.told.lock().expect("the test lives");
        match error {
            None => drop(told.acknowledged.insert(name)),
            Some(status) if status.code() == Code::ResourceExhausted => {
                told.refused.push((name, status.message().to_owned()));
            }
            Some(_) => drop(told.unknown.insert(name)),
        }
    }

    fn service(&self, name: &str) -> Value {
        let backends = (0..self.backends).map(|index| {
            let [high, low] = index.to_be_bytes();
            json!({"address": format!("10.200.{high}.{low}"), "port": 8000})
        });
        json!({
            "apiVersion": "nodemesh.io/v1alpha1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": NAMESPACE},
            "spec": {"ports": [{"port": 8000}], "backends": backends.collect::<Value>()},
        })
    }
}
