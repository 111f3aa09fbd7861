// SPDX-License-Identifier: Apache-2.0
//! Where the maps and links live in bpffs, so that they outlive the agent: `<root>/v<ABI_VERSION>/{maps,links}/<name>`. Empty folders
//! beside them, since bpffs holds no other files, tell of which build all attached programs are (`build-<number>`), and to agents of
//! other versions which layout each map has (`layouts/<name>-<base>-<since>`).
//!
//! Called by the loader, by `attach`, by `carry` and by `cleanup`. Invariant: removing a link's file is what detaches its program;
//! nothing else in the agent does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

use nodemesh_abi::ABI_VERSION;

use super::{
    programs::{PROGRAMS, ProgramSpec},
    shapes::{Layout, SHAPES},
};

/// Default folder for pins.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/nodemesh";

/// The folder for the pins of a version of the ABI.
#[derive(Clone, Debug)]
pub struct PinRoot {
    root: PathBuf,
    version: u32,
}

impl PinRoot {
    /// The pins of this build's version below `root`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            version: ABI_VERSION,
        }
    }

    /// Those of another version below the same folder.
    #[must_use]
    pub fn of_version(&self, version: u32) -> Self {
        Self {
            root: self.root.clone(),
            version,
        }
    }

    /// The folder that holds every version.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Which version of the ABI they are of.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The folder of the version.
    pub fn folder(&self) -> PathBuf {
        self.root.join(format!("v{}", self.version))
    }

    fn build(&self, build: u64) -> PathBuf {
        self.folder().join(format!("{BUILD}{build:016x}"))
    }

    /// Where the map `name` is pinned.
    pub fn map(&self, name: &str) -> PathBuf {
        self.folder().join("maps").join(name)
    }

    /// Where the link of the program `name` is pinned.
    pub fn link(&self, name: &str) -> PathBuf {
        self.folder().join("links").join(name)
    }

    /// Where the link of a program at the interface with this number is pinned.
    pub fn interface_link(&self, spec: &ProgramSpec, index: u32) -> PathBuf {
        self.link(&format!("{}_{index}", spec.name))
    }

    /// Numbers of the interfaces at which a link of a program is pinned.
    pub fn interfaces(&self, spec: &ProgramSpec) -> io::Result<BTreeSet<u32>> {
        let links = entries(&self.link(""))?;
        let names = links.iter().filter_map(|path| path.file_name()?.to_str());
        Ok(names.filter_map(|name| parse_interface(name, spec)).collect())
    }

    /// Where the link of a program is pinned, the first one of a program that has several; `None` if there is none of these.
    pub fn first_link(&self, spec: &ProgramSpec) -> io::Result<Option<PathBuf>> {
        if !spec.is_at_interfaces() {
            return Ok(Some(self.link(spec.name)));
        }
        let first = self.interfaces(spec)?.first().copied();
        Ok(first.map(|index| self.interface_link(spec, index)))
    }

    /// Creates the folders.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(self.map("").as_path())?;
        fs::create_dir_all(self.link("").as_path())
    }

    /// Number of links that are pinned.
    pub fn links(&self) -> io::Result<usize> {
        Ok(entries(&self.link(""))?.len())
    }

    /// Removes the pins of links whose names `is_used` does not know, which detaches them; gives their names.
    pub fn remove_links_but(&self, is_used: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
        let mut removed = Vec::new();
        for path in entries(&self.link(""))? {
            let name = path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            if !is_used(&name) {
                fs::remove_file(path)?;
                removed.push(name);
            }
        }
        Ok(removed)
    }

    /// Tells agents of other versions which layouts the maps have.
    pub fn remember_layouts(&self) -> io::Result<()> {
        for shape in SHAPES {
            let Layout { base, since } = shape.layout;
            fs::create_dir_all(self.layouts().join(format!("{}-{base}-{since}", shape.name)))?;
        }
        Ok(())
    }

    /// Which layouts the maps have, by name, as far as that was told.
    pub fn known_layouts(&self) -> io::Result<BTreeMap<String, Layout>> {
        let marks = entries(&self.layouts())?;
        let names = marks.iter().filter_map(|path| path.file_name()?.to_str());
        Ok(names.filter_map(parse_layout).collect())
    }

    fn layouts(&self) -> PathBuf {
        self.folder().join(LAYOUTS)
    }

    /// Whether all programs whose links are pinned are of this build.
    pub fn is_of(&self, build: u64) -> bool {
        self.build(build).is_dir()
    }

    /// From now on, links may be of any build.
    pub fn forget_build(&self) -> io::Result<()> {
        entries(&self.folder())?
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
            removed += version.remove()?;
        }
        remove_if_empty(&self.root)?;
        Ok(removed)
    }

    /// The pins of every other version.
    pub fn others(&self) -> io::Result<Vec<Self>> {
        let mut versions = self.versions()?;
        versions.retain(|pins| pins.version != self.version);
        Ok(versions)
    }

    fn versions(&self) -> io::Result<Vec<Self>> {
        let paths = entries(&self.root)?;
        let versions = paths.iter().filter_map(|path| parse_version(path));
        Ok(versions.map(|version| self.of_version(version)).collect())
    }

    /// Removes the pins of this version; returns how many there were. Links go first: no program may run without its maps.
    pub fn remove(&self) -> io::Result<usize> {
        let version = self.folder();
        let mut removed = 0;
        for kind in ["links", "maps"] {
            let folder = version.join(kind);
            for pin in entries(&folder)? {
                fs::remove_file(pin)?;
                removed += 1;
            }
            remove_if_empty(&folder)?;
        }
        let layouts = entries(&self.layouts())?;
        let builds = entries(&version)?.into_iter().filter(|path| is_build(path));
        for mark in layouts.into_iter().chain(builds) {
            remove_if_empty(&mark)?;
        }
        remove_if_empty(&self.layouts())?;
        remove_if_empty(&version)?;
        Ok(removed)
    }
}

