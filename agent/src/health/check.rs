// SPDX-License-Identifier: Apache-2.0
//! Active health checks: which backends this agent asks, when, and what it makes of the answers.
//!
//! ```text
//! View ─► targets (pure) ─► one task per target: wait ─► permit ─► probe ─► Streak (pure) ─► Judge
//! ```
//!
//! Invariants: at most `AT_ONCE` checks are under way; the checks of a backend are spread over the interval, whenever they began.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use nodemesh_abi::{Ejection, Ip16, Port, Protocol};
use nodemesh_model::{
    FrontendBackend, ResourceName,
    resource::{
        Locality, LocalityLevel,
        policy::{HealthCheck, HealthCheckFrom},
    },
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time::sleep,
};
use tracing::{info, warn};

use super::{
    judge::{Judge, Judged, is_out},
    probe,
};
use crate::{admin::report, reconcile::view::View};

/// Checks that may be under way at once.
const AT_ONCE: usize = 64;
/// A check comes up to this share of the interval sooner or later than the interval says.
const JITTER: f64 = 0.1;

/// A backend of a service. Two services may check the same replica, each in its own way.
type Key = (ResourceName, Ip16, Port);

/// What is checked.
#[derive(Clone, Debug, PartialEq)]
struct Target {
    address: SocketAddr,
    check: HealthCheck,
    backends: Vec<Judged>,
}

/// The checks. All of them end when this is dropped.
pub struct Checks {
    judge: Arc<Judge>,
    node: Locality,
    permits: Arc<Semaphore>,
    running: BTreeMap<Key, (Target, Task)>,
}

/// A task that ends with its handle.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Checks {
    /// Checks from the node at `node`.
    pub fn new(judge: Arc<Judge>, node: Locality) -> Self {
        Self {
            judge,
            node,
            permits: Arc::new(Semaphore::new(AT_ONCE)),
            running: BTreeMap::new(),
        }
    }

    /// Checks what `view` asks for, for as long as it changes.
    pub async fn run(mut self, mut view: watch::Receiver<Arc<View>>) {
        loop {
            let now = view.borrow_and_update().clone();
            self.follow(&now);
            if view.changed().await.is_err() {
                return;
            }
        }
    }

    fn follow(&mut self, view: &View) {
        let mut wanted = targets(view, &self.node);
        self.running
            .retain(|key, (target, _)| wanted.get(key) == Some(target));
        wanted.retain(|key, _| !self.running.contains_key(key));
        for (key, target) in wanted {
            let (judge, permits) = (Arc::clone(&self.judge), Arc::clone(&self.permits));
            let task = Task(tokio::spawn(keep_checking(target.clone(), judge, permits)));
            self.running.insert(key, (target, task));
        }
    }
}

/// What the agent of the node at `node` checks.
fn targets(view: &View, node: &Locality) -> BTreeMap<Key, Target> {
    let mut targets: BTreeMap<Key, Target> = BTreeMap::new();
    for programmed in &view.frontends {
        let frontend = &programmed.frontend;
        let Some(check) = &frontend.rules.health_check else {
            continue;
        };
        // The answers of a UDP server are its protocol's affair; its health is asked on a port of TCP.
        if frontend.protocol() == Protocol::Udp && check.port.is_none() {
            continue;
        }
        for (backend, place) in frontend.backends.iter().zip(&programmed.backends) {
            if !backend.is_available() || !is_ours(check, backend, node) {
                continue;
            }
            let port = check.port.unwrap_or(backend.port.get());
            let key = (frontend.service.clone(), backend.addr, backend.port);
            let target = targets.entry(key).or_insert_with(|| Target {
                address: SocketAddr::new(IpAddr::from(backend.addr).to_canonical(), port),
                check: check.clone(),
                backends: Vec::new(),
            });
            target.backends.push(Judged {
                id: place.id,
                generation: place.generation,
            });
        }
    }
    targets
}

/// Whether this node's agent checks a backend. One whose node is not known is checked by all, rather than by nobody.
fn is_ours(check: &HealthCheck, backend: &FrontendBackend, node: &Locality) -> bool {
    let place = backend.locality.as_deref().filter(|place| place.node.is_some());
    match (check.from, place) {
        (HealthCheckFrom::EveryNode, _) | (_, None) => true,
        (HealthCheckFrom::BackendNode, Some(place)) => node.shares(LocalityLevel::Node, place),
    }
}

async fn keep_checking(target: Target, judge: Arc<Judge>, permits: Arc<Semaphore>) {
    let check = &target.check;
    // What was found before, by this agent or a former one, holds until there are answers.
    let mut streak = Streak::after(target.is_out(&judge), check);
    sleep(check.interval.mul_f64(fastrand::f64())).await;
    loop {
        let wait = check
            .interval
            .mul_f64(1.0 - JITTER + 2.0 * JITTER * fastrand::f64());
        let begun = tokio::time::Instant::now();
        let answer = {
            let Ok(_permit) = permits.acquire().await else {
                return;
            };
            probe::ask(target.address, check).await
        };
        let word = streak.note(answer.is_ok(), check);
        let backend = report::endpoint(target.address.ip().into(), Port::new(target.address.port()));
        match (word, answer) {
            (Some(Word::Unhealthy { is_new }), Err(error)) => {
                if is_new {
                    info!(
                        backend,
                        error = format!("{error:#}"),
                        "a backend fails its health checks"
                    );
                }
                let least = hold(check);
                target.carry_out(|backend| judge.eject(backend, Ejection::HealthCheck, least));
            }
            (Some(Word::Healthy), _) => {
                target.carry_out(|backend| judge.readmit(backend, Ejection::HealthCheck));
            }
            _ => {}
        }
        sleep(wait.saturating_sub(begun.elapsed())).await;
    }
}

