// SPDX-License-Identifier: Apache-2.0
//! What the agent needs of its host before it can load anything: the cgroup v2 root and a bpf file system.
//!
//! Called once at start. Invariant: an error says what is missing and the command that mends it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::{
    mount::{MsFlags, mount},
    sys::statfs::{BPF_FS_MAGIC, CGROUP2_SUPER_MAGIC, statfs},
    unistd::{SysconfVar, sysconf},
};
use tracing::info;

/// Where bpffs is mounted by convention.
pub const BPFFS: &str = "/sys/fs/bpf";

/// The initial pid namespace as `/proc/self/ns/pid` names it (`PROC_PID_INIT_INO` of the kernel).
pub const INITIAL_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Why the host cannot carry the data path.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 hierarchy is mounted; mount one (`mount -t cgroup2 none /sys/fs/cgroup`) or name it with --cgroup"
    )]
    NoCgroup2,
    /// The path given as cgroup root is something else.
    #[error("{0} is not in a cgroup v2 hierarchy; give --cgroup a directory below a cgroup2 mount")]
    NotCgroup2(PathBuf),
    /// The folder for pins cannot be on a bpf file system.
    #[error(
        "{path} is not on a bpf file system: {reason}; mount one (`mount -t bpf bpf {BPFFS}`) or name a folder on one with --pin-dir"
    )]
    NoBpffs {
        /// The folder for pins.
        path: PathBuf,
        /// What was tried and failed.
        reason: String,
    },
    /// A system call failed.
    #[error("{op} {path}: {cause}")]
    Io {
        /// What was done.
        op: &'static str,
        /// To what.
        path: PathBuf,
        /// With which result.
        cause: io::Error,
    },
}

/// The cgroup v2 root: `configured`, or the first mount of type cgroup2.
pub fn cgroup_root(configured: Option<&Path>) -> Result<PathBuf, HostError> {
    if let Some(path) = configured {
        let found = statfs(path).map_err(|errno| HostError::Io {
            op: "inspect",
            path: path.into(),
            cause: errno.into(),
        })?;
        return if found.filesystem_type() == CGROUP2_SUPER_MAGIC {
            Ok(path.into())
        } else {
            Err(HostError::NotCgroup2(path.into()))
        };
    }
    let mounts = "/proc/mounts";
    let table = fs::read_to_string(mounts).map_err(|cause| HostError::Io {
        op: "read",
        path: mounts.into(),
        cause,
    })?;
    first_cgroup2(&table).ok_or(HostError::NoCgroup2)
}

/// The mount point of the first cgroup2 entry of `/proc/mounts` (see `proc_pid_mounts(5)`).
fn first_cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (mount_point, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| mount_point.replace("\\040", " ").into())
    })
}

/// Release of the running kernel.
pub fn kernel_release() -> String {
    nix::sys::utsname::uname().map_or_else(
        |_| "unknown".into(),
        |uts| uts.release().to_string_lossy().into_owned(),
    )
}

/// Bytes of memory that this machine has; 0 if it does not tell.
pub fn memory() -> u64 {
    let ask = |variable| sysconf(variable).ok().flatten().unwrap_or_default();
    let bytes = ask(SysconfVar::_PHYS_PAGES).saturating_mul(ask(SysconfVar::PAGE_SIZE));
    bytes.unsigned_abs()
}

/// Sees to it that `pin_dir` can hold pins: creates it, and mounts bpffs at its usual place if nothing is there.
pub fn ensure_bpffs(pin_dir: &Path) -> Result<(), HostError> {
    if !on_bpffs(pin_dir) {
        if !pin_dir.starts_with(BPFFS) {
            let reason = format!("it is outside {BPFFS}");
            return Err(HostError::NoBpffs {
                path: pin_dir.into(),
                reason,
            });
        }
        mount(Some("bpf"), BPFFS, Some("bpf"), MsFlags::empty(), None::<&str>).map_err(|errno| {
            HostError::NoBpffs {
                path: pin_dir.into(),
                reason: format!("mounting one at {BPFFS} gave {errno}"),
            }
        })?;
        info!(path = BPFFS, "mounted a bpf file system");
    }
    Ok(())
}

/// Whether `path`, or its nearest ancestor that exists, is on a bpf file system.
pub fn on_bpffs(path: &Path) -> bool {
    path.ancestors()
        .find(|ancestor| ancestor.exists())
        .and_then(|ancestor| statfs(ancestor).ok())
        .is_some_and(|found| found.filesystem_type() == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_cgroup2_also_beside_version_1() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        assert_eq!(
            first_cgroup2(hybrid).unwrap(),
            Path::new("/sys/fs/cgroup/unified")
        );
        let escaped = "none /mnt/c\\040g cgroup2 rw 0 0";
        assert_eq!(first_cgroup2(escaped).unwrap(), Path::new("/mnt/c g"));
        assert_eq!(first_cgroup2("proc /proc proc rw 0 0"), None);
    }

    #[test]
    fn the_memory_is_that_of_procfs() {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let total = text.lines().next().unwrap().split_whitespace().nth(1).unwrap();
        assert_eq!(memory() / 1024, total.parse::<u64>().unwrap());
    }

    #[test]
    fn a_folder_elsewhere_is_refused_with_the_remedy() {
        let elsewhere = tempfile::tempdir().unwrap();
        let error = ensure_bpffs(elsewhere.path()).unwrap_err().to_string();
        assert!(
            error.contains("not on a bpf file system") && error.contains("--pin-dir"),
            "{error}"
        );
        let error = cgroup_root(Some(elsewhere.path())).unwrap_err().to_string();
        assert!(error.contains("not in a cgroup v2 hierarchy"), "{error}");
    }
}
