// SPDX-License-Identifier: Apache-2.0
//! Errors of the registry as gRPC status: the codes that registry.proto promises.

use tonic::{Code, Status};

use crate::{
    registry::{AddressError, RegistryError},
    store::StoreError,
};

/// As the client is told.
pub(super) fn of_registry(error: &RegistryError) -> Status {
    let code = match error {
        RegistryError::Invalid(_) | RegistryError::NotAWorkload { .. } | RegistryError::Ttl { .. } => {
            Code::InvalidArgument
        }
        RegistryError::Taken(_) => Code::AlreadyExists,
        RegistryError::Address(AddressError::Exhausted { .. }) => Code::ResourceExhausted,
        RegistryError::Address(_) | RegistryError::Registered { .. } | RegistryError::Applied { .. } => {
            Code::FailedPrecondition
        }
        RegistryError::Conflict { .. } => Code::Aborted,
        RegistryError::NotFound { .. } => Code::NotFound,
        RegistryError::Contended { .. } | RegistryError::Stopped => Code::Unavailable,
        RegistryError::Store(error) => return of_store(error),
    };
    Status::new(code, error.to_string())
}

/// As the client is told.
pub(super) fn of_store(error: &StoreError) -> Status {
    let code = match error {
        StoreError::Conflict { .. } => Code::Aborted,
        StoreError::LeaseGone { .. } => Code::NotFound,
        StoreError::Compacted { .. } => Code::OutOfRange,
        StoreError::TooLarge { .. } | StoreError::Transaction { .. } => Code::InvalidArgument,
        StoreError::Full { .. } => Code::ResourceExhausted,
        StoreError::Unavailable { .. } => Code::Unavailable,
        StoreError::ReadOnly { .. } => Code::FailedPrecondition,
        StoreError::Corrupt { .. }
        | StoreError::Format { .. }
        | StoreError::Locked { .. }
        | StoreError::Io { .. }
        | StoreError::Refused { .. } => Code::Internal,
    };
    if let StoreError::ReadOnly { op, object, reason } = error {
        tracing::warn!(
            op,
            object,
            reason,
            "refused a change of what is changed elsewhere"
        );
    }
    if code == Code::Internal {
        tracing::error!(%error, "the store does not work");
    }
    Status::new(code, error.to_string())
}
