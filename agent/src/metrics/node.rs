// SPDX-License-Identifier: Apache-2.0
//! How the agent and the kernel's programs are doing. Called on each scrape.
//!
//! Invariant: every family is written on every node, with 0 where nothing happened; only the statistics of programs can be off.

use anyhow::Result;
use nodemesh_abi::InternalError;

use super::{
    family,
    scrape::{Labels, Scrape},
};
use crate::{
    admin::{Node, report},
    datapath::{PinRoot, attach},
    reconcile::view::View,
    source::ControlStatus,
};

/// Writes the families of the node.
pub(super) fn write(scrape: &mut Scrape, node: &Node, view: &View) -> Result<()> {
    write_meter(scrape, node)?;
    write_events(scrape, node)?;
    write_maps(scrape, node, view)?;
    write_attachment(scrape, node)?;
    write_programs(scrape, node)?;
    write_config(scrape, node, view)?;
    Ok(())
}

fn write_meter(scrape: &mut Scrape, node: &Node) -> Result<()> {
    let errors = node.maps.internal_errors()?;
    let sweep = node.sweep();
    let counts = [
        (&family::TABLE_ENTRIES, node.maps.table()?.entries),
        (&family::TABLE_LIMIT, node.connection_limit.into()),
        (
            &family::TABLE_UNTRACKED,
            errors[InternalError::ConnectionTable as usize],
        ),
        (&family::ADOPTED, node.adopted),
        (
            &family::STREAMS_LOST,
            errors[InternalError::StreamRecord as usize],
        ),
        (&family::ACCESS_RECORDS, node.access_log.written()),
        (&family::ACCESS_LOST, node.access_lost()),
        (&family::CORRECTIONS, sweep.corrections),
    ];
    for (family, count) in counts {
        scrape.single(family, count as f64)?;
    }
    scrape.single(&family::SWEEP_DURATION, sweep.duration.as_secs_f64())?;
    scrape.family(&family::METER_PATH, |samples| {
        samples.number(&Labels::default(), &[node.meter_path.label()], 1.0);
    })?;
    Ok(())
}

fn write_events(scrape: &mut Scrape, node: &Node) -> Result<()> {
    let unlabelled = Labels::default();
    scrape.family(&family::EVENTS, |samples| {
        for ((kind, reason), count) in node.events.counts() {
            samples.number(&unlabelled, &[kind.word(), reason], count as f64);
        }
    })?;
    let recorded = node.maps.internal_errors()?[InternalError::EventRecord as usize];
    let lost = node.events.lost();
    scrape.family(&family::EVENTS_LOST, |samples| {
        for (stage, count) in [
            ("recording", recorded),
            ("naming", lost.agent),
            ("reader", lost.readers),
        ] {
            samples.number(&unlabelled, &[stage], count as f64);
        }
    })?;
    Ok(())
}

fn write_maps(scrape: &mut Scrape, node: &Node, view: &View) -> prometheus::Result<()> {
    let unlabelled = Labels::default();
    let maps = node.map_usage(view);
    scrape.family(&family::MAP_ENTRIES, |samples| {
        for (map, usage) in &maps {
            samples.number(&unlabelled, &[map], usage.entries as f64);
        }
    })?;
    scrape.family(&family::MAP_CAPACITY, |samples| {
        for (map, usage) in &maps {
            samples.number(&unlabelled, &[map], usage.capacity as f64);
        }
    })?;
    scrape.family(&family::NOT_PROGRAMMED, |samples| {
        samples.number(&unlabelled, &["map_full"], view.rejected.len() as f64);
        samples.number(&unlabelled, &["write_failed"], view.failed.len() as f64);
    })?;
    scrape.family(&family::INTERNAL_ERRORS, |samples| {
        for (reason, count) in node.internal_errors() {
            samples.number(&unlabelled, &[&reason], count as f64);
        }
    })
}

fn write_attachment(scrape: &mut Scrape, node: &Node) -> prometheus::Result<()> {
    let (unlabelled, attachment) = (Labels::default(), node.attachment());
    scrape.family(&family::ATTACHED_PROGRAMS, |samples| {
        for (name, in_force) in &attachment.programs {
            samples.number(&unlabelled, &[name], f64::from(u8::from(*in_force)));
        }
    })?;
    scrape.family(&family::ATTACHMENT_REPAIRS, |samples| {
        for (fault, count) in &attachment.repairs {
            samples.number(&unlabelled, &[fault.word()], *count as f64);
        }
    })
}

fn write_programs(scrape: &mut Scrape, node: &Node) -> prometheus::Result<()> {
    if !node.config.program_stats {
        return Ok(());
    }
    let unlabelled = Labels::default();
    let runs = {
        let ebpf = node.ebpf.lock().expect("no holder panics");
        attach::runs(&ebpf, &PinRoot::new(&node.config.pin_dir))
    };
    scrape.family(&family::PROGRAM_RUNS, |samples| {
        for (name, runs) in &runs {
            samples.number(&unlabelled, &[name], runs.count as f64);
        }
    })?;
    scrape.family(&family::PROGRAM_TIME, |samples| {
        for (name, runs) in &runs {
            samples.number(&unlabelled, &[name], runs.time.as_secs_f64());
        }
    })
}

fn write_config(scrape: &mut Scrape, node: &Node, view: &View) -> prometheus::Result<()> {
    let unlabelled = Labels::default();
    let source = node.source();
    let is_valid = source.errors.is_empty();
    scrape.single(&family::CONFIG_GENERATION, view.generation as f64)?;
    scrape.single(&family::CONFIG_VALID, f64::from(u8::from(is_valid)))?;
    scrape.single(
        &family::CONFIG_TIME,
        report::unix_seconds(source.loaded_at) as f64,
    )?;
    scrape.family(&family::CONFIG_RELOADS, |samples| {
        samples.number(&unlabelled, &["ok"], source.reloads_ok as f64);
        samples.number(&unlabelled, &["invalid"], source.reloads_failed as f64);
    })?;
    let origin = if source.control.is_some() {
        "control"
    } else {
        "files"
    };
    scrape.family(&family::CONFIG_SOURCE, |samples| {
        samples.number(&unlabelled, &[origin], 1.0);
    })?;
    write_control(scrape, &source.control.clone().unwrap_or_default())?;
    let abi = nodemesh_abi::ABI_VERSION.to_string();
    let build = [env!("CARGO_PKG_VERSION"), env!("NODEMESH_COMMIT"), &abi];
    scrape.family(&family::BUILD_INFO, |samples| {
        samples.number(&unlabelled, &build, 1.0);
    })
}

fn write_control(scrape: &mut Scrape, control: &ControlStatus) -> prometheus::Result<()> {
    let connected = u8::from(control.connected.is_some());
    scrape.single(&family::CONTROL_CONNECTED, f64::from(connected))?;
    scrape.single(&family::CONTROL_CONNECTIONS, control.connections as f64)?;
    let updated = report::unix_seconds(control.updated_at);
    scrape.single(&family::CONTROL_UPDATED, updated as f64)?;
    let saved = control.saved_at.get().unwrap_or_default();
    scrape.single(&family::CONTROL_SAVED, saved as f64)?;
    scrape.single(&family::CONTROL_NACKS, control.nacks as f64)?;
    scrape.family(&family::CONTROL_RESOURCES, |samples| {
        let problems = [
            ("rejected", &control.rejected),
            ("unsupported", &control.unsupported),
            ("waiting", &control.waiting),
        ];
        for (problem, complaints) in problems {
            samples.number(&Labels::default(), &[problem], complaints.count as f64);
        }
    })
}
