// SPDX-License-Identifier: Apache-2.0
//! `nodemesh sysdump`: what somebody else needs to find out what is wrong, in one archive.
//!
//! ```text
//! host, kernel, agent, files ─► parts ─► redact ─► tar.gz
//! ```
//!
//! Invariant: every part goes through [`redact`], and one that could not be had is an entry that says why: a broken agent gets an archive
//! too.

mod archive;
mod parts;
pub mod redact;

use std::{io::Write, path::PathBuf};

use anyhow::Result;

use crate::check::Scene;

/// What of the node is written.
#[derive(Clone, Debug)]
pub struct Contents {
    /// Where to look, as for `nodemesh check`.
    pub scene: Scene,
    /// Folder of the agent's admin socket.
    pub run_dir: PathBuf,
    /// Name of the folder in the archive.
    pub name: String,
    /// Most connections that are listed.
    pub connections: usize,
}

/// Writes the archive; returns how many parts it has.
pub fn write(contents: &Contents, out: impl Write) -> Result<usize> {
    let parts = parts::gather(contents);
    archive::write(&contents.name, &parts, out)?;
    Ok(parts.len())
}
