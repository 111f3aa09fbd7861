// SPDX-License-Identifier: Apache-2.0
//! Where the kubelet put the cgroup of each pod of this node. Called by `clients`, which knows pods by their UIDs.
//!
//! ```text
//! cgroupfs driver   kubepods[/burstable|/besteffort]/pod<UID>
//! systemd driver    kubepods.slice[/kubepods-burstable.slice]/kubepods-burstable-pod<UID with _ for ->.slice
//! ```
//!
//! Both may be below other cgroups (`--cgroup-root`, kind). Source: Kubernetes, pkg/kubelet/cm (`cgroup_manager_linux.go`,
//! `pod_container_manager_linux.go`). Invariant: containers of a pod are below its cgroup whatever runtime made them, so nothing
//! below a pod is looked at.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Levels below the root at which the kubelet's cgroups are looked for.
const DEPTH: usize = 6;
/// Names of the kubelet's own cgroups have one of these.
const MARKS: [&str; 4] = ["kubepods", "kubelet", "burstable", "besteffort"];

/// The cgroups of the pods below `root`, relative to it, by UID.
pub(super) fn scan(root: &Path) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    visit(root, Path::new(""), DEPTH, &mut found);
    found
}

/// What cannot be read is not there: cgroups come and go while they are looked at.
fn visit(root: &Path, at: &Path, depth: usize, found: &mut BTreeMap<String, PathBuf>) {
    let Ok(entries) = fs::read_dir(root.join(at)) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(uid) = pod_uid(name) {
            found.insert(uid, at.join(name));
        } else if depth > 1 && MARKS.iter().any(|mark| name.contains(mark)) {
            visit(root, &at.join(name), depth - 1, found);
        }
    }
}

/// The UID of the pod whose cgroup has `name`.
fn pod_uid(name: &str) -> Option<String> {
    if let Some(slice) = name.strip_suffix(".slice") {
        let (_, uid) = slice.rsplit_once("-pod")?;
        return Some(uid.replace('_', "-"));
    }
    name.strip_prefix("pod")
        .filter(|uid| !uid.is_empty())
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_found_in_the_layouts_of_both_drivers() {
        let layouts = [
            ("kubepods/pod0a-1", "0a-1"),
            ("kubepods/burstable/pod0a-2", "0a-2"),
            ("kubepods.slice/kubepods-pod0a_3.slice", "0a-3"),
            (
                "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod0a_4.slice",
                "0a-4",
            ),
            (
                "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod0a_5.slice",
                "0a-5",
            ),
        ];
        let root = tempfile::tempdir().unwrap();
        for (path, _) in layouts {
            fs::create_dir_all(root.path().join(path).join("cri-containerd-1.scope")).unwrap();
        }
        for other in [
            "system.slice/podman.service",
            "kubepods/burstable/podless",
            "user.slice/kubepods/x",
        ] {
            fs::create_dir_all(root.path().join(other)).unwrap();
        }
        let found = scan(root.path());
        for (path, uid) in layouts {
            assert_eq!(
                found.get(uid).map(PathBuf::as_path),
                Some(Path::new(path)),
                "{found:?}"
            );
        }
        assert_eq!(
            found.len(),
            layouts.len() + 1,
            "podless has the form of a UID: {found:?}"
        );
    }
}
