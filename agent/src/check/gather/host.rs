// SPDX-License-Identifier: Apache-2.0
//! The kernel and the file systems of the host. Invariant: what cannot be read is told as such, never as absent.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use nix::{
    sys::{
        resource::{Resource, getrlimit},
        statvfs::statvfs,
    },
    unistd::{AccessFlags, access},
};
use nodemesh_abi::ABI_VERSION;

use crate::{
    check::facts::{CgroupFacts, ClockFacts, FolderFacts, KernelFacts, MemlockFacts, PinFacts},
    config::DEFAULT_HTTP,
    datapath::{features, hooks, host, offsets},
};

/// Bit and name of each capability that the agent needs, as in `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];
/// Where network plugins are configured.
const CNI: &str = "/etc/cni/net.d";

pub(super) fn kernel() -> KernelFacts {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    KernelFacts {
        release: fs::read_to_string("/proc/sys/kernel/osrelease")
            .unwrap_or_default()
            .trim()
            .to_owned(),
        features: features::probe(),
        btf_error: offsets::sock_offsets().err().map(|error| error.to_string()),
        jit: number("/proc/sys/net/core/bpf_jit_enable"),
        lockdown: fs::read_to_string("/sys/kernel/security/lockdown")
            .ok()
            .and_then(|text| chosen(&text)),
        memlock: MemlockFacts {
            free: hooks::maps_are_free_of_the_limit(),
            limit: getrlimit(Resource::RLIMIT_MEMLOCK)
                .ok()
                .map(|(soft, _)| soft)
                .filter(|soft| *soft != u64::MAX),
        },
    }
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

pub(super) fn lacking_capabilities() -> Vec<&'static str> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    lacking(&status)
}

fn lacking(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective >> bit & 1 == 0)
        .map(|(_, name)| *name)
        .collect()
}

pub(super) fn cgroups(root: Result<PathBuf, String>) -> CgroupFacts {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let controllers = fs::read_to_string("/proc/cgroups").unwrap_or_default();
    CgroupFacts {
        root,
        mounts: mounts_of(&mounts, "cgroup2"),
        hybrid: !mounts_of(&mounts, "cgroup").is_empty(),
        socket_controllers: socket_controllers(&controllers),
    }
}

fn mounts_of(mounts: &str, kind: &str) -> Vec<String> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let (mount_point, found) = (fields.next()?, fields.next()?);
            (found == kind).then(|| mount_point.to_owned())
        })
        .collect()
}

/// `net_cls` and `net_prio` where they are in a hierarchy of version 1 with groups: `name hierarchy groups enabled` per line.
fn socket_controllers(controllers: &str) -> Vec<String> {
    controllers
        .lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let &[name, hierarchy, groups, _] = fields.as_slice() else {
                return None;
            };
            let is_used = hierarchy != "0" && groups.parse::<u32>().is_ok_and(|groups| groups > 1);
            (matches!(name, "net_cls" | "net_prio") && is_used).then(|| name.to_owned())
        })
        .collect()
}

pub(super) fn pins(folder: &Path) -> PinFacts {
    let own = format!("v{ABI_VERSION}");
    let versions: Vec<String> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| {
            name.strip_prefix('v')
                .is_some_and(|rest| rest.parse::<u32>().is_ok())
        })
        .collect();
    PinFacts {
        folder: folder.into(),
        on_bpffs: host::on_bpffs(folder),
        mountable: folder.starts_with(host::BPFFS) && lacking_capabilities().is_empty(),
        own: versions.contains(&own),
        others: versions.into_iter().filter(|version| *version != own).collect(),
    }
}

pub(super) fn network_plugins() -> Vec<String> {
    let mut plugins: Vec<String> = fs::read_dir(CNI)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .flat_map(|text| known_plugins(&text))
        .collect();
    plugins.sort();
    plugins.dedup();
    plugins
}

