// SPDX-License-Identifier: Apache-2.0
//! Reads the manifest files, parsing again only those that changed. Used by `source` only.
//!
//! Invariant: a file is taken as unchanged only if inode, size and both times are what they were, and if it could not have
//! changed once more within the granularity of these times.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, Metadata},
    io, mem,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nodemesh_model::{Manifest, Resources};

/// Coarser than the times of any local file system: a tick of the kernel.
const GRANULARITY: Duration = Duration::from_millis(50);

/// The files of a source.
#[derive(Debug)]
pub struct ManifestFiles {
    path: PathBuf,
    parsed: BTreeMap<PathBuf, Parsed>,
    /// Whether a file was parsed, or could not be read, since the manifests were put together last.
    unmerged: bool,
}

#[derive(Debug)]
struct Parsed {
    stamp: Stamp,
    /// Whether a later change would have another stamp; if not, the text is compared.
    settled: bool,
    /// Kept so that of a later version only the documents that changed are parsed.
    text: String,
    manifest: Manifest,
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Stamp {
    /// Whether the last change is so long ago that another one would have another time.
    fn is_settled(&self) -> bool {
        let (seconds, nanoseconds) = self.changed;
        let changed = Duration::new(
            seconds.unsigned_abs(),
            u32::try_from(nanoseconds).unwrap_or_default(),
        );
        SystemTime::now()
            .duration_since(UNIX_EPOCH + changed)
            .is_ok_and(|age| age > GRANULARITY)
    }
}

impl ManifestFiles {
    /// The file `path`, or the manifests in the directory `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            parsed: BTreeMap::new(),
            unmerged: false,
        }
    }

    /// Reads all files, or gives `None` if none has changed; the errors are lines that begin with the file's name.
    ///
    /// Files in `unfinished` (canonical paths) are taken as they were: somebody is writing them.
    pub fn read(&mut self, unfinished: &BTreeSet<PathBuf>) -> Result<Option<Resources>, Vec<String>> {
        let names = self
            .refresh_all(unfinished)
            .inspect_err(|_| self.unmerged = true)?;
        let former = self.parsed.len();
        self.parsed.retain(|name, _| names.binary_search(name).is_ok());
        let unmerged = mem::take(&mut self.unmerged);
        if !unmerged && self.parsed.len() == former {
            return Ok(None);
        }
        let labels: Vec<String> = names.iter().map(|name| name.display().to_string()).collect();
        let files = labels
            .iter()
            .zip(&names)
            .filter_map(|(label, name)| Some((label.as_str(), &self.parsed.get(name)?.manifest)));
        let lines = |text: String| text.lines().map(str::to_owned).collect::<Vec<_>>();
        Resources::merge(files)
            .map(Some)
            .map_err(|invalid| lines(invalid.to_string()))
    }

    /// Parses the files that changed and returns the names of all.
    fn refresh_all(&mut self, unfinished: &BTreeSet<PathBuf>) -> Result<Vec<PathBuf>, Vec<String>> {
        let names = self.names().map_err(|error| vec![describe(&self.path, &error)])?;
        if names.is_empty() {
            let path = self.path.display();
            return Err(vec![format!(
                "{path}: no *.yaml or *.yml file is in it; put one with a comment there if that is meant"
            )]);
        }
        let is_finished =
            |name: &&PathBuf| !fs::canonicalize(name).is_ok_and(|path| unfinished.contains(&path));
        let finished: Vec<&PathBuf> = names.iter().filter(is_finished).collect();
        let errors: Vec<String> = finished
            .into_iter()
            .filter_map(|name| self.refresh(name).err())
            .collect();
        if errors.is_empty() { Ok(names) } else { Err(errors) }
    }

    /// The files to read, sorted.
    fn names(&self) -> io::Result<Vec<PathBuf>> {
        if !fs::metadata(&self.path)?.is_dir() {
            return Ok(vec![self.path.clone()]);
        }
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.path();
            if is_manifest(&name) && fs::metadata(&name).is_ok_and(|found| found.is_file()) {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Parses a file if it changed.
    fn refresh(&mut self, name: &Path) -> Result<(), String> {
        let metadata = fs::metadata(name).map_err(|error| describe(name, &error))?;
        let stamp = Stamp::from(&metadata);
        let looks_unchanged = self.parsed.get(name).is_some_and(|parsed| parsed.stamp == stamp);
        if looks_unchanged && self.parsed.get(name).is_some_and(|parsed| parsed.settled) {
            return Ok(());
        }
        let settled = stamp.is_settled();
        let text = fs::read_to_string(name).map_err(|error| describe(name, &error))?;
        if text.is_empty() {
            // What a writer that died between truncating and writing leaves behind.
            return Err(format!(
                "{}: the file is empty; write a comment into it if that is meant",
                name.display()
            ));
        }
        if let Some(parsed) = self.parsed.get_mut(name)
            && looks_unchanged
            && parsed.text == text
        {
            parsed.settled = settled;
            return Ok(());
        }
        let manifest = match self.parsed.remove(name) {
            Some(former) => Manifest::parse_again(&text, &former.text, &former.manifest),
            None => Manifest::parse(&text),
        };
        self.parsed.insert(
            name.into(),
            Parsed {
                stamp,
                settled,
                text,
                manifest,
            },
        );
        self.unmerged = true;
        Ok(())
    }
}

/// Whether a file in a directory of manifests is one: `*.yaml` or `*.yml`, not hidden.
pub fn is_manifest(name: &Path) -> bool {
    let hidden = name
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    !hidden
        && name
            .extension()
            .is_some_and(|extension| extension == "yaml" || extension == "yml")
}

fn describe(path: &Path, error: &io::Error) -> String {
    format!(
        "{}: {error}; --config must name a readable file or directory of *.yaml files",
        path.display()
    )
}

#[cfg(test)]
mod tests;
