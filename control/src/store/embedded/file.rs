// SPDX-License-Identifier: Apache-2.0
//! The file of the store: opened, locked, checked, read, and opened anew after its disk failed.
//!
//! Used by `committer` for writes, and by any thread for reads.
//!
//! Invariant: a file that is there is a whole store, because a new one gets its name when it is complete; so an empty file, or one
//! that is damaged in any place, is refused and left as it is.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{FileExt as _, OpenOptionsExt as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use redb::{Builder, Database, ReadTransaction, ReadableDatabase as _};

use super::{
    backend::Backend,
    database::{self, FORMAT, LeaseRow, Writing, Written},
};
use crate::store::{Item, Listing, Revision, StoreError};

/// Memory that pages of the file may take.
const CACHE_BYTES: usize = 32 << 20;
/// What errno says when there is no room: ENOSPC, EDQUOT and EFBIG (a limit on the length of files).
const NO_ROOM: [i32; 3] = [
    nix::errno::Errno::ENOSPC as i32,
    nix::errno::Errno::EDQUOT as i32,
    nix::errno::Errno::EFBIG as i32,
];

/// The file of a store, locked by this process.
#[derive(Debug)]
pub(super) struct StoreFile {
    path: PathBuf,
    /// `None` after a failure, until it could be opened again. Dropped before the lock.
    instance: RwLock<Option<Instance>>,
    file: LockedFile,
}

/// A file that no other process may lock.
#[derive(Debug)]
struct LockedFile(Arc<File>);

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing is not enough while a process that is about to be started has a copy of the descriptor.
        if let Err(error) = self.0.unlock() {
            tracing::debug!(%error, "cannot unlock the store; closing it does");
        }
    }
}

#[derive(Debug)]
struct Instance {
    database: Database,
    backend: Backend,
}

/// What a file said when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) revision: Revision,
    pub(super) leases: Vec<(i64, LeaseRow)>,
}

/// A write that failed.
#[derive(Debug)]
pub(super) struct WriteFailed {
    pub(super) error: StoreError,
    /// The revision that the store has if it took effect nevertheless.
    pub(super) attempted: Option<Revision>,
}

impl StoreFile {
    pub(super) fn open(path: &Path) -> Result<(Self, Opened), StoreError> {
        let file = LockedFile::open(path)?;
        let instance = Instance::open(path, &file.0)?;
        let this = Self {
            path: path.to_owned(),
            instance: RwLock::new(Some(instance)),
            file,
        };
        let opened = this.opened()?;
        Ok((this, opened))
    }

    /// Opens the same file again after a write failed.
    pub(super) fn reopen(&self) -> Result<Opened, StoreError> {
        let mut instance = self.instance.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(failed) = instance.take() {
            failed.backend.revoke();
        }
        *instance = Some(Instance::open(&self.path, &self.file.0)?);
        drop(instance);
        self.opened()
    }

    fn opened(&self) -> Result<Opened, StoreError> {
        self.read("open", |transaction| {
            Ok(Opened {
                revision: database::revision(transaction)?,
                leases: database::leases(transaction)?,
            })
        })
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        self.read("get", |transaction| database::get(transaction, key))
    }

    pub(super) fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.read("list", |transaction| database::list(transaction, prefix))
    }

    pub(super) fn revision(&self) -> Result<Revision, StoreError> {
        self.read("read the revision", database::revision)
    }

    /// Does `work` in one transaction, which is on the disk when this returns; `None` if it wrote nothing.
    pub(super) fn write<T>(
        &self,
        work: impl FnOnce(&mut Writing<'_>) -> Result<T, redb::Error>,
    ) -> Result<(T, Option<Written>), WriteFailed> {
        let failed = |error, attempted| WriteFailed {
            error: failure(&self.path, "write", error),
            attempted,
        };
        let instance = self.instance.read().unwrap_or_else(PoisonError::into_inner);
        let Some(Instance { database, .. }) = &*instance else {
            return Err(WriteFailed {
                error: self.away("write"),
                attempted: None,
            });
        };
        let written = || {
            let mut transaction = database.begin_write()?;
            // Without, a torn last commit and a damaged one cannot be told apart, and either would be undone.
            transaction.set_two_phase_commit(true);
            let mut writing = Writing::open(&transaction)?;
            let result = work(&mut writing)?;
            let written = writing.finish()?;
            Ok((transaction, result, written))
        };
        let (transaction, result, written) = written().map_err(|error| failed(error, None))?;
        let attempted = written.as_ref().map(|written| written.revision);
        let ended = match attempted {
            Some(_) => transaction.commit().map_err(redb::Error::from),
            None => transaction.abort().map_err(redb::Error::from),
        };
        ended.map_err(|error| failed(error, attempted))?;
        Ok((result, written))
    }

    fn read<T>(
        &self,
        op: &'static str,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let instance = self.instance.read().unwrap_or_else(PoisonError::into_inner);
        let Instance { database, .. } = instance.as_ref().ok_or_else(|| self.away(op))?;
        let transaction = database.begin_read().map_err(redb::Error::from);
        transaction
            .and_then(|transaction| read(&transaction))
            .map_err(|error| failure(&self.path, op, error))
    }

    fn away(&self, op: &'static str) -> StoreError {
        StoreError::Unavailable {
            op,
            reason: format!(
                "{} could not be opened again after its disk failed",
                self.path.display()
            ),
        }
    }

    /// The error of an operation on the file other than through redb.
    pub(super) fn io(&self, op: &'static str, source: io::Error) -> StoreError {
        io_failure(&self.path, op, source)
    }
}

