// SPDX-License-Identifier: Apache-2.0
//! The limit on open files of this process; raised once by each binary that holds many sockets.

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// More than any test opens, and no more than the kernel's default `fs.nr_open`.
const WANTED: u64 = 1 << 20;

/// Raises the limit on open files as far as this process may: beyond its hard limit only with `CAP_SYS_RESOURCE`.
pub(crate) fn raise() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit on open files")?;
    if soft >= WANTED || setrlimit(Resource::RLIMIT_NOFILE, WANTED, hard.max(WANTED)).is_ok() {
        return Ok(());
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
        .with_context(|| format!("raise the limit on open files from {soft} to {hard}"))
}
