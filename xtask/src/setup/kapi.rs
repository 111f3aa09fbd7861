// SPDX-License-Identifier: Apache-2.0
//! The API server of the tests (`tests/kapi`), built once from Debian's sources of the libraries of the real one.
//!
//! ```text
//! tests/kapi/packages.txt --apt (sid, unpacked beside, not installed)--> Go, k8s.io/*
//! tests/kapi/*.go --openapi-gen, go build--> cache/kapi-HASH/kapi
//! ```
//!
//! `packages.txt` is the part of their dependencies that it is really made of. Debian's names move on; where one is gone, all of them are taken.
//! The folder in the cache is named after these files, and has a copy of them once it is whole: that copy is how the tests find it without
//! this program. Invariant: what it is built with is gone when it is there.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result};

use crate::{
    process,
    setup::{
        apt::{self, Release},
        outcome::{Mode, Outcome},
    },
    workspace,
};

const PROGRAM: &str = "kapi";
/// Made of these, in this order: code, and what it is built with.
const SOURCES: [&str; 4] = ["access.go", "main.go", "resources.go", "packages.txt"];
/// The copy of them.
const MARKER: &str = "sources.txt";
/// Where Debian has all of it.
const RELEASE: &str = "sid";
/// Longest time of each step of the build, seconds: three minutes of processor time, on a busy machine.
const PATIENCE: &str = "900";
/// What it says of its version: clients and charts ask.
const VERSION: &str = "-s -w -X k8s.io/component-base/version.gitVersion=v1.36.0 \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";
/// Packages that depend on all that it is built with.
const ROOTS: [&str; 3] = [
    "golang-k8s-apiextensions-apiserver-dev",
    "golang-k8s-apiserver-dev",
    "golang-k8s-kube-openapi-dev",
];
/// Packages with types that the schemas are made of.
const SCHEMAS: [&str; 13] = [
    "k8s.io/api/core/v1",
    "k8s.io/api/discovery/v1",
    "k8s.io/api/networking/v1",
    "k8s.io/api/apps/v1",
    "k8s.io/api/policy/v1",
    "k8s.io/api/coordination/v1",
    "k8s.io/api/rbac/v1",
    "k8s.io/api/events/v1",
    "k8s.io/apimachinery/pkg/apis/meta/v1",
    "k8s.io/apimachinery/pkg/runtime",
    "k8s.io/apimachinery/pkg/version",
    "k8s.io/apimachinery/pkg/api/resource",
    "k8s.io/apimachinery/pkg/util/intstr",
];

/// Builds it unless it is there and starts.
pub(crate) fn step(mode: Mode) -> Outcome {
    let remedy = "`cargo xtask setup` on a Debian system that reaches its mirror";
    let wanted = match sources() {
        Ok(text) => text,
        Err(error) => return Outcome::missing(format!("{error:#}"), "check out the whole repository"),
    };
    let folder = match folder(&wanted) {
        Ok(folder) => folder,
        Err(error) => return Outcome::missing(format!("{error:#}"), "set HOME"),
    };
    if works(&folder, &wanted) {
        return Outcome::Ready(folder.display().to_string());
    }
    if mode == Mode::Check || !apt::present() {
        return Outcome::missing(folder.display().to_string(), remedy);
    }
    match install(&folder, &wanted) {
        Ok(seconds) => Outcome::Installed(format!("{} ({seconds} s)", folder.display())),
        Err(error) => Outcome::missing(format!("{error:#}"), remedy),
    }
}

fn source_folder() -> PathBuf {
    workspace::root().join("tests/kapi")
}

fn sources() -> Result<String> {
    SOURCES
        .iter()
        .map(|name| {
            let path = source_folder().join(name);
            fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
        })
        .collect()
}

fn folder(sources: &str) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    sources.hash(&mut hasher);
    Ok(workspace::cache_dir()?.join(format!("{PROGRAM}-{:016x}", hasher.finish())))
}

fn works(folder: &Path, sources: &str) -> bool {
    fs::read_to_string(folder.join(MARKER)).is_ok_and(|marker| marker == sources)
        && process::capture(Command::new(folder.join(PROGRAM)).arg("--help")).is_ok()
}

/// Builds it and says how long that took.
fn install(folder: &Path, sources: &str) -> Result<u64> {
    let started = Instant::now();
    println!("building the API server of the tests: once, about three minutes of processor time");
    let work = folder.with_extension(format!("build-{}", std::process::id()));
    let built = build(&work).and_then(|program| {
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::rename(program, folder.join(PROGRAM)).context("keep the program")?;
        fs::write(folder.join(MARKER), sources).context("mark it as whole")
    });
    if work.exists() {
        fs::remove_dir_all(&work).with_context(|| format!("remove {}", work.display()))?;
    }
    built.map(|()| started.elapsed().as_secs())
}