impl Instance {
    /// Opens and checks all of `file`, which is a whole store or nothing that we touch.
    fn open(path: &Path, file: &Arc<File>) -> Result<Self, StoreError> {
        let refuse = |reason: &str| StoreError::Corrupt {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        let length = file
            .metadata()
            .map_err(|source| io_failure(path, "open", source))?;
        if length.len() == 0 {
            return Err(refuse("it is empty, which no store is"));
        }
        let header = Header::of(file, length.len()).map_err(|source| io_failure(path, "read", source))?;
        let opened = Self::open_checked(path, Backend::new(Arc::clone(file)));
        if let Err(StoreError::Corrupt { .. }) = &opened {
            header.put_back(file);
        }
        opened
    }

    fn open_checked(path: &Path, backend: Backend) -> Result<Self, StoreError> {
        let refuse = |reason: &str| StoreError::Corrupt {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        // redb asserts some of what a damaged file can violate.
        let opened = catch_unwind(AssertUnwindSafe(|| database_in(&backend)));
        let database = opened
            .map_err(|_| refuse("it is damaged, reading it ended in a panic"))?
            .map_err(|error| failure(path, "open", error))?;
        let transaction = database.begin_read().map_err(redb::Error::from);
        let format = transaction
            .and_then(|transaction| database::format(&transaction))
            .map_err(|error| failure(path, "open", error))?;
        match format {
            Some(FORMAT) => Ok(Self { database, backend }),
            Some(found) => Err(StoreError::Format {
                path: path.to_owned(),
                found: found.to_string(),
                known: FORMAT,
            }),
            None => Err(refuse("it is a redb database, but no store of nodemesh-control")),
        }
    }
}

/// The first bytes of a file, where redb notes the length that it finds before it looks at the rest.
struct Header(Vec<u8>);

impl Header {
    /// Bytes of redb's header.
    const LENGTH: u64 = 4096;

    fn of(file: &File, length: u64) -> io::Result<Self> {
        let mut bytes = vec![0; length.min(Self::LENGTH) as usize];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(Self(bytes))
    }

    fn put_back(self, file: &File) {
        if let Err(error) = file.write_all_at(&self.0, 0) {
            tracing::warn!(%error, "the header of a damaged store could not be put back");
        }
    }
}

fn database_in(backend: &Backend) -> Result<Database, redb::Error> {
    let mut database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(backend.clone())?;
    if !database.check_integrity()? {
        tracing::warn!("the list of free pages of the store was made anew; no data is affected");
    }
    Ok(database)
}

impl LockedFile {
    /// The file at `path`, which is made where there is none.
    fn open(path: &Path) -> Result<Self, StoreError> {
        loop {
            match OpenOptions::new().read(true).write(true).open(path) {
                Ok(file) => return Self::lock(path, file),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_failure(path, "open", error)),
            }
            if let Some(file) = Self::create(path)? {
                return Ok(file);
            }
        }
    }

    /// Makes an empty store at `path`; `None` if another process has made one meanwhile.
    fn create(path: &Path) -> Result<Option<Self>, StoreError> {
        let failed = |source| io_failure(path, "create", source);
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        fs::create_dir_all(folder).map_err(failed)?;
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600);
        let file = Self::lock(path, options.open(&unfinished).map_err(failed)?)?;
        if path.try_exists().map_err(failed)? {
            return Ok(None);
        }
        file.0.set_len(0).map_err(failed)?;
        initialize(&file.0).map_err(|error| failure(path, "create", error))?;
        fs::rename(&unfinished, path).map_err(failed)?;
        File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(failed)?;
        Ok(Some(file))
    }

    fn lock(path: &Path, file: File) -> Result<Self, StoreError> {
        match file.try_lock() {
            Ok(()) => Ok(Self(Arc::new(file))),
            Err(TryLockError::WouldBlock) => Err(StoreError::Locked {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(source)) => Err(io_failure(path, "lock", source)),
        }
    }
}

fn initialize(file: &Arc<File>) -> Result<(), redb::Error> {
    let database = Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(Backend::new(Arc::clone(file)))?;
    let mut transaction = database.begin_write()?;
    transaction.set_two_phase_commit(true);
    database::initialize(&transaction)?;
    Ok(transaction.commit()?)
}

fn failure(path: &Path, op: &'static str, error: redb::Error) -> StoreError {
    let path = path.to_owned();
    match error {
        redb::Error::Io(source) => io_failure(&path, op, source),
        redb::Error::PreviousIo | redb::Error::LockPoisoned(_) | redb::Error::DatabaseClosed => {
            let reason = format!("{}: {error}", path.display());
            StoreError::Unavailable { op, reason }
        }
        redb::Error::UpgradeRequired(version) => StoreError::Format {
            path,
            found: format!("redb {version}"),
            known: FORMAT,
        },
        error => StoreError::Corrupt {
            path,
            reason: error.to_string(),
        },
    }
}

fn io_failure(path: &Path, op: &'static str, source: io::Error) -> StoreError {
    let path = path.to_owned();
    match source.kind() {
        _ if source.raw_os_error().is_some_and(|code| NO_ROOM.contains(&code)) => StoreError::Full {
            subject: path.display().to_string(),
            source: Arc::new(source),
        },
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => StoreError::Corrupt {
            path,
            reason: source.to_string(),
        },
        _ => StoreError::Io {
            op,
            path,
            source: Arc::new(source),
        },
    }
}
