// SPDX-License-Identifier: Apache-2.0
//! Waits until nothing is in flight at a workload that drains, as the nodes of the mesh report it.
//!
//! Invariant: a report from before the draining is not believed.

use std::time::{Duration, Instant};

use nodemesh_proto::v1::{BackendLoad, BackendsRequest};
use tokio::{sync::watch, time::sleep};

use super::lease::{State, Wish};
use crate::{cli::registry::connect, control::ControlClient};

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(500);

/// What is waited for.
pub(super) struct Drain<'a> {
    pub(super) control: &'a ControlClient,
    pub(super) namespace: &'a str,
    pub(super) workload: &'a str,
    /// Time after which what is reported is new.
    pub(super) settle: Duration,
}

impl Drain<'_> {
    /// Waits until the workload is registered as draining and nothing is in flight any more.
    pub(super) async fn run(&self, state: &mut watch::Receiver<State>) {
        let is_draining = |state: &State| matches!(state.wish, Some((Wish::Draining, _)));
        let since = match state.wait_for(is_draining).await {
            Ok(state) => state.wish.map_or_else(Instant::now, |(_, since)| since),
            // The registration is over: nothing will change any more.
            Err(_) => return,
        };
        sleep(self.settle.saturating_sub(since.elapsed())).await;
        while !self.is_idle().await {
            sleep(INTERVAL).await;
        }
    }

    /// Whether every control plane that answers, and at least one, says that nothing is in flight: each knows of the nodes that are
    /// connected to it.
    async fn is_idle(&self) -> bool {
        let mut is_told = false;
        for url in self.control.urls() {
            let Ok(mut client) = connect(self.control, url).await else {
                continue;
            };
            let request = BackendsRequest {
                namespace: self.namespace.to_owned(),
                service: String::new(),
            };
            if let Ok(answer) = client.backends(request).await {
                if in_flight(&answer.into_inner().backends, self.workload) > 0 {
                    return false;
                }
                is_told = true;
            }
        }
        is_told
    }
}

fn in_flight(backends: &[BackendLoad], workload: &str) -> u64 {
    let own = backends.iter().filter(|load| load.workload == workload);
    own.map(|load| load.in_flight).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_workload_itself_counts() {
        let load = |workload: &str, in_flight| BackendLoad {
            workload: workload.into(),
            in_flight,
            ..BackendLoad::default()
        };
        let loads = [load("a", 2), load("b", 5), load("a", 1)];
        assert_eq!((in_flight(&loads, "a"), in_flight(&loads, "c")), (3, 0));
    }
}
