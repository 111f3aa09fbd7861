// SPDX-License-Identifier: Apache-2.0
//! The last good state of the control plane in a file, from which the agent starts while no control plane answers.
//!
//! ```text
//! {"nodemesh_snapshot":1,"version":"417","resources":2}     header
//! {"apiVersion":"nodemesh.io/v1alpha1","kind":"Service",…}  one document per line
//! {"apiVersion":"nodemesh.io/v1alpha1","kind":"Workload",…}
//! crc32 1a2b3c4d                                            of everything above
//! ```
//!
//! Written by a task of `source::control`, read once at start. Invariant: the file is a whole snapshot or not there, since it is
//! complete on disk before it gets its name; one that is neither is set aside, not used in part.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nodemesh_model::{Manifest, Resource, Resources};
use serde::{Deserialize, Serialize};

/// Name of the file in the state directory.
const FILE: &str = "snapshot.jsonl";
/// What this agent writes and reads.
const FORMAT: u32 = 1;
const TRAILER: &str = "crc32 ";

/// The file.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    path: PathBuf,
}

/// What was in it.
#[derive(Debug)]
pub struct Snapshot {
    /// The control plane's version of this state, in its own words.
    pub version: String,
    /// The resources.
    pub resources: Resources,
}

#[derive(Serialize, Deserialize)]
struct Header {
    nodemesh_snapshot: u32,
    version: String,
    resources: usize,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The file system says no.
    #[error("{op} {path}: {cause}; --state-dir must name a folder that the agent may write to")]
    Io {
        /// What was done.
        op: &'static str,
        /// To what.
        path: String,
        /// With which result.
        cause: io::Error,
    },
    /// The content is not a snapshot of this format.
    #[error("{path} {problem}")]
    Unusable {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl SnapshotFile {
    /// The file in `state_dir`, which is created if it is not there.
    pub fn new(state_dir: &Path) -> Result<Self, SnapshotError> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(state_dir)
            .map_err(|cause| failed("create", state_dir, cause))?;
        Ok(Self {
            path: state_dir.join(FILE),
        })
    }

    /// The file in `state_dir`, for who only reads: nothing is created.
    pub fn at(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads it; `None` if there is none.
    pub fn read(&self) -> Result<Option<Snapshot>, SnapshotError> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|cause| failed("read", &self.path, cause))?,
        };
        parse(&text).map(Some).map_err(|problem| SnapshotError::Unusable {
            path: self.path.display().to_string(),
            problem,
        })
    }

    /// Gives the file another name, so that it can be looked at and is not read again; returns that name.
    pub fn set_aside(&self) -> Result<PathBuf, SnapshotError> {
        let aside = self.path.with_extension("jsonl.unusable");
        fs::rename(&self.path, &aside).map_err(|cause| failed("set aside", &self.path, cause))?;
        Ok(aside)
    }

    /// Writes it: after this the file is the new one even if the machine loses power.
    pub fn write(&self, version: &str, resources: &Resources) -> Result<(), SnapshotError> {
        let next = self.path.with_extension("jsonl.next");
        let io = |op, path: &Path| {
            let path = path.to_owned();
            move |cause| failed(op, &path, cause)
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&next)
            .map_err(io("create", &next))?;
        let mut out = Checked {
            inner: BufWriter::new(file),
            sum: crc32fast::Hasher::new(),
        };
        write(&mut out, version, resources).map_err(io("write", &next))?;
        let file = out
            .inner
            .into_inner()
            .map_err(|error| failed("write", &next, error.into_error()))?;
        file.sync_all().map_err(io("write", &next))?;
        fs::rename(&next, &self.path).map_err(io("rename", &next))?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io("write", folder))
    }
}

fn failed(op: &'static str, path: &Path, cause: io::Error) -> SnapshotError {
    SnapshotError::Io {
        op,
        path: path.display().to_string(),
        cause,
    }
}

/// A writer that sums up what goes through it.
struct Checked<W> {
    inner: W,
    sum: crc32fast::Hasher,
}

impl<W: Write> Write for Checked<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.sum.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn write(out: &mut Checked<impl Write>, version: &str, resources: &Resources) -> io::Result<()> {
    let services = resources.services().values().cloned().map(Resource::Service);
    let workloads = resources.workloads().values().cloned().map(Resource::Workload);
    let policies = resources
        .policies()
        .values()
        .cloned()
        .map(Resource::TrafficPolicy);
    let access = resources
        .access_policies()
        .values()
        .cloned()
        .map(Resource::AccessPolicy);
    let header = Header {
        nodemesh_snapshot: FORMAT,
        version: version.to_owned(),
        resources: services.len() + workloads.len() + policies.len() + access.len(),
    };
    serde_json::to_writer(&mut *out, &header)?;
    out.write_all(b"\n")?;
    for resource in services.chain(workloads).chain(policies).chain(access) {
        serde_json::to_writer(&mut *out, &resource.to_value())?;
        out.write_all(b"\n")?;
    }
    let sum = out.sum.clone().finalize();
    writeln!(out.inner, "{TRAILER}{sum:08x}")
}

fn parse(text: &[u8]) -> Result<Snapshot, String> {
    let (first, _) = split_line(text).ok_or("is cut off in its first line")?;
    let header: Header = serde_json::from_slice(first)
        .map_err(|_| "does not begin like a snapshot of the control plane's state".to_owned())?;
    if header.nodemesh_snapshot != FORMAT {
        return Err(format!(
            "has format {}; this agent reads format {FORMAT}",
            header.nodemesh_snapshot
        ));
    }
    let end = text
        .strip_suffix(b"\n")
        .and_then(|text| text.iter().rposition(|byte| *byte == b'\n'))
        .ok_or("is cut off")?;
    let (body, trailer) = text.split_at(end + 1);
    let sum = format!("{TRAILER}{:08x}\n", crc32fast::hash(body));
    if trailer != sum.as_bytes() {
        return Err("is cut off or damaged: its checksum is wrong".to_owned());
    }
    let mut rest = split_line(body).map(|(_, rest)| rest).unwrap_or_default();
    let (mut count, mut wrong) = (0, None);
    // One at a time: as values all of them would take ten times the memory that they take in the end.
    let documents = std::iter::from_fn(|| {
        let (line, next) = split_line(rest)?;
        rest = next;
        count += 1;
        let document = serde_json::from_slice(line);
        document.map_err(|error| wrong = Some(error)).ok()
    });
    let manifest = Manifest::from_values(documents);
    if let Some(error) = wrong {
        return Err(format!("has a wrong document: {error}"));
    }
    if count != header.resources {
        return Err(format!("has {count} resources in place of {}", header.resources));
    }
    let resources = Resources::merge([("snapshot", &manifest)])
        .map_err(|invalid| format!("holds what this agent refuses: {invalid}"))?;
    Ok(Snapshot {
        version: header.version,
        resources,
    })
}

/// The first line, without its end, and the rest.
fn split_line(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = text.iter().position(|byte| *byte == b'\n')?;
    Some((&text[..end], &text[end + 1..]))
}

#[cfg(test)]
mod tests;
