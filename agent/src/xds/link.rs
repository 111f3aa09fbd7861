// SPDX-License-Identifier: Apache-2.0
//! Keeps the connection: one control plane after the other, with pauses that grow, until the agent ends. Started by `app`.
//!
//! Invariant: whatever ends a connection, the next one is tried; the state in force does not depend on it.

use std::{
    error::Error as _,
    sync::{Arc, mpsc},
    time::{Duration, Instant, SystemTime},
};

use nodemesh_proto::{Received, xds::envoy::config::core::v3::Node};
use tokio::{sync::watch, task::JoinSet, time::sleep};
use tonic::Status;
use tracing::{debug, warn};

use super::{
    load_book::LoadBook,
    load_report, node_report,
    session::Session,
    stream::{Client, Stopped},
};
use crate::{
    admin,
    control::{Backoff, Connection, ControlClient, channel::describe},
    reconcile::thread::Command,
    source::control::ControlSource,
};

/// This node, once it is there: the control plane is asked while the programs are still being loaded.
pub type Announced = watch::Receiver<Option<Arc<admin::Node>>>;

/// The task.
pub struct Link {
    control: ControlClient,
    identity: Node,
    client: Client,
    nodes: Announced,
    loads: Arc<tokio::sync::Mutex<LoadBook>>,
}

impl Link {
    /// For `source`, as `identity`; `nodes` has what is reported as soon as it is there.
    pub fn new(
        control: ControlClient,
        identity: Node,
        source: ControlSource,
        commands: mpsc::Sender<Command>,
        nodes: Announced,
    ) -> Self {
        Self {
            control,
            identity,
            client: Client {
                session: Session::new(Received::default()),
                source,
                commands,
            },
            nodes,
            loads: Arc::default(),
        }
    }

    /// Connects again and again, until the agent ends.
    pub async fn run(mut self) {
        let urls = self.control.urls().to_vec();
        let mut backoff = Backoff::new(urls.len());
        let mut pings = vec![true; urls.len()];
        loop {
            let index = backoff.url();
            let url = urls[index].to_string();
            let mut opened = None;
            let error = match self.control.connect(&urls[index], pings[index]).await {
                Ok(connection) => {
                    opened = Some(Instant::now());
                    let Ok(status) = self.exchange(connection, &url).await else {
                        return;
                    };
                    if is_too_many_pings(&status) {
                        debug!(
                            control = url,
                            "this control plane does not want to be asked whether it is there"
                        );
                        pings[index] = false;
                    }
                    explain(&status)
                }
                Err(error) => error.to_string(),
            };
            let wait = backoff.failed(opened.map(|at| at.elapsed()).unwrap_or_default(), fastrand::f64());
            self.disconnected(&url, error, wait);
            sleep(wait).await;
        }
    }

    /// Uses a connection until its stream of resources ends.
    async fn exchange(&mut self, connection: Connection, url: &str) -> Result<Status, Stopped> {
        // They end with this set.
        let mut reports = JoinSet::new();
        let (mut nodes, loads) = (self.nodes.clone(), Arc::clone(&self.loads));
        let (identity, channel) = (self.identity.clone(), connection.clone());
        reports.spawn(async move {
            let Ok(node) = nodes.wait_for(Option::is_some).await.map(|node| node.clone()) else {
                return;
            };
            let Some(node) = node else { return };
            tokio::join!(
                node_report::run(channel.clone(), identity.id.clone(), Arc::clone(&node)),
                load_report::run(channel.clone(), identity, node, loads)
            );
        });
        self.client.run(connection, url, self.identity.clone()).await
    }

    fn disconnected(&mut self, url: &str, error: String, wait: Duration) {
        let before = self.client.source.status().borrow().control.clone();
        let (was_connected, was_told) = before.map_or((false, false), |status| {
            (
                status.connected.is_some(),
                status.error.as_deref() == Some(error.as_str()),
            )
        });
        if !was_told {
            warn!(
                control = url,
                error,
                again_ms = wait.as_millis() as u64,
                "no connection to the control plane; the state in force stays"
            );
        }
        self.client.source.note(|status| {
            if was_connected {
                status.since = SystemTime::now();
            }
            status.connected = None;
            status.error = Some(error);
        });
    }
}

/// What the peer, or what is between, said at the end.
fn explain(status: &Status) -> String {
    let code = status.code();
    match status.source() {
        Some(source) => format!("{code:?}: {}", describe(source)),
        None => format!("{code:?}: {}", status.message()),
    }
}

fn is_too_many_pings(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error
            .downcast_ref::<h2::Error>()
            .is_some_and(|error| error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
        {
            return true;
        }
        cause = error.source();
    }
    false
}
