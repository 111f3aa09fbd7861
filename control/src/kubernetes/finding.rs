// SPDX-License-Identifier: Apache-2.0
//! What an operator must know about an object: it was left out, or a field of it was.
//!
//! Made by `translate`; told by `status` as events of the object, and counted. Invariant: a finding names the field and the remedy.

use std::fmt;

use super::object::ObjectName;

/// The kind of an object that findings are about, as the API server names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A Service of the cluster.
    Service,
    /// An `EndpointSlice`.
    EndpointSlice,
    /// A Pod.
    Pod,
    /// A Node.
    Node,
    /// A Namespace.
    Namespace,
    /// A `NetworkPolicy`.
    NetworkPolicy,
    /// A custom resource of ours.
    Custom(nodemesh_model::Kind),
}

/// Why something is not in the mesh as its object says; the `reason` of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// An annotation cannot be read.
    InvalidAnnotation,
    /// A field of the object cannot be had in a mesh.
    NotSupported,
    /// A custom resource is not valid.
    Invalid,
    /// Another object says something else about the same thing.
    Conflict,
    /// Ports of the replicas and of the Service have other names.
    PortMismatch,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 5] = [
        Self::InvalidAnnotation,
        Self::NotSupported,
        Self::Invalid,
        Self::Conflict,
        Self::PortMismatch,
    ];

    /// As events and metrics spell it.
    pub fn word(self) -> &'static str {
        match self {
            Self::InvalidAnnotation => "InvalidAnnotation",
            Self::NotSupported => "NotSupported",
            Self::Invalid => "Invalid",
            Self::Conflict => "Conflict",
            Self::PortMismatch => "PortMismatch",
        }
    }
}

/// What an operator must know about an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Finding {
    /// Why.
    pub reason: Reason,
    /// The field, what is wrong with it, what follows and the remedy.
    pub message: String,
}

impl Finding {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason.word(), self.message)
    }
}

/// What the mesh makes of an object as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Generation of the custom resource that was judged; `None` for other objects, and for one that is gone.
    pub generation: Option<i64>,
    /// What an operator must know; empty if all is well.
    pub findings: Vec<Finding>,
}

/// An object of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub name: ObjectName,
}

impl ObjectId {
    pub(super) fn new(kind: ObjectKind, name: ObjectName) -> Self {
        Self { kind, name }
    }
}
