// SPDX-License-Identifier: Apache-2.0
//! The memory of an array, mapped to be read. Called by `flow_maps`.
//!
//! Invariant: a mapping ends once, by whoever made it.

use std::{io, num::NonZeroUsize, os::fd::BorrowedFd, ptr::NonNull};

use libc::c_void;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// Maps the first `length` bytes of an array's values, to be read.
pub fn map(map: BorrowedFd<'_>, length: usize) -> io::Result<NonNull<c_void>> {
    let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
    // SAFETY: a new mapping at an address of the kernel's choice takes no memory away from anybody.
    unsafe { mmap(None, length, ProtFlags::PROT_READ, MapFlags::MAP_SHARED, map, 0) }.map_err(Into::into)
}

/// Ends a mapping of [`map`].
///
/// # Safety
///
/// `memory` is such a mapping of `length` bytes, and is not used any more.
pub unsafe fn unmap(memory: NonNull<c_void>, length: usize) {
    // SAFETY: as above. An error would say that it is none.
    let _ = unsafe { munmap(memory, length) };
}