/// Plugins by the `type` that a configuration names, of those that are worth knowing.
fn known_plugins(text: &str) -> Vec<String> {
    let has = |kind: &str| {
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("\"type\"") {
            let value = after.trim_start().trim_start_matches(':').trim_start();
            if value.trim_start_matches('"').starts_with(kind) {
                return true;
            }
            rest = after;
        }
        false
    };
    let known = [
        ("cilium", "Cilium"),
        ("calico", "Calico"),
        ("istio-cni", "Istio CNI"),
        ("kmesh", "Kmesh"),
    ];
    known
        .into_iter()
        .filter(|(kind, _)| has(kind))
        .map(|(_, name)| name.to_owned())
        .collect()
}

pub(super) fn clock() -> ClockFacts {
    ClockFacts {
        now: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs(),
        synchronized: crate::datapath::clock::is_synchronized(),
    }
}

pub(super) fn folder(flag: &'static str, path: &Path) -> FolderFacts {
    let there = path.ancestors().find(|ancestor| ancestor.exists());
    let error = match there {
        Some(folder) if !folder.is_dir() => Some(format!("{} is not a folder", folder.display())),
        Some(folder) => access(folder, AccessFlags::W_OK | AccessFlags::X_OK)
            .err()
            .map(|errno| format!("{}: {}", folder.display(), errno.desc())),
        None => None,
    };
    FolderFacts {
        flag,
        path: path.into(),
        error,
        free: there
            .and_then(|folder| statvfs(folder).ok())
            .map(|found| found.blocks_available().saturating_mul(found.fragment_size())),
    }
}

/// Whether the agent could listen.
pub(super) fn http(address: Option<SocketAddr>) -> (String, Option<String>) {
    let address = address.map_or_else(|| DEFAULT_HTTP.to_owned(), |address| address.to_string());
    let error = TcpListener::bind(&address).err().map(|error| error.to_string());
    (address, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_effective_mask() {
        assert_eq!(lacking("CapEff:\t000001ffffffffff\n"), Vec::<&str>::new());
        assert_eq!(lacking("CapEff:\t000000c000001000\n"), ["CAP_SYS_ADMIN"]);
        assert_eq!(lacking(""), CAPABILITIES.map(|(_, name)| name));
    }

    #[test]
    fn version_1_beside_version_2_is_told_with_what_takes_sockets_away() {
        let mounts =
            "cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n";
        assert_eq!(mounts_of(mounts, "cgroup2"), ["/sys/fs/cgroup/unified"]);
        assert_eq!(mounts_of(mounts, "cgroup"), ["/sys/fs/cgroup/cpu"]);
        let controllers = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpu\t3\t9\t1\nnet_cls\t7\t4\t1\nnet_prio\t7\t1\t1\n";
        assert_eq!(socket_controllers(controllers), ["net_cls"]);
        assert!(socket_controllers("net_cls\t0\t80\t1\n").is_empty());
    }

    #[test]
    fn plugins_are_known_by_their_type() {
        let text = r#"{"plugins":[{"type": "calico"},{"type":"portmap"},{ "type" : "istio-cni"}]}"#;
        assert_eq!(known_plugins(text), ["Calico", "Istio CNI"]);
        assert_eq!(
            known_plugins(r#"{"name":"cilium","type":"cilium-cni"}"#),
            ["Cilium"]
        );
        assert!(known_plugins(r#"{"name":"calico","type":"bridge"}"#).is_empty());
    }

    #[test]
    fn a_folder_is_judged_by_its_nearest_ancestor() {
        let there = tempfile::tempdir().unwrap();
        let found = folder("--run-dir", &there.path().join("a/b"));
        assert!(found.error.is_none() && found.free.is_some());
        let file = there.path().join("file");
        fs::write(&file, "").unwrap();
        let found = folder("--run-dir", &file.join("a"));
        assert!(found.error.unwrap().ends_with("file is not a folder"));
    }

    #[test]
    fn the_chosen_mode_is_in_brackets() {
        assert_eq!(chosen("none [integrity] confidentiality\n").unwrap(), "integrity");
        assert_eq!(chosen("none"), None);
    }
}