/// Builds it in `work`: with the packages of the list, or, where names have changed, with all that the libraries depend on, which is
/// four times as much to fetch.
fn build(work: &Path) -> Result<PathBuf> {
    let release = Release::open(RELEASE, &work.join("apt"))?;
    let known = release.names("golang-")?;
    let go = newest_go(&known).with_context(|| format!("Debian {RELEASE} has no Go"))?;
    let go = [format!("{go}-go"), format!("{go}-src")];
    let text = fs::read_to_string(source_folder().join("packages.txt"))?;
    let listed: Vec<&str> = text.lines().collect();
    let gone: Vec<&str> = listed
        .iter()
        .copied()
        .filter(|name| !known.contains(*name))
        .collect();
    let why = if gone.is_empty() {
        let packages: Vec<&str> = go.iter().map(String::as_str).chain(listed).collect();
        match build_with(work, &release, &packages) {
            Ok(program) => return Ok(program),
            Err(error) => format!("{error:#}"),
        }
    } else {
        format!("Debian {RELEASE} has no {} any more", gone.join(", "))
    };
    eprintln!(
        "the packages of tests/kapi/packages.txt are not enough ({why}); trying all that the libraries depend on"
    );
    let roots: Vec<&str> = go.iter().map(String::as_str).chain(ROOTS).collect();
    let all = release.needed_by(&roots)?;
    let sources: Vec<&str> = all
        .iter()
        .map(String::as_str)
        .filter(|name| name.starts_with("golang-"))
        .collect();
    build_with(work, &release, &sources)
}

/// `golang-1.N` with the largest `N`.
fn newest_go(known: &BTreeSet<String>) -> Option<String> {
    let minor =
        |name: &String| -> Option<u32> { name.strip_prefix("golang-1.")?.strip_suffix("-go")?.parse().ok() };
    let newest = known.iter().filter_map(minor).max()?;
    Some(format!("golang-1.{newest}"))
}

/// Builds it with the sources in `packages`.
fn build_with(work: &Path, release: &Release, packages: &[&str]) -> Result<PathBuf> {
    let root = work.join("root");
    if root.exists() {
        fs::remove_dir_all(&root).with_context(|| format!("remove {}", root.display()))?;
    }
    release.unpack(packages, &root)?;
    let go = Go::new(work, &root)?;
    let own = work.join("go/src").join(PROGRAM);
    fs::create_dir_all(&own)?;
    for name in &SOURCES[..3] {
        fs::copy(source_folder().join(name), own.join(name))?;
    }
    let generator = work.join("openapi-gen");
    go.build(&generator, "k8s.io/kube-openapi/cmd/openapi-gen")?;
    let mut generate = go.command(&generator);
    generate
        .args(["--output-dir", ".", "--output-pkg", "main"])
        .args(["--output-file", "zz_openapi.go", "--report-filename", "/dev/null"])
        .args(["--go-header-file", "/dev/null"])
        .args(SCHEMAS)
        .current_dir(&own);
    process::run(&mut generate)?;
    let program = work.join(PROGRAM);
    go.build(&program, PROGRAM)?;
    Ok(program)
}

/// A Go that sees nothing but what was unpacked.
struct Go {
    program: PathBuf,
    variables: Vec<(&'static str, OsString)>,
}

impl Go {
    fn new(work: &Path, root: &Path) -> Result<Self> {
        let releases = fs::read_dir(root.join("usr/lib")).context("look for Go")?;
        let tree = releases
            .flatten()
            .map(|entry| entry.path())
            .find(|path| path.join("bin/go").is_file())
            .context("the packages have no Go")?;
        let libraries = root.join("usr/share/gocode");
        let workspaces = std::env::join_paths([work.join("go"), libraries])?;
        Ok(Self {
            program: tree.join("bin/go"),
            variables: vec![
                ("GOROOT", tree.into()),
                ("GOPATH", workspaces),
                ("GOCACHE", work.join("objects").into()),
                ("GOENV", "off".into()),
                ("GOFLAGS", "".into()),
                ("GO111MODULE", "off".into()),
                ("GOTOOLCHAIN", "local".into()),
                ("GOPROXY", "off".into()),
                ("CGO_ENABLED", "0".into()),
            ],
        })
    }

    /// `program` with this Go in its environment, for at most [`PATIENCE`].
    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("timeout");
        let folder = self.program.parent().map(Path::to_path_buf);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = folder.into_iter().chain(std::env::split_paths(&path));
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .arg(PATIENCE)
            .arg(program);
        command
    }

    fn build(&self, program: &Path, package: &str) -> Result<()> {
        let mut command = self.command(&self.program);
        command
            .args(["build", "-ldflags", VERSION, "-o"])
            .arg(program)
            .arg(package);
        process::run(&mut command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_go_is_taken() {
        let known = [
            "golang-1.9-go",
            "golang-1.27-go",
            "golang-1.27-src",
            "golang-1.x-go",
            "golang-go",
        ];
        let known = known.map(str::to_owned).into();
        assert_eq!(newest_go(&known).as_deref(), Some("golang-1.27"));
        assert_eq!(newest_go(&BTreeSet::new()), None);
    }
}
