// SPDX-License-Identifier: Apache-2.0
//! Finds network namespaces by the processes that are in them. Called by `search`.
//!
//! Invariant: each is given once, by its inode. One that nobody is in, but in which somebody has a socket, is not found.

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

/// Where processes are.
const PROC: &str = "/proc";

/// A network namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    file: File,
}

impl Namespace {
    /// What `setns` takes.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}

/// The namespaces that the threads of a process are in.
pub(super) fn of_process(tgid: u32) -> impl Iterator<Item = io::Result<Namespace>> {
    let tasks = Path::new(PROC).join(tgid.to_string()).join("task");
    each_once(numbered(&tasks))
}

/// The namespaces that processes are in.
pub(super) fn all() -> impl Iterator<Item = io::Result<Namespace>> {
    each_once(numbered(Path::new(PROC)))
}

/// Folders with a number for a name; none where they cannot be listed, such as those of a process that has ended.
fn numbered(folder: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let is_number = |name: &OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(move |entry| is_number(&entry.file_name()))
        .map(|entry| entry.path())
}

/// The namespaces of the tasks in `folders`. A task that ends meanwhile is skipped, and an error is told.
fn each_once(folders: impl Iterator<Item = PathBuf>) -> impl Iterator<Item = io::Result<Namespace>> {
    let mut seen = HashSet::new();
    folders.filter_map(move |folder| {
        let path = folder.join("ns/net");
        let opened = fs::metadata(&path).and_then(|metadata| {
            if !seen.insert((metadata.dev(), metadata.ino())) {
                return Ok(None);
            }
            File::open(&path).map(Some)
        });
        match opened {
            Ok(file) => file.map(|file| Ok(Namespace { file })),
            Err(error) if is_gone(&error) => None,
            Err(error) => Some(Err(error)),
        }
    })
}

/// Whether this is what the files of a task that has ended say. A zombie has no namespaces either.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
}
