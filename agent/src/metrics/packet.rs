// SPDX-License-Identifier: Apache-2.0
//! What the packet path counts. Called on each scrape.
//!
//! Invariant: every family is written on every node, with 0 where the path is off.

use anyhow::Result;
use nodemesh_abi::{FlowEvent, flow::FlowState};

use super::{
    family,
    scrape::{Labels, Scrape},
};
use crate::admin::Node;

/// Writes the families of the packet path.
pub(super) fn write(scrape: &mut Scrape, node: &Node) -> Result<()> {
    let unlabelled = Labels::default();
    let counts = node.flows.counts()?;
    let all = || FlowEvent::ALL.iter().zip(&counts);
    scrape.family(&family::PACKETS, |samples| {
        for (event, count) in all().filter(|(event, _)| is_verdict(**event)) {
            samples.number(&unlabelled, &[event.label()], count.packets as f64);
        }
    })?;
    scrape.family(&family::PACKET_BYTES, |samples| {
        for (event, count) in all().filter(|(event, _)| is_verdict(**event)) {
            samples.number(&unlabelled, &[event.label()], count.bytes as f64);
        }
    })?;
    scrape.family(&family::FLOW_EVENTS, |samples| {
        for (event, count) in all().filter(|(event, _)| !is_verdict(**event)) {
            samples.number(&unlabelled, &[event.label()], count.packets as f64);
        }
    })?;
    let (state, table) = (node.packet(), node.flows.state()?);
    scrape.single(&family::FLOW_TABLE_ENTRIES, table.entries as f64)?;
    let limit = if state.is_on { state.limit } else { 0 };
    scrape.single(&family::FLOW_TABLE_LIMIT, limit as f64)?;
    scrape.family(&family::FLOWS, |samples| {
        let states = FlowState::ALL.iter().zip(state.by_state);
        for (state, count) in states.filter(|(state, _)| **state != FlowState::Free) {
            samples.number(&unlabelled, &[state.label()], count as f64);
        }
    })?;
    scrape.family(&family::PACKET_INTERFACE, |samples| {
        for interface in &state.interfaces {
            let xdp = interface.xdp.map_or("none", |run| run.word());
            let attached = f64::from(u8::from(interface.is_effective));
            samples.number(&unlabelled, &[&interface.name, xdp], attached);
        }
    })?;
    scrape.single(&family::PACKET_PROBLEMS, state.problems.len() as f64)?;
    Ok(())
}

/// Whether an event is what became of a packet, and not what happened in the table.
fn is_verdict(event: FlowEvent) -> bool {
    !matches!(
        event,
        FlowEvent::Opened | FlowEvent::Closed | FlowEvent::Expired | FlowEvent::Evicted | FlowEvent::Reopened
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_tell_verdicts_from_what_happens_in_the_table() {
        for event in FlowEvent::ALL {
            let label = event.label();
            let is_named = ["forwarded", "returned", "related"].contains(&label)
                || label.starts_with("pass_")
                || label.starts_with("drop_");
            assert_eq!(is_verdict(*event), is_named, "{label}");
        }
    }
}
