// SPDX-License-Identifier: Apache-2.0
//! How redb reaches the bytes of the file.
//!
//! Invariant: room is claimed when the file grows, so a full disk is found out before anything is written; and after
//! [`Backend::revoke`] an instance of redb that failed can touch nothing any more.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::{errno::Errno, fcntl};
use redb::StorageBackend;

/// The file, which is locked by whoever made this.
#[derive(Clone, Debug)]
pub(super) struct Backend {
    file: Arc<File>,
    is_revoked: Arc<AtomicBool>,
}

impl Backend {
    pub(super) fn new(file: Arc<File>) -> Self {
        Self {
            file,
            is_revoked: Arc::default(),
        }
    }

    /// Makes all that is asked for from now on fail.
    pub(super) fn revoke(&self) {
        self.is_revoked.store(true, Ordering::Release);
    }

    fn file(&self) -> io::Result<&File> {
        if self.is_revoked.load(Ordering::Acquire) {
            return Err(io::Error::other("the file was opened anew after a failure"));
        }
        Ok(&self.file)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file()?.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file()?.read_exact_at(out, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let file = self.file()?;
        let now = file.metadata()?.len();
        if len > now {
            let offset = |bytes| i64::try_from(bytes).map_err(io::Error::other);
            match fcntl::posix_fallocate(file, offset(now)?, offset(len - now)?) {
                Ok(()) => return Ok(()),
                Err(Errno::EOPNOTSUPP | Errno::EINVAL) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file()?.write_all_at(data, offset)
    }
}
