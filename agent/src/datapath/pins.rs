// SPDX-License-Identifier: Apache-2.0
//! Where the maps and links live in bpffs, so that they outlive the agent: `<root>/v<ABI_VERSION>/{maps,links}/<name>`. The empty
//! folder `build-<number>` beside them tells of which build all attached programs are.
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

    fn build(&self, build: u64) -> PathBuf {
        self.version().join(format!("{BUILD}{build:016x}"))
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

    /// Whether all programs whose links are pinned are of this build.
    pub fn is_of(&self, build: u64) -> bool {
        self.build(build).is_dir()
    }

    /// From now on, links may be of any build.
    pub fn forget_build(&self) -> io::Result<()> {
        entries(&self.version())?
            .iter()
            .filter(|path| is_build(path))
            .try_for_each(|path| remove_if_empty(path))
    }

    /// All programs whose links are pinned are of this build.
    pub fn remember_build(&self, build: u64) -> io::Result<()> {
        fs::create_dir_all(self.build(build))
    }

    /// Detaches every program and frees every map, of this and any other version; returns how many pins there were.
    ///
    /// Leaves alone what is not ours, and the folders that hold it.
    pub fn remove_all(&self) -> io::Result<usize> {
        let mut removed = 0;
        for version in self.versions()? {
            removed += remove_version(&version)?;
        }
        remove_if_empty(&self.root)?;
        Ok(removed)
    }

    /// The same for every version but this one: what an agent of another version left, whose maps this one cannot read. Its
    /// connections stay; they are no longer counted.
    pub fn remove_other_versions(&self) -> io::Result<usize> {
        let own = self.version();
        let mut removed = 0;
        for version in self.versions()?.iter().filter(|path| **path != own) {
            removed += remove_version(version)?;
        }
        Ok(removed)
    }

    fn versions(&self) -> io::Result<Vec<PathBuf>> {
        let mut paths = entries(&self.root)?;
        paths.retain(|path| is_version(path));
        Ok(paths)
    }
}

/// Beginning of the name of the folder that tells of a build.
const BUILD: &str = "build-";

/// Removes the pins of a version; returns how many there were. Links go first: no program may run without its maps.
fn remove_version(version: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for kind in ["links", "maps"] {
        let folder = version.join(kind);
        for pin in entries(&folder)? {
            fs::remove_file(pin)?;
            removed += 1;
        }
        remove_if_empty(&folder)?;
    }
    for build in entries(version)?.iter().filter(|path| is_build(path)) {
        remove_if_empty(build)?;
    }
    remove_if_empty(version)?;
    Ok(removed)
}

/// Whether `path` is the folder that tells of a build.
fn is_build(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(BUILD))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Pins of the version `version`, two maps and a link, as files.
    fn fill(root: &Path, version: &str) {
        for (kind, name) in [("maps", "a"), ("maps", "b"), ("links", "c")] {
            fs::create_dir_all(root.join(version).join(kind)).unwrap();
            fs::write(root.join(version).join(kind).join(name), "").unwrap();
        }
    }

    #[test]
    fn another_version_goes_and_what_is_ours_or_strange_stays() {
        let folder = tempfile::tempdir().unwrap();
        let pins = PinRoot::new(folder.path());
        let own = format!("v{ABI_VERSION}");
        fill(folder.path(), &own);
        fill(folder.path(), "v1");
        fs::create_dir_all(folder.path().join("v1/build-01")).unwrap();
        fill(folder.path(), "vault");
        assert_eq!(pins.remove_other_versions().unwrap(), 3);
        let mut left: Vec<_> = entries(folder.path()).unwrap();
        left.sort();
        assert_eq!(left, [folder.path().join(&own), folder.path().join("vault")]);
        pins.remember_build(7).unwrap();
        assert_eq!(pins.remove_all().unwrap(), 3);
        assert_eq!(entries(folder.path()).unwrap(), [folder.path().join("vault")]);
    }

    #[test]
    fn a_build_is_known_until_it_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let pins = PinRoot::new(folder.path());
        pins.create().unwrap();
        assert!(!pins.is_of(7));
        pins.remember_build(7).unwrap();
        assert!(pins.is_of(7) && !pins.is_of(8));
        pins.forget_build().unwrap();
        assert!(!pins.is_of(7));
    }
}
