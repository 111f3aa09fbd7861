// SPDX-License-Identifier: Apache-2.0
//! What the kernel itself says about a node's programs: which are attached, and how often. For tests of the agent.
//!
//! Invariant: a program belongs to a node if and only if it uses a map that is pinned for that node.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use anyhow::{Context as _, Result};
use aya::{
    maps::MapInfo,
    programs::{loaded_links, loaded_programs},
};
use nodemesh_agent::datapath::{
    PinRoot,
    programs::{Hook, PROGRAMS},
};

/// Links in the kernel to programs of the node with these pins, by name of the program.
pub fn links(pins: &PinRoot) -> Result<BTreeMap<String, usize>> {
    let maps = pinned_maps(&pins.map(""))?;
    let mut programs = BTreeMap::new();
    // A program or link may go between being listed and being looked at.
    for program in loaded_programs().flatten() {
        let used = program.map_ids().ok().flatten().unwrap_or_default();
        if used.iter().any(|id| maps.contains(id)) {
            let name = program.name_as_str().context("the name of a program")?.to_owned();
            programs.insert(program.id(), name);
        }
    }
    let mut links = BTreeMap::new();
    for link in loaded_links().flatten() {
        if let Some(name) = programs.get(&link.program_id()) {
            *links.entry(name.clone()).or_default() += 1;
        }
    }
    Ok(links)
}

/// What [`links`] gives for a node whose agent has started: one link of each program that is attached at all.
pub fn complete() -> BTreeMap<String, usize> {
    let attached = PROGRAMS
        .iter()
        .filter(|spec| matches!(spec.hook, Hook::Cgroup(_) | Hook::Tracepoint(_)));
    attached.map(|spec| (spec.name.to_owned(), 1)).collect()
}

fn pinned_maps(folder: &Path) -> Result<BTreeSet<u32>> {
    let mut ids = BTreeSet::new();
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        ids.insert(MapInfo::from_pin(entry?.path())?.id());
    }
    Ok(ids)
}