/// Beginning of the name of the folder that tells of a build.
const BUILD: &str = "build-";

/// Name of the folder that tells of layouts.
const LAYOUTS: &str = "layouts";

/// What a folder `<name>-<base>-<since>` says.
fn parse_layout(mark: &str) -> Option<(String, Layout)> {
    let (rest, since) = mark.rsplit_once('-')?;
    let (name, base) = rest.rsplit_once('-')?;
    let (base, since) = (base.parse().ok()?, since.parse().ok()?);
    Some((name.to_owned(), Layout { base, since }))
}

/// Whether `name` is that of the pin of a link at an interface.
pub(super) fn is_interface_link(name: &str) -> bool {
    let mut specs = PROGRAMS.iter().filter(|spec| spec.is_at_interfaces());
    specs.any(|spec| parse_interface(name, spec).is_some())
}

/// The number in a name such as `flow_ingress_2`.
fn parse_interface(name: &str, spec: &ProgramSpec) -> Option<u32> {
    name.strip_prefix(spec.name)?.strip_prefix('_')?.parse().ok()
}

/// Whether `path` is the folder that tells of a build.
fn is_build(path: &Path) -> bool {
    path.file_name()
        .and_then(|name| name.to_str())
        .is_some_and(|name| name.starts_with(BUILD))
}

/// The version that the folder `path` is of: its name is `v` and a number.
fn parse_version(path: &Path) -> Option<u32> {
    let number = path.file_name()?.to_str()?.strip_prefix('v')?;
    let version = number.parse().ok()?;
    // Not `v03`, nor `v+3`.
    (format!("{version}") == number).then_some(version)
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
        let others = pins.others().unwrap();
        assert_eq!(others.iter().map(PinRoot::version).collect::<Vec<_>>(), [1]);
        assert_eq!((others[0].links().unwrap(), others[0].remove().unwrap()), (1, 3));
        let mut left: Vec<_> = entries(folder.path()).unwrap();
        left.sort();
        assert_eq!(left, [folder.path().join(&own), folder.path().join("vault")]);
        pins.remember_build(7).unwrap();
        pins.remember_layouts().unwrap();
        let settings = pins.known_layouts().unwrap()["settings"];
        assert_eq!((settings.base, settings.since), (3, 4));
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
