// SPDX-License-Identifier: Apache-2.0
//! Why the registry did not do something, with the remedy.

use std::{ops::RangeInclusive, time::Duration};

use nodemesh_model::InvalidResources;

use super::{address::AddressError, conflict::Taken, key::Key};
use crate::store::{LeaseId, Precondition, Revision, StoreError};

/// Times that a lease may be asked for, seconds.
pub const LEASE_TTL_S: RangeInclusive<u64> = 2..=86_400;

/// Why the registry did not do something.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RegistryError {
    /// The document is not valid.
    #[error("{0}")]
    Invalid(InvalidResources),
    /// It does not go together with another one.
    #[error(transparent)]
    Taken(#[from] Taken),
    /// There is no address for it.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// It was changed by somebody else.
    #[error("{key}: expected {}, found {}; get it again and repeat the change", expected_as(*.expected), version(*.found))]
    Conflict {
        /// The resource.
        key: Key,
        /// The version that the caller knows.
        expected: Precondition,
        /// The version that is there.
        found: Option<Revision>,
    },
    /// There is no such resource.
    #[error("{key} does not exist")]
    NotFound {
        /// The resource.
        key: Key,
    },
    /// A server keeps it.
    #[error(
        "{key} is kept by the server that registered it (lease {lease}); stop that, or delete the resource first"
    )]
    Registered {
        /// The resource.
        key: Key,
        /// Its lease.
        lease: LeaseId,
    },
    /// A user keeps it.
    #[error("{key} was applied, not registered; delete it first, or register under another name")]
    Applied {
        /// The resource.
        key: Key,
    },
    /// Only workloads are registered.
    #[error("{key} is no Workload; register a Workload, apply everything else")]
    NotAWorkload {
        /// The resource.
        key: Key,
    },
    /// The time of the lease is out of range.
    #[error("a lease of {}s is out of range; use {}s to {}s", .ttl.as_secs(), LEASE_TTL_S.start(), LEASE_TTL_S.end())]
    Ttl {
        /// What was asked for.
        ttl: Duration,
    },
    /// Others write at the same time.
    #[error("{key}: other writers were faster {attempts} times; try again")]
    Contended {
        /// The resource.
        key: Key,
        /// How often it was tried.
        attempts: u32,
    },
    /// The store did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The control plane is about to end.
    #[error("the control plane is about to end; try another one")]
    Stopped,
}

impl RegistryError {
    /// The resource whose present state is the reason.
    pub(super) fn subject(&self) -> Option<&Key> {
        match self {
            Self::Conflict { key, .. }
            | Self::NotFound { key }
            | Self::Registered { key, .. }
            | Self::Applied { key } => Some(key),
            _ => None,
        }
    }
}

impl From<InvalidResources> for RegistryError {
    fn from(errors: InvalidResources) -> Self {
        Self::Invalid(errors)
    }
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
