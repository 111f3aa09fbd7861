// SPDX-License-Identifier: Apache-2.0
//! Takes over what a former agent left in the kernel, of this ABI or of another one. Part of `app`.
//!
//! Invariant: whatever fails here, the former agent's programs and maps are in force as they were.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context as _, Result};
use nodemesh_abi::names::program;
use tracing::{info, warn};

use crate::{
    config::AgentConfig,
    datapath::{
        PinRoot,
        attach::{self, Place},
        carry::Former,
        features::Fallbacks,
        host,
        interface_links::InterfaceLinks,
        link::Link,
        loader::{self, Loaded, Wanted},
    },
    reconcile::thread::Reconciler,
    startup::{Progress, Step},
};

/// What an agent of another ABI left, if it is that whose programs are attached.
pub(super) fn find(pins: &PinRoot) -> Result<Option<Former>> {
    let former = Former::find(pins)
        .with_context(|| format!("look for another ABI below {}", pins.path().display()))?;
    // It may have removed the folders of an attempt that ended early.
    pins.create()
        .with_context(|| format!("create folders below {}", pins.path().display()))?;
    Ok(former)
}

/// Loads maps and programs, with the maps of `former` that both can use.
pub(super) fn load(config: &AgentConfig, pins: &PinRoot, former: Option<&Former>) -> Result<Loaded> {
    let flows = former.map_or(Ok(None), Former::flows)?;
    let flows = flows.unwrap_or_else(|| config.packet.flows(host::memory()));
    let wanted = Wanted {
        capacities: loader::Capacities {
            services: config.max_services,
            backends: config.max_backends,
            metered_backends: config.max_metered_backends,
            flows,
        },
        meter_path: config.meter_path.into(),
        fallbacks: Fallbacks::probe(&config.without_feature)?,
        carried_bytes: former.and_then(Former::record_bytes),
        has_packet_path: config.packet.is_on(),
    };
    if let Some(former) = former {
        former.share(pins)?;
    }
    let loaded = loader::load(pins, wanted)?;
    info!(path = loaded.meter_path.label(), "the meter sees bytes");
    if loaded.is_kept {
        info!("the programs that are attached are of this build, and stay");
    }
    for (name, cost) in &loaded.costs {
        tracing::debug!(
            program = name,
            instructions = cost.instructions,
            verified = cost.verified_instructions,
            load_us = cost.load_time.as_micros() as u64,
            "loaded"
        );
    }
    Ok(loaded)
}

/// Translates what `former` left.
pub(super) fn carry(former: Option<&Former>, pins: &PinRoot) -> Result<()> {
    former.map_or(Ok(()), |former| Ok(former.rows(pins)?))
}

/// Puts the programs in the place of those that are attached, and removes what is left of another ABI.
pub(super) fn attach(
    loaded: &Loaded,
    (cgroup, pins): (&Path, &PinRoot),
    former: Option<Former>,
    interfaces: &mut InterfaceLinks,
    reconciler: &mut Reconciler,
    progress: Progress,
) -> Result<BTreeMap<&'static str, Link>> {
    let mut first = true;
    let links = attach::attach(
        loaded,
        Place {
            cgroup,
            pins,
            former: former.as_ref().map(Former::pins),
        },
        |switch| {
            if switch.is_announced {
                reconciler.announce_switch()?;
            }
            former
                .as_ref()
                .map_or(Ok(()), Former::end_shortcut)
                .map_err(|error| error.to_string())?;
            // As near to the switch as it can be: what happens to a record in between is lost with it.
            copy_records(loaded, former.as_ref());
            reconciler.put_in_force(switch.epoch)?;
            copy_records(loaded, former.as_ref());
            Ok(())
        },
        |_| {
            if std::mem::take(&mut first) {
                progress.reached(Step::FirstAttached);
            }
        },
    )?;
    // Again: what the former programs did since is in their records alone.
    copy_records(loaded, former.as_ref());
    if let Some(former) = former {
        take_flows_over(&former, pins, interfaces)?;
        former.remove(pins);
    }
    Ok(links)
}

/// Lets the programs at interfaces go on with the flows that `former` has.
fn take_flows_over(former: &Former, pins: &PinRoot, interfaces: &mut InterfaceLinks) -> Result<()> {
    former.copy_flows(pins)?;
    let links = interfaces
        .take_over(former.pins())
        .context("take over what is attached to interfaces")?;
    // Again: what the former programs did since is in their rows alone.
    former.copy_flows(pins)?;
    if links > 0 {
        info!(links, "took over what is attached to interfaces");
    }
    Ok(())
}

/// Copies the records of connections from `former`, if they are others than ours.
fn copy_records(loaded: &Loaded, former: Option<&Former>) {
    let Some(former) = former.filter(|former| former.record_bytes().is_some()) else {
        return;
    };
    let program = loaded
        .ebpf
        .program(program::CARRY)
        .context("the object lacks the iterator that copies records");
    let copied = program.and_then(|program| Ok(former.records(program.fd()?)?));
    if let Err(error) = copied {
        warn!(
            error = format!("{error:#}"),
            "connections that are open are not metered any more"
        );
    }
}
