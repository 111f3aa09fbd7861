// SPDX-License-Identifier: Apache-2.0
//! The limit on open files of this process; called once by each binary that holds many sockets.

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the soft limit on open files to the hard limit.
pub(crate) fn raise() -> anyhow::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("read the limit on open files")?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
            .with_context(|| format!("raise the limit on open files from {soft} to {hard}"))?;
    }
    Ok(())
}
