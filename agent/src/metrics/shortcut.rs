// SPDX-License-Identifier: Apache-2.0
//! What the shortcut carries, and whether it may. Called on each scrape.
//!
//! Invariant: every route is written, with 0 where nothing took it.

use anyhow::Result;
use nodemesh_abi::shortcut::Route;

use super::{
    family,
    scrape::{Labels, Scrape},
};
use crate::admin::Node;

/// Writes the families of the shortcut.
pub(super) fn write(scrape: &mut Scrape, node: &Node) -> Result<()> {
    let unlabelled = Labels::default();
    let counts = node.maps.short_counts()?;
    scrape.family(&family::SHORT_MESSAGES, |samples| {
        for (route, count) in Route::ALL.iter().zip(&counts) {
            samples.number(&unlabelled, &[route.label()], count.messages as f64);
        }
    })?;
    scrape.family(&family::SHORT_BYTES, |samples| {
        for (route, count) in Route::ALL.iter().zip(&counts) {
            samples.number(&unlabelled, &[route.label()], count.bytes as f64);
        }
    })?;
    scrape.single(&family::SHORT_SOCKETS, node.ends.enrolled().len() as f64)?;
    let state = node.shortcut();
    scrape.family(&family::SHORT_STATE, |samples| {
        let enabled = if state.enabled { "on" } else { "off" };
        samples.number(&unlabelled, &[enabled, &state.reason], 1.0);
    })?;
    scrape.family(&family::SHORT_PROPERTY, |samples| {
        for finding in state.report.iter().flat_map(|report| &report.findings) {
            let holds = f64::from(u8::from(finding.failure.is_none()));
            samples.number(&unlabelled, &[&finding.property, finding.effect.word()], holds);
        }
    })?;
    Ok(())
}
