// SPDX-License-Identifier: Apache-2.0
//! Why a store did not do something, with the remedy.

use std::{error::Error, io, path::PathBuf, sync::Arc};

use super::{LeaseId, MAX_OPS, MAX_VALUE, Precondition, Revision};

/// Why a store did not do something. Cheap to clone: one failed write of the disk is the answer to all callers that waited for it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A precondition does not hold.
    #[error("{key}: expected {}, found {}; read it again and repeat the change", expected_as(*.expected), version(*.found))]
    Conflict {
        /// The key.
        key: Arc<str>,
        /// What was expected of it.
        expected: Precondition,
        /// Its version; `None` if it is not there.
        found: Option<Revision>,
        /// A watch that has come this far has seen why, unless a delete is why.
        revision: Revision,
    },
    /// There is no such lease.
    #[error("lease {lease} has expired or was revoked; register again")]
    LeaseGone {
        /// The lease.
        lease: LeaseId,
    },
    /// Changes since a revision cannot be had.
    #[error(
        "the changes after revision {from} are not there (from revision {oldest} on they are); list again"
    )]
    Compacted {
        /// The revision that was asked for.
        from: Revision,
        /// The first one that can be asked for.
        oldest: Revision,
    },
    /// The value is too long.
    #[error("the value of {key} has {bytes} bytes; the limit is {MAX_VALUE}, split it")]
    TooLarge {
        /// The key.
        key: Arc<str>,
        /// Length of the value.
        bytes: usize,
    },
    /// The transaction is too long, or not well formed.
    #[error(
        "a transaction has {changes} changes of {keys} keys; use 1 to {MAX_OPS}, each of another key that is not empty"
    )]
    Transaction {
        /// How many changes it has.
        changes: usize,
        /// How many keys that are not empty.
        keys: usize,
    },
    /// The disk or the quota is full.
    #[error(
        "{subject}: no room for the change, nothing was written; free some, what was acknowledged is safe: {source}"
    )]
    Full {
        /// What is full.
        subject: String,
        /// What the system says.
        source: Arc<dyn Error + Send + Sync>,
    },
    /// The file is not one of ours, or damaged.
    #[error("{}: {reason}; restore the file from a copy, or move it away to start empty", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file is of another release.
    #[error("{}: is a store of format {found}, this release has format {known}; start the release that wrote it, or move the file away to start empty", .path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: String,
        /// The one that is understood.
        known: u64,
    },
    /// Another process has the file.
    #[error("{}: another process has this store open; end it, or use another path", .path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// The file cannot be opened, or its disk fails.
    #[error("{op} {}: {source}", .path.display())]
    Io {
        /// What was to be done.
        op: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: Arc<io::Error>,
    },
    /// The store does not answer, or stopped in the middle: whether a write took effect is not known.
    #[error(
        "{op}: the store is unavailable, whether a write took effect is not known; read and try again: {reason}"
    )]
    Unavailable {
        /// What was to be done.
        op: &'static str,
        /// Why.
        reason: String,
    },
    /// What is stored is changed elsewhere.
    #[error("{op} {object}: {reason}")]
    ReadOnly {
        /// What was to be done.
        op: &'static str,
        /// To what.
        object: String,
        /// Where it is changed.
        reason: &'static str,
    },
    /// The store refuses us.
    #[error("{op}: the store refused: {reason}")]
    Refused {
        /// What was to be done.
        op: &'static str,
        /// What it says.
        reason: String,
    },
}

fn expected_as(expected: Precondition) -> String {
    match expected {
        Precondition::Any => "any version".to_owned(),
        Precondition::Absent => version(None),
        Precondition::Version(expected) => version(Some(expected)),
    }
}

fn version(version: Option<Revision>) -> String {
    version.map_or_else(|| "none".to_owned(), |version| format!("version {version}"))
}
