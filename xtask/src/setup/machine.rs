// SPDX-License-Identifier: Apache-2.0
//! Whether this machine can run the end-to-end tests: privileges, kernel, BTF, cgroup v2, bpffs, network namespaces.
//!
//! Called by `setup` and `test`; `build` works without any of it. Nothing here changes the machine beyond a probe that
//! is undone at once, so both modes do the same.

use std::{fs, path::Path, process::Command};

use crate::{
    process,
    setup::outcome::{Mode, Outcome},
};

/// BPF timers, ring buffers, `bpf_set_retval` and `tp_btf` as the kernel programs use them.
const OLDEST_KERNEL: (u32, u32) = (5, 18);

/// Bit and name of each capability that the tests need, as in `linux/capability.h`.
const CAPABILITIES: [(u32, &str); 4] = [
    (12, "CAP_NET_ADMIN"),
    (21, "CAP_SYS_ADMIN"),
    (38, "CAP_PERFMON"),
    (39, "CAP_BPF"),
];

/// Whether the effective user is root.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    // Real, effective, saved and file-system id.
    field(&status, "Uid:").and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Root, with the capabilities that containers like to take away.
pub(crate) fn privileges(_: Mode) -> Outcome {
    if !is_root() {
        return Outcome::missing("root", "`sudo -E env PATH=\"$PATH\" cargo xtask test`");
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let lacking = lacking_capabilities(&status);
    if lacking.is_empty() {
        return Outcome::Ready("root with network, BPF and system administration".to_owned());
    }
    Outcome::missing(
        lacking.join(", "),
        "run outside a container, or in one started with --privileged",
    )
}

/// A kernel that is new enough.
pub(crate) fn kernel(_: Mode) -> Outcome {
    let (major, minor) = OLDEST_KERNEL;
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    match parse_kernel(release) {
        Some(version) if version >= OLDEST_KERNEL => Outcome::Ready(format!("Linux {release}")),
        _ => Outcome::missing(
            format!("Linux {major}.{minor} (this is {release})"),
            "boot a newer kernel",
        ),
    }
}

/// The kernel's type information, which CO-RE relocations and `tp_btf` need.
pub(crate) fn btf(_: Mode) -> Outcome {
    let file = "/sys/kernel/btf/vmlinux";
    if Path::new(file).exists() {
        return Outcome::Ready(file.to_owned());
    }
    Outcome::missing(file, "boot a kernel built with CONFIG_DEBUG_INFO_BTF=y")
}

/// A cgroup v2 hierarchy in which groups can be made.
pub(crate) fn cgroup(_: Mode) -> Outcome {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let Some(mount) = mount_of(&mounts, "cgroup2") else {
        return Outcome::missing(
            "no cgroup v2 mount in /proc/self/mounts",
            "`mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified`",
        );
    };
    let probe = Path::new(mount).join(probe_name());
    match fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe)) {
        Ok(()) => Outcome::Ready(mount.to_owned()),
        Err(error) => Outcome::missing(
            format!("groups in {mount}: {error}"),
            "run as root, in a container with --privileged and a writable cgroup mount",
        ),
    }
}

/// A BPF file system, mounted or mountable: the agent mounts it where it is not.
pub(crate) fn bpffs(_: Mode) -> Outcome {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if let Some(mount) = mount_of(&mounts, "bpf") {
        return Outcome::Ready(mount.to_owned());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if knows_bpffs(&known) {
        return Outcome::Ready("not mounted; the agent mounts it at /sys/fs/bpf".to_owned());
    }
    Outcome::missing(
        "no file system `bpf` in /proc/filesystems",
        "boot a kernel built with CONFIG_BPF_SYSCALL=y",
    )
}

/// The right to make network namespaces.
pub(crate) fn netns(_: Mode) -> Outcome {
    let Some(ip) = process::find("ip") else {
        return Outcome::missing("cannot be probed without `ip`", "install iproute2");
    };
    let name = probe_name();
    let netns = |verb| process::capture(Command::new(&ip).args(["netns", verb, &name]));
    let made = netns("add");
    // Also after a failure: `ip` makes the mount point before the namespace.
    let removed = netns("del");
    match made.and(removed) {
        Ok(_) => Outcome::Ready("can be made and removed".to_owned()),
        Err(error) => Outcome::missing(
            format!("{error:#}"),
            "run as root, in a container with --privileged",
        ),
    }
}

fn probe_name() -> String {
    format!("nodemesh-probe-{}", std::process::id())
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .map(str::trim)
}

fn lacking_capabilities(status: &str) -> Vec<&'static str> {
    let effective = field(status, "CapEff:")
        .and_then(|mask| u64::from_str_radix(mask, 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(bit, _)| effective >> bit & 1 == 0)
        .map(|(_, name)| *name)
        .collect()
}

fn parse_kernel(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn mount_of<'a>(mounts: &'a str, kind: &str) -> Option<&'a str> {
    let mut entries = mounts.lines().map(|line| line.split(' '));
    entries
        .find_map(|mut words| Some((words.nth(1)?, words.next()?)).filter(|entry| entry.1 == kind))
        .map(|entry| entry.0)
}

fn knows_bpffs(filesystems: &str) -> bool {
    filesystems
        .lines()
        .any(|line| line.split_whitespace().next_back() == Some("bpf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_compare_by_number() {
        for (release, expected) in [
            ("6.18.44-fc-v595", Some((6, 18))),
            ("5.4.0-generic", Some((5, 4))),
            ("6.9-rc1", Some((6, 9))),
            ("", None),
        ] {
            assert_eq!(parse_kernel(release), expected, "{release}");
        }
        assert!(parse_kernel("5.4.0").unwrap() < OLDEST_KERNEL);
        assert!(parse_kernel("6.1.0").unwrap() > OLDEST_KERNEL);
    }

    #[test]
    fn the_mount_is_found_by_its_type() {
        let mounts = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\ncgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_of(mounts, "cgroup2"), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_of(mounts, "bpf"), None);
        assert!(knows_bpffs("nodev\tsysfs\nnodev\tbpf\n\text4\n"));
        assert!(!knows_bpffs("nodev\tbpffoo\n"));
    }

    #[test]
    fn capabilities_are_read_from_the_effective_mask() {
        assert!(lacking_capabilities("CapEff:\t000001ffffffffff\n").is_empty());
        // Docker's default set has none of them.
        let names = CAPABILITIES.map(|(_, name)| name);
        assert_eq!(
            lacking_capabilities("CapPrm:\t000001ffffffffff\nCapEff:\t00000000a80425fb\n"),
            names
        );
        assert_eq!(lacking_capabilities(""), names);
    }
}
