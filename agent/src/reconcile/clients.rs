// SPDX-License-Identifier: Apache-2.0
//! The `cgroups` map: which workload or exclusion stands for which cgroup. Called by the reconciler's thread, also
//! between configurations, because a pod's cgroup may appear after the pod is configured.
//!
//! Invariant: a path that does not exist is no error; it is looked for again.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nodemesh_abi::{CgroupEntry, Ip16, limits::MAX_CGROUP_DEPTH};
use nodemesh_model::Desired;

/// Cgroup ids with their entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CgroupTable {
    /// Rows of `cgroups`.
    pub entries: BTreeMap<u64, CgroupEntry>,
    /// Bit n is set if an entry is n levels below the cgroup root.
    pub depths: u32,
    /// Paths that do not exist.
    pub missing: Vec<String>,
}

/// Finds the cgroups below `root` that `desired` maps to workloads, and those that are excluded.
pub fn resolve(root: &Path, desired: &Desired, excluded: &[PathBuf]) -> CgroupTable {
    let mut table = CgroupTable::default();
    for client in desired.clients.values() {
        let entry = CgroupEntry {
            workload: client.workload,
            addr: client.addr,
            excluded: 0,
        };
        table.insert(root, Path::new(&*client.cgroup), entry);
    }
    for path in excluded {
        table.insert(
            root,
            path,
            CgroupEntry {
                workload: 0,
                addr: Ip16::UNSPECIFIED,
                excluded: 1,
            },
        );
    }
    table
}

impl CgroupTable {
    fn insert(&mut self, root: &Path, path: &Path, entry: CgroupEntry) {
        let path = path.strip_prefix("/").unwrap_or(path);
        let full = root.join(path);
        let depth = depth_below_mount(&full);
        match (fs::metadata(&full), depth) {
            (Ok(metadata), Some(depth)) if depth <= MAX_CGROUP_DEPTH => {
                let known = self.entries.entry(metadata.ino()).or_insert(entry);
                // An exclusion wins over a workload of the same cgroup.
                known.excluded |= entry.excluded;
                self.depths |= 1 << depth;
            }
            _ => self.missing.push(path.display().to_string()),
        }
    }
}

/// Levels between the root of the cgroup file system and `path`: the number that the kernel calls the level.
fn depth_below_mount(path: &Path) -> Option<u32> {
    let device = fs::metadata(path).ok()?.dev();
    let levels = path
        .ancestors()
        .skip(1)
        .take_while(|parent| fs::metadata(parent).is_ok_and(|found| found.dev() == device));
    u32::try_from(levels.count()).ok()
}
