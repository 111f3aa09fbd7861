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
    /// Links go first: no program may run without its maps.
    pub fn remove_all(&self) -> io::Result<usize> {
        let mut removed = 0;
        let versions = match fs::read_dir(&self.root) {
            Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        for version in &versions {
            for kind in ["links", "maps"] {
                removed += remove_files(&version.path().join(kind))?;
            }
        }
        // bpffs has no recursive removal of its own and the folders are empty now.
        fs::remove_dir_all(&self.root)?;
        Ok(removed)
    }
}

fn remove_files(folder: &Path) -> io::Result<usize> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mut removed = 0;
    for entry in entries {
        fs::remove_file(entry?.path())?;
        removed += 1;
    }
    Ok(removed)
}
