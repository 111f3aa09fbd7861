// SPDX-License-Identifier: Apache-2.0
//! How much memory this process may still take before the kernel ends it for want of it. Asked by `verify`, which takes most of it.
//!
//! Invariant: what cannot be read is no limit.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the hierarchy of version 1 that limits memory is mounted, unless somebody went out of the way.
const V1: &str = "/sys/fs/cgroup/memory";

/// Bytes below the tightest limit of this process' cgroup and of those above it; `None` without one.
pub fn of_this_process() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let v2 = super::host::cgroup_root(None).ok();
    [v2, Some(PathBuf::from(V1))]
        .into_iter()
        .flatten()
        .filter_map(|root| headroom(&root, &groups))
        .min()
}

/// The same in the hierarchy that is mounted at `root`, by the lines of `/proc/self/cgroup`.
fn headroom(root: &Path, groups: &str) -> Option<u64> {
    let is_v1 = root == Path::new(V1);
    let (limit, used) = if is_v1 {
        ("memory.limit_in_bytes", "memory.usage_in_bytes")
    } else {
        ("memory.max", "memory.current")
    };
    let group = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let is_it = if is_v1 {
            controllers.split(',').any(|controller| controller == "memory")
        } else {
            controllers.is_empty()
        };
        is_it.then_some(path)
    })?;
    let folder = root.join(group.trim_start_matches('/'));
    let number = |folder: &Path, name: &str| -> Option<u64> {
        fs::read_to_string(folder.join(name)).ok()?.trim().parse().ok()
    };
    folder
        .ancestors()
        .take_while(|folder| folder.starts_with(root))
        .filter_map(|folder| Some(number(folder, limit)?.saturating_sub(number(folder, used)?)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tightest_limit_above_counts() {
        let root = tempfile::tempdir().unwrap();
        let groups = "4:memory:/elsewhere\n0::/pod/container\n";
        assert_eq!(headroom(root.path(), groups), None, "there is nothing");
        let container = root.path().join("pod/container");
        fs::create_dir_all(&container).unwrap();
        for (folder, limit, used) in [
            (&*container, "max\n", "5\n"),
            (container.parent().unwrap(), "100\n", "30\n"),
        ] {
            fs::write(folder.join("memory.max"), limit).unwrap();
            fs::write(folder.join("memory.current"), used).unwrap();
        }
        assert_eq!(headroom(root.path(), groups), Some(70));
        fs::write(container.join("memory.max"), "6\n").unwrap();
        assert_eq!(headroom(root.path(), groups), Some(1));
        fs::write(container.join("memory.current"), "9\n").unwrap();
        assert_eq!(headroom(root.path(), groups), Some(0));
    }
}
