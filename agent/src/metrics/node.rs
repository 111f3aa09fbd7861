// SPDX-License-Identifier: Apache-2.0
//! How the agent and the kernel's programs are doing. Called on each scrape.
//!
//! Invariant: every family is written on every node, with 0 where nothing happened; only the statistics of programs can be off.

use anyhow::Result;
use nodemesh_abi::InternalError;

use super::{
    family,
    text::{Labels, Scrape},
};
use crate::{
    admin::{Node, report},
    datapath::{PinRoot, attach},
    reconcile::view::View,
};

/// Writes the families of the node.
pub(super) fn write(scrape: &mut Scrape, node: &Node, view: &View) -> Result<()> {
    write_meter(scrape, node)?;
    write_maps(scrape, node, view);
    write_programs(scrape, node);
    write_config(scrape, node, view);
    Ok(())
}

fn write_meter(scrape: &mut Scrape, node: &Node) -> Result<()> {
    let unlabelled = Labels::default();
    let errors = node.maps.internal_errors()?;
    let sweep = node.sweep();
    let mut sample = |family, value| scrape.sample(family, &unlabelled, &[], value);
    sample(&family::TABLE_ENTRIES, node.maps.table()?.entries);
    sample(&family::TABLE_LIMIT, node.connection_limit.into());
    sample(
        &family::TABLE_UNTRACKED,
        errors[InternalError::ConnectionTable as usize],
    );
    sample(&family::ADOPTED, node.adopted);
    sample(
        &family::STREAMS_LOST,
        errors[InternalError::StreamRecord as usize],
    );
    sample(&family::ACCESS_RECORDS, node.access_log.written());
    sample(&family::ACCESS_LOST, node.access_lost());
    sample(&family::CORRECTIONS, sweep.corrections);
    scrape.sample(
        &family::SWEEP_DURATION,
        &unlabelled,
        &[],
        sweep.duration.as_secs_f64(),
    );
    scrape.sample(&family::METER_PATH, &unlabelled, &[node.meter_path.label()], 1);
    Ok(())
}

fn write_maps(scrape: &mut Scrape, node: &Node, view: &View) {
    let unlabelled = Labels::default();
    for (map, usage) in node.map_usage(view) {
        scrape.sample(&family::MAP_ENTRIES, &unlabelled, &[&map], usage.entries);
        scrape.sample(&family::MAP_CAPACITY, &unlabelled, &[&map], usage.capacity);
    }
    for (reason, frontends) in [
        ("map_full", view.rejected.len()),
        ("write_failed", view.failed.len()),
    ] {
        scrape.sample(&family::NOT_PROGRAMMED, &unlabelled, &[reason], frontends);
    }
    for (reason, count) in node.internal_errors() {
        scrape.sample(&family::INTERNAL_ERRORS, &unlabelled, &[&reason], count);
    }
}

fn write_programs(scrape: &mut Scrape, node: &Node) {
    if !node.config.program_stats {
        return;
    }
    let ebpf = node.ebpf.lock().expect("no holder panics");
    for (name, runs) in attach::runs(&ebpf, &PinRoot::new(&node.config.pin_dir)) {
        let labels = Labels::new(family::PROGRAM_RUNS.labels, &[&name]);
        scrape.sample(&family::PROGRAM_RUNS, &labels, &[], runs.count);
        scrape.sample(&family::PROGRAM_TIME, &labels, &[], runs.time.as_secs_f64());
    }
}

fn write_config(scrape: &mut Scrape, node: &Node, view: &View) {
    let unlabelled = Labels::default();
    let source = node.source();
    let mut sample = |family, value| scrape.sample(family, &unlabelled, &[], value);
    sample(&family::CONFIG_GENERATION, view.generation);
    sample(&family::CONFIG_VALID, u64::from(source.errors.is_empty()));
    sample(&family::CONFIG_TIME, report::unix_seconds(source.loaded_at));
    for (outcome, reloads) in [("ok", source.reloads_ok), ("invalid", source.reloads_failed)] {
        scrape.sample(&family::CONFIG_RELOADS, &unlabelled, &[outcome], reloads);
    }
    let abi = nodemesh_abi::ABI_VERSION.to_string();
    let build = [env!("CARGO_PKG_VERSION"), env!("NODEMESH_COMMIT"), &abi];
    scrape.sample(&family::BUILD_INFO, &unlabelled, &build, 1);
}
