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

use nodemesh_abi::{CgroupEntry, Ip16, limits::MAX_CGROUP_DEPTH, policy::UNKNOWN};
use nodemesh_model::{Desired, access::PrincipalName, resource::workload::POD_CGROUP};

use super::pods;

/// What the operator keeps cgroups from.
#[derive(Clone, Debug, Default)]
pub struct Excluded {
    /// Those whose sockets are left alone.
    pub alone: Vec<PathBuf>,
    /// Those whose sockets take no shortcut.
    pub no_shortcut: Vec<PathBuf>,
}

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

/// Finds the cgroups below `root` that `desired` maps to workloads, and those that are excluded; `identity_of` gives a principal's
/// identity.
pub fn resolve(
    root: &Path,
    desired: &Desired,
    excluded: &Excluded,
    identity_of: impl Fn(&PrincipalName) -> u32,
) -> CgroupTable {
    let mut table = CgroupTable::default();
    let has_pods = desired
        .clients
        .values()
        .any(|client| client.cgroup.starts_with(POD_CGROUP));
    let pods = if has_pods {
        pods::scan(root)
    } else {
        BTreeMap::new()
    };
    for client in desired.clients.values() {
        let entry = CgroupEntry {
            workload: client.workload,
            addr: client.addr,
            excluded: u32::from(client.shortcut) * CgroupEntry::SHORTCUT,
            identity: identity_of(&client.principal),
        };
        let path = match client.cgroup.strip_prefix(POD_CGROUP) {
            None => Path::new(&*client.cgroup),
            Some(uid) => match pods.get(uid) {
                Some(path) => path,
                // It runs on another node, or not yet.
                None => continue,
            },
        };
        table.insert(root, path, entry);
    }
    let kept = [
        (&excluded.alone, CgroupEntry::ALONE),
        (&excluded.no_shortcut, CgroupEntry::NO_SHORTCUT),
    ];
    for (path, excluded) in kept
        .iter()
        .flat_map(|(paths, bit)| paths.iter().map(move |path| (path, *bit)))
    {
        let entry = CgroupEntry {
            workload: 0,
            addr: Ip16::UNSPECIFIED,
            excluded,
            identity: UNKNOWN,
        };
        table.insert(root, path, entry);
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
                // Exclusions come on top of a workload of the same cgroup.
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use nodemesh_model::{Client, ResourceName};

    use super::*;

    /// Workloads by the cgroup of each.
    fn desired(clients: &[(&str, &str)]) -> Desired {
        let mut desired = Desired::default();
        for (number, (name, cgroup)) in (1..).zip(clients) {
            let client = Client {
                workload: number,
                addr: Ip16::UNSPECIFIED,
                cgroup: (*cgroup).into(),
                principal: PrincipalName::Unknown,
                shortcut: *name == "chat",
            };
            desired
                .clients
                .insert(ResourceName::new("test", name).unwrap(), client);
        }
        desired
    }

    #[test]
    fn paths_become_ids_and_what_is_missing_is_told() {
        // Any file system has inodes and a root: it stands for the cgroup file system.
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("pods/chat")).unwrap();
        fs::create_dir(root.path().join("batch")).unwrap();
        fs::create_dir(root.path().join("jobs")).unwrap();
        let desired = desired(&[("chat", "pods/chat"), ("gone", "pods/gone"), ("batch", "batch")]);
        let table = resolve(
            root.path(),
            &desired,
            &Excluded {
                alone: vec![PathBuf::from("/pods"), PathBuf::from("/batch"), "no".into()],
                no_shortcut: vec![PathBuf::from("/batch"), PathBuf::from("/jobs")],
            },
            |_| UNKNOWN,
        );

        let id = |path: &str| fs::metadata(root.path().join(path)).unwrap().ino();
        let entry = |path: &str| {
            table
                .entries
                .get(&id(path))
                .map(|entry| (entry.workload, entry.excluded))
        };
        let numbers: Vec<u64> = ["batch", "chat"]
            .iter()
            .map(|name| desired.clients[&ResourceName::new("test", name).unwrap()].workload)
            .collect();
        assert_eq!(entry("pods/chat"), Some((numbers[1], CgroupEntry::SHORTCUT)));
        assert_eq!(entry("pods"), Some((0, 1)));
        assert_eq!(entry("batch"), Some((numbers[0], 3)), "exclusions add up");
        assert_eq!(entry("jobs"), Some((0, CgroupEntry::NO_SHORTCUT)));
        assert_eq!(table.entries.len(), 4);
        assert_eq!(table.missing, ["pods/gone", "no"]);
        let depth = depth_below_mount(root.path()).unwrap();
        assert_eq!(table.depths, 0b110 << depth, "one and two levels below the root");
    }

    #[test]
    fn the_root_itself_is_at_depth_zero() {
        assert_eq!(depth_below_mount(Path::new("/proc")), Some(0));
        assert_eq!(depth_below_mount(Path::new("/proc/sys")), Some(1));
    }
}
