// SPDX-License-Identifier: Apache-2.0
//! The agent's metrics, rendered on each scrape from the kernel's counters, so there is no second copy of a number that could
//! drift.
//!
//! ```text
//! family (declares all) ─► meter, placement, packet, node ─► scrape ─► /metrics
//!        └─► document ─► docs/metrics.md
//! ```
//!
//! Called by `/metrics`. Invariant: a scrape costs what this node has used, not what the cluster has.

#[cfg(test)]
mod document;
pub mod family;
mod meter;
mod node;
mod packet;
mod placement;
mod scrape;
mod shortcut;

use anyhow::Result;

use crate::admin::Node;
use scrape::Scrape;

/// Renders the families.
#[derive(Debug, Default)]
pub struct Metrics;

impl Metrics {
    /// All families, in Prometheus' text format. Takes some 100 ms of a CPU on a node with 2,000 metered backends: not for a
    /// thread of the runtime.
    pub fn render(&self, node: &Node) -> Result<String> {
        let view = node.view();
        let mut scrape = Scrape::default();
        meter::write(&mut scrape, node, &view)?;
        placement::write(&mut scrape, node, &view)?;
        packet::write(&mut scrape, node)?;
        node::write(&mut scrape, node, &view)?;
        shortcut::write(&mut scrape, node)?;
        Ok(scrape.finish())
    }
}
