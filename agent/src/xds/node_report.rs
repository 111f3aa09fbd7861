// SPDX-License-Identifier: Apache-2.0
//! Tells nodemesh's control plane how this node is: what its kernel has, what keeps it from having more, how full its maps are. Run by
//! `link` for each connection.
//!
//! Invariant: a report is the whole state, sent at once when it changes and at the interval that the control plane asks for; another
//! control plane does not have the service and is left alone.

use std::{sync::Arc, time::Duration};

use futures_util::stream;
use nodemesh_proto::v1::{MapUsage, NodeReport, node_client::NodeClient};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};
use tonic::{Code, Status};
use tracing::debug;

use super::identity::USER_AGENT;
use crate::{admin::Node, config::VERSION, control::Connection, source::SourceStatus};

/// Until the control plane says otherwise.
const INTERVAL: Duration = Duration::from_secs(5);
/// Changes within this time are one report.
const BURST: Duration = Duration::from_millis(50);
/// Pause before a stream that ended is opened again.
const AGAIN: Duration = Duration::from_secs(5);
/// Most errors that a report lists.
const MOST_ERRORS: usize = 100;

/// Reports until it is dropped, or until the server turns out not to want it.
pub async fn run(connection: Connection, name: String, node: Arc<Node>) {
    loop {
        let status = report(connection.clone(), &name, &node).await;
        debug!(%status, "reports of the node ended");
        if status.code() == Code::Unimplemented {
            return;
        }
        sleep(AGAIN).await;
    }
}

async fn report(connection: Connection, name: &str, node: &Node) -> Status {
    let (mut view, mut source) = (node.view.clone(), node.source.clone());
    let (reports, outbox) = mpsc::channel(1);
    let _ = reports.try_send(describe(name, node));
    let outbox = stream::unfold(outbox, |mut outbox| async {
        Some((outbox.recv().await?, outbox))
    });
    let mut client = NodeClient::new(connection);
    let mut answers = match client.report(outbox).await {
        Ok(answers) => answers.into_inner(),
        Err(status) => return status,
    };
    let mut interval = INTERVAL;
    let mut next = Instant::now() + interval;
    let mut earliest = Instant::now();
    loop {
        tokio::select! {
            answer = answers.message() => match answer {
                Ok(Some(answer)) if answer.interval_seconds > 0 => {
                    interval = Duration::from_secs(answer.interval_seconds.into());
                    next = next.min(Instant::now() + interval);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Status::unavailable("the control plane closed the stream"),
                Err(status) => return status,
            },
            changed = view.changed() => match changed {
                Ok(()) => next = next.min(earliest.max(Instant::now())),
                Err(_) => return Status::cancelled("the agent ends"),
            },
            changed = source.changed() => match changed {
                Ok(()) => next = next.min(earliest.max(Instant::now() + BURST)),
                Err(_) => return Status::cancelled("the agent ends"),
            },
            () = sleep_until(next) => {
                // One that is still on its way is enough: the next one tells the newest state.
                if let Ok(place) = reports.try_reserve() {
                    place.send(describe(name, node));
                }
                let now = Instant::now();
                (next, earliest) = (now + interval, now + BURST);
            }
        }
    }
}

fn describe(name: &str, node: &Node) -> NodeReport {
    let (source, view) = (node.source(), node.view());
    let maps = node.fixed_usage(&view).into_iter();
    let version = source
        .control
        .as_ref()
        .map_or("", |control| control.version_of(view.generation));
    NodeReport {
        node: name.to_owned(),
        version: format!("{USER_AGENT} {VERSION}"),
        kernel: node.kernel(),
        applied_generation: view.generation,
        applied_version: version.to_owned(),
        errors: errors(node, &source),
        maps: maps
            .map(|(name, usage)| MapUsage {
                name,
                entries: usage.entries,
                capacity: usage.capacity,
            })
            .collect(),
    }
}

/// What keeps the node from applying everything.
fn errors(node: &Node, source: &SourceStatus) -> Vec<String> {
    let mut errors: Vec<String> = node
        .not_programmed(&node.view())
        .into_iter()
        .map(|(frontend, reason)| format!("{frontend}: {reason}"))
        .collect();
    errors.extend(source.errors.iter().cloned());
    if let Some(control) = &source.control {
        errors.extend(control.rejected.lines());
        errors.extend(control.unsupported.lines());
    }
    errors.truncate(MOST_ERRORS);
    errors
}
