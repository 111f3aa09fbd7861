// SPDX-License-Identifier: Apache-2.0
//! Names of kernel errors in reports, as errno.h spells them.

use std::io;

use nix::errno::Errno;

/// `ECONNREFUSED` and the like; an error without errno gets the name of its kind.
pub(crate) fn name(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None => error.kind().to_string(),
    }
}
