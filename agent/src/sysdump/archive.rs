// SPDX-License-Identifier: Apache-2.0
//! A `.tar.gz` of texts. Invariant: entries belong to nobody in particular and only their owner may read them.

use std::{
    io::Write,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use flate2::{Compression, write::GzEncoder};
use tar::{Builder, Header};

use super::parts::Part;

/// Writes `parts` into the folder `name`.
pub(super) fn write(name: &str, parts: &[Part], out: impl Write) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut archive = Builder::new(GzEncoder::new(out, Compression::default()));
    for part in parts {
        let mut header = Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(now.as_secs());
        let path = format!("{name}/{}", part.name);
        archive
            .append_data(&mut header, &path, part.text.as_bytes())
            .with_context(|| format!("write {path} into the archive"))?;
    }
    archive
        .into_inner()
        .and_then(GzEncoder::finish)
        .and_then(|mut out| out.flush())
        .context("write the archive")
}
