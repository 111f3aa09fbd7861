// SPDX-License-Identifier: Apache-2.0
//! Reads the manifest files, parsing again only those that changed. Used by `source` only.
//!
//! Invariant: a file is taken as unchanged only if inode, size and both times are what they were.

use std::{
    collections::BTreeMap,
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use nodemesh_model::{Manifest, Resources};

/// The files of a source.
#[derive(Debug)]
pub struct ManifestFiles {
    path: PathBuf,
    parsed: BTreeMap<PathBuf, Parsed>,
}

#[derive(Debug)]
struct Parsed {
    stamp: Stamp,
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

impl ManifestFiles {
    /// The file `path`, or the manifests in the directory `path`.
    pub fn new(path: &Path) -> Self {
        Self {
            path: path.into(),
            parsed: BTreeMap::new(),
        }
    }

    /// Reads all files, or gives `None` if none has changed; the errors are lines that begin with the file's name.
    pub fn read(&mut self) -> Result<Option<Resources>, Vec<String>> {
        let names = self.names().map_err(|error| vec![describe(&self.path, &error)])?;
        let mut errors = Vec::new();
        let mut changed = false;
        for name in &names {
            match self.refresh(name) {
                Ok(read) => changed |= read,
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let former = self.parsed.len();
        self.parsed.retain(|name, _| names.binary_search(name).is_ok());
        if !changed && self.parsed.len() == former {
            return Ok(None);
        }
        let labels: Vec<String> = names.iter().map(|name| name.display().to_string()).collect();
        let files = labels
            .iter()
            .zip(&names)
            .filter_map(|(label, name)| Some((label.as_str(), &self.parsed.get(name)?.manifest)));
        let merged = Resources::merge(files)
            .map_err(|invalid| invalid.to_string().lines().map(str::to_owned).collect::<Vec<_>>())?;
        Ok(Some(merged))
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

    /// Parses a file if it changed; true if it did.
    fn refresh(&mut self, name: &Path) -> Result<bool, String> {
        let metadata = fs::metadata(name).map_err(|error| describe(name, &error))?;
        let stamp = Stamp::from(&metadata);
        if self.parsed.get(name).is_some_and(|parsed| parsed.stamp == stamp) {
            return Ok(false);
        }
        let text = fs::read_to_string(name).map_err(|error| describe(name, &error))?;
        if text.is_empty() {
            // What a writer that died between truncating and writing leaves behind.
            return Err(format!(
                "{}: the file is empty; write a comment into it if that is meant",
                name.display()
            ));
        }
        let parsed = Manifest::parse(&text);
        let manifest = match self.parsed.remove(name) {
            Some(former) => parsed.sharing(&former.manifest),
            None => parsed,
        };
        self.parsed.insert(name.into(), Parsed { stamp, manifest });
        Ok(true)
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
