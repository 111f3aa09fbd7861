// SPDX-License-Identifier: Apache-2.0
//! Where the maps and links live in bpffs, so that they outlive the agent: `<root>/v<ABI_VERSION>/{maps,links}/<name>`.
//!
//! Called by the loader, by `attach` and by `cleanup`. Invariant: removing a link's file is what detaches its program;
//! nothing else in the agent does.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nodemesh_abi::ABI_VERSION;

/// Default folder for pins.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/nodemesh";

/// The folder for the pins of this version of the ABI.
#[derive(Clone, Debug)]
pub struct PinRoot {
    root: PathBuf,
}

impl PinRoot {
    /// The pins below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder that holds every version.
    pub fn path(&self) -> &Path {
        &self.root
    }

    fn version(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}"))
    }

    /// Where the map `name` is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.version().join("maps").join(name)
    }

    /// Where the link of the program `name` is pinned.
    pub fn link(&self, name: &str) -> PathBuf {
        self.version().join("links").join(name)
    }

    /// Creates the folders.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.map("").as_path())?;
        fs::create_dir_all(self.link("").as_path())
    }

    /// Detaches every program and frees every map, of this and any other version; returns how many pins there were.
    ///
    /// Links go first: no program may run without its maps. Leaves alone what is not ours, and the folders that hold it.
    pub fn remove_all(&self) -> io::Result<usize> {
        let mut removed = 0;
        for version in entries(&self.root)?.into_iter().filter(|path| is_version(path)) {
            for kind in ["links", "maps"] {
                let folder = version.join(kind);
                for pin in entries(&folder)? {
                    fs::remove_file(pin)?;
                    removed += 1;
                }
                remove_if_empty(&folder)?;
            }
            remove_if_empty(&version)?;
        }
        remove_if_empty(&self.root)?;
        Ok(removed)
    }
}

/// Whether `path` is the folder of a version: `v` and a number.
fn is_version(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    name.strip_prefix('v')
        .is_some_and(|number| number.parse::<u32>().is_ok())
}

/// What is in a folder; nothing if it is not there.
fn entries(folder: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(folder) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Removes a folder unless it is not there or holds something.
pub(crate) fn remove_if_empty(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error)
            if !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty
            ) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}
