// SPDX-License-Identifier: Apache-2.0
//! Where the programs are: named by the environment, as `cargo xtask test` does, or where `cargo xtask setup` put them.
//!
//! Invariant: a program that is not there is a panic that says how to get it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The interpreter with the packages of `tests/real/requirements.txt`.
const PYTHON: &str = "NODEMESH_PYTHON";
/// The folder with `prometheus` and `promtool`.
const PROMETHEUS_DIR: &str = "NODEMESH_PROMETHEUS_DIR";
const REQUIREMENTS: &str = include_str!("../../real/requirements.txt");
/// What the API server is built of, in the order of `cargo xtask setup`.
const KAPI: [&str; 4] = [
    include_str!("../../kapi/access.go"),
    include_str!("../../kapi/main.go"),
    include_str!("../../kapi/resources.go"),
    include_str!("../../kapi/packages.txt"),
];
const REMEDY: &str = "`cargo xtask setup` installs it";

/// The Python that runs the scripts.
pub fn python() -> PathBuf {
    from_environment(PYTHON)
        .or_else(|| Some(environment(REQUIREMENTS)?.join("bin/python")))
        .unwrap_or_else(|| panic!("no Python with the packages of the tests: {REMEDY}"))
}

/// The Python with Helm's library.
pub fn deploy_python() -> PathBuf {
    let requirements = include_str!("../../../deploy/check/requirements.txt");
    let folder = environment(requirements);
    let folder = folder.unwrap_or_else(|| panic!("no Python with Helm's library: {REMEDY}"));
    folder.join("bin/python")
}

/// A script of `tests/real`.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("real").join(name)
}

/// A program of Prometheus: `prometheus` or `promtool`.
pub fn prometheus(program: &str) -> PathBuf {
    let unpacked = || cache().join("prometheus-debian/usr/bin");
    let folder = from_environment(PROMETHEUS_DIR).unwrap_or_else(unpacked);
    let there = Some(folder.join(program)).filter(|file| file.is_file());
    there
        .or_else(|| in_path(program))
        .unwrap_or_else(|| panic!("no {program}: {REMEDY}"))
}

/// etcd.
pub fn etcd() -> PathBuf {
    let unpacked = cache().join("etcd-debian/usr/bin/etcd");
    in_path("etcd")
        .or_else(|| Some(unpacked).filter(|file| file.is_file()))
        .unwrap_or_else(|| panic!("no etcd: {REMEDY}"))
}

/// kubectl.
pub fn kubectl() -> PathBuf {
    let unpacked = cache().join("kubectl-debian/usr/bin/kubectl");
    in_path("kubectl")
        .or_else(|| Some(unpacked).filter(|file| file.is_file()))
        .unwrap_or_else(|| panic!("no kubectl: {REMEDY}"))
}

/// The API server that was built of the sources in `tests/kapi`, if it was.
pub fn kapi() -> Option<PathBuf> {
    let folders = fs::read_dir(cache()).into_iter().flatten().flatten();
    let is_same = |folder: &PathBuf| {
        fs::read_to_string(folder.join("sources.txt")).is_ok_and(|text| text == KAPI.concat())
    };
    let mut same = folders.map(|entry| entry.path()).filter(is_same);
    let program = same.next()?.join("kapi");
    program.is_file().then_some(program)
}

/// A program of the system.
pub fn system(program: &str) -> PathBuf {
    in_path(program).unwrap_or_else(|| panic!("no {program}: {REMEDY}"))
}

/// Whether the system has a program.
pub fn is_there(program: &str) -> bool {
    in_path(program).is_some()
}

fn from_environment(name: &str) -> Option<PathBuf> {
    env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn cache() -> PathBuf {
    let home = || from_environment("HOME").unwrap_or_default().join(".cache");
    from_environment("XDG_CACHE_HOME")
        .unwrap_or_else(home)
        .join("nodemesh")
}

/// The Python environment that was made from the same requirements: it has a copy of them.
pub(super) fn environment(requirements: &str) -> Option<PathBuf> {
    let folders = fs::read_dir(cache()).ok()?.flatten().map(|entry| entry.path());
    let is_same = |folder: &PathBuf| {
        fs::read_to_string(folder.join("requirements.txt")).is_ok_and(|text| text == requirements)
    };
    folders.into_iter().find(is_same)
}