/// How long a backend is out after a failed check: until after the next two.
fn hold(check: &HealthCheck) -> Duration {
    check.interval.mul_f64(2.0 * (1.0 + JITTER)) + check.timeout
}

impl Target {
    /// Whether a health check has ejected any of its backends.
    fn is_out(&self, judge: &Judge) -> bool {
        let out = |backend: &Judged| {
            judge
                .state(*backend)
                .map(|state| is_out(&state, Ejection::HealthCheck))
        };
        self.backends
            .iter()
            .any(|backend| out(backend).unwrap_or_default())
    }

    fn carry_out(&self, act: impl Fn(Judged) -> anyhow::Result<()>) {
        for backend in &self.backends {
            if let Err(error) = act(*backend) {
                let error = format!("{error:#}");
                warn!(
                    error,
                    "could not judge a backend by its health check; trying again"
                );
            }
        }
    }
}

/// What a check means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// It is well.
    Healthy,
    /// It is not.
    Unhealthy {
        /// Whether it was before.
        is_new: bool,
    },
}

/// Answers of the same kind in a row.
#[derive(Clone, Copy, Debug, Default)]
struct Streak {
    passed: u32,
    failed: u32,
}

impl Streak {
    /// What goes on from a finding: one failure more upholds it.
    fn after(is_out: bool, check: &HealthCheck) -> Self {
        Self {
            passed: 0,
            failed: if is_out { check.unhealthy_threshold } else { 0 },
        }
    }

    /// What is known after one more answer; `None` while there are too few in a row.
    fn note(&mut self, is_well: bool, check: &HealthCheck) -> Option<Word> {
        if is_well {
            (self.passed, self.failed) = (self.passed.saturating_add(1), 0);
            return (self.passed >= check.healthy_threshold).then_some(Word::Healthy);
        }
        (self.passed, self.failed) = (0, self.failed.saturating_add(1));
        (self.failed >= check.unhealthy_threshold).then_some(Word::Unhealthy {
            is_new: self.failed == check.unhealthy_threshold,
        })
    }
}

#[cfg(test)]
mod tests {
    use nodemesh_model::{BackendState, Manifest, resource::Resource};
    use serde_json::json;

    use super::*;

    fn check(from: &str) -> HealthCheck {
        let manifest = Manifest::from_values([json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": "TrafficPolicy", "metadata": {"name": "p"},
            "spec": {
                "targetRef": {"kind": "Service"},
                "healthChecks": {"kind": "tcp", "from": from, "healthyThreshold": 2, "unhealthyThreshold": 3},
            },
        })]);
        match manifest.resources().next() {
            Some(Resource::TrafficPolicy(policy)) => policy.rules.health_check.clone().expect("a check"),
            other => panic!("{other:?} is no policy"),
        }
    }

    #[test]
    fn as_many_answers_in_a_row_as_the_policy_says() {
        let check = check("every-node");
        let mut streak = Streak::default();
        let mut note = |answers: &str| -> Vec<Option<Word>> {
            answers
                .chars()
                .map(|answer| streak.note(answer == '+', &check))
                .collect()
        };
        let (new, old) = (
            Word::Unhealthy { is_new: true },
            Word::Unhealthy { is_new: false },
        );
        assert_eq!(note("--+--"), [None; 5]);
        assert_eq!(note("--"), [Some(new), Some(old)]);
        assert_eq!(note("+-+"), [None; 3]);
        assert_eq!(note("++-"), [Some(Word::Healthy), Some(Word::Healthy), None]);
    }

    #[test]
    fn what_a_former_agent_found_is_upheld_by_the_first_failure() {
        let check = check("every-node");
        let old = Some(Word::Unhealthy { is_new: false });
        assert_eq!(Streak::after(true, &check).note(false, &check), old);
        assert_eq!(Streak::after(false, &check).note(false, &check), None);
        let mut streak = Streak::after(true, &check);
        assert_eq!(
            [true, true].map(|is_well| streak.note(is_well, &check)),
            [None, Some(Word::Healthy)]
        );
    }

    #[test]
    fn a_backend_is_checked_from_its_own_node_or_from_every_one() {
        let here = Locality::new(None, None, Some("a")).unwrap();
        let backend = |node: Option<&str>| FrontendBackend {
            addr: Ip16::UNSPECIFIED,
            port: Port::new(1),
            weight: 1,
            state: BackendState::Active,
            workload: None,
            locality: node.map(|node| Arc::new(Locality::new(None, None, Some(node)).unwrap())),
            is_local: false,
            tier: 0,
        };
        let ours = |from: &str, node| is_ours(&check(from), &backend(node), &here);
        assert!(ours("backend-node", Some("a")) && !ours("backend-node", Some("b")));
        assert!(ours("backend-node", None), "nobody else would");
        assert!(ours("every-node", Some("b")));
    }

    #[test]
    fn an_ejection_lasts_until_the_next_check_is_over() {
        let check = check("every-node");
        assert!(hold(&check) > check.interval.mul_f64(1.0 + JITTER) + check.timeout);
    }
}
