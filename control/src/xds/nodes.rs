// SPDX-License-Identifier: Apache-2.0
//! Who is connected, and how far each reader is: the table behind `nodemesh get nodes`.
//!
//! Every stream has a [`Seat`] in it for as long as it lives. A node that is there twice (a copied machine, a reconnect that the
//! old connection does not know of yet) has two rows. Invariant: no row outlives its stream.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use nodemesh_proto::xds::envoy::config::core::v3::{Node as WireNode, node::UserAgentVersionType};

use super::{
    limits::{Limits, Violation},
    stream::Variant,
    subscription::Progress,
    type_url::TypeUrl,
};

/// Characters of what a reader tells about itself, or of why it rejects something, that are kept.
const TEXT_LIMIT: usize = 1024;

/// One stream.
#[derive(Clone, Debug)]
pub struct Node {
    /// As the node calls itself; empty before its first request.
    pub id: String,
    /// Its program and the version of that, as `envoy/1.40.0`.
    pub user_agent: String,
    /// Where it is connected from.
    pub address: Option<SocketAddr>,
    /// How it speaks.
    pub variant: Variant,
    /// When the stream began.
    pub connected_since: SystemTime,
    /// How far it is.
    pub types: BTreeMap<TypeUrl, Progress>,
    /// Another stream has the same id.
    pub is_duplicate: bool,
}

/// What happened since the start.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Totals {
    /// Streams that were opened.
    pub streams: u64,
    /// Streams that were refused or ended because of a [`Violation`].
    pub violations: u64,
    /// Requests that were taken in.
    pub requests: u64,
    /// Responses that were sent.
    pub responses: u64,
    /// Resources in those.
    pub resources: u64,
    /// Responses that were rejected.
    pub nacks: u64,
}

#[derive(Debug, Default)]
struct Table {
    rows: BTreeMap<u64, Node>,
    of_id: BTreeMap<String, usize>,
    next: u64,
    totals: Totals,
}

/// The table; a copy is the same table.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    table: Arc<Mutex<Table>>,
}

impl Nodes {
    /// Without streams.
    pub fn new() -> Self {
        Self::default()
    }

    /// All streams, the oldest first.
    pub fn list(&self) -> Vec<Node> {
        let table = self.table();
        let is_duplicate = |id: &str| table.of_id.get(id).is_some_and(|count| *count > 1);
        let rows = table.rows.values().cloned();
        rows.map(|node| Node {
            is_duplicate: is_duplicate(&node.id),
            ..node
        })
        .collect()
    }

    /// What happened so far.
    pub fn totals(&self) -> Totals {
        self.table().totals
    }

    /// A row for a new stream.
    pub(super) fn admit(
        &self,
        address: Option<SocketAddr>,
        variant: Variant,
        limits: &Limits,
    ) -> Result<Seat, Violation> {
        let mut table = self.table();
        let limit = limits.streams;
        if table.rows.len() >= limit {
            table.totals.violations += 1;
            return Err(Violation::TooManyStreams { limit });
        }
        let row = table.next;
        table.next += 1;
        table.totals.streams += 1;
        let node = Node {
            id: String::new(),
            user_agent: String::new(),
            address,
            variant,
            connected_since: SystemTime::now(),
            types: BTreeMap::new(),
            is_duplicate: false,
        };
        table.rows.insert(row, node);
        drop(table);
        Ok(Seat {
            nodes: self.clone(),
            row,
        })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The row of one stream; gone when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    nodes: Nodes,
    row: u64,
}

impl Seat {
    /// Names the node: the first request does, the others need not.
    pub(super) fn identify(&self, wire: &WireNode, limits: &Limits) -> Result<(), Violation> {
        let id = shortened(&wire.id);
        let mut guard = self.nodes.table();
        let table = &mut *guard;
        let (count, limit) = (
            table.of_id.entry(id.clone()).or_default(),
            limits.streams_per_node,
        );
        if *count >= limit {
            return Err(Violation::TooManyStreamsOfNode { node: id, limit });
        }
        *count += 1;
        if let Some(node) = table.rows.get_mut(&self.row) {
            node.user_agent = shortened(&user_agent(wire));
            node.id = id;
        }
        Ok(())
    }

    /// Notes how far the stream is.
    pub(super) fn update<'a>(&self, progress: impl Iterator<Item = (&'a TypeUrl, Progress)>) {
        let mut guard = self.nodes.table();
        let table = &mut *guard;
        let Some(node) = table.rows.get_mut(&self.row) else {
            return;
        };
        for (type_url, mut progress) in progress {
            if let Some(nack) = &mut progress.nack {
                nack.message = shortened(&nack.message);
            }
            let last = node.types.get(type_url);
            let is_news = progress.nack.is_some() && last.is_none_or(|last| last.nack != progress.nack);
            table.totals.nacks += u64::from(is_news);
            if last != Some(&progress) {
                node.types.insert(type_url.clone(), progress);
            }
        }
    }

    /// Counts.
    pub(super) fn count(&self, counting: impl FnOnce(&mut Totals)) {
        counting(&mut self.nodes.table().totals);
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut guard = self.nodes.table();
        let table = &mut *guard;
        let Some(node) = table.rows.remove(&self.row) else {
            return;
        };
        if let Some(count) = table.of_id.get_mut(&node.id) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                table.of_id.remove(&node.id);
            }
        }
    }
}

fn user_agent(node: &WireNode) -> String {
    let version = match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let number = build.version.unwrap_or_default();
            format!("{}.{}.{}", number.major_number, number.minor_number, number.patch)
        }
        None => return node.user_agent_name.clone(),
    };
    format!("{}/{version}", node.user_agent_name)
}

fn shortened(text: &str) -> String {
    text.chars().take(TEXT_LIMIT).collect()
}
