// SPDX-License-Identifier: Apache-2.0
//! The types of resources, in the order in which they are pushed, and which of them refer to which.
//!
//! ```text
//!  Listener ──► RouteConfiguration ──► Cluster ──► ClusterLoadAssignment
//!      └──────────────────────────────────┘
//! ```
//!
//! Invariant: [`TypeUrl`]s are ordered so that what is referred to comes before what refers to it, where a reader can ask for it
//! beforehand.

use std::{fmt, sync::Arc};

use nodemesh_proto::type_url::{
    ASSIGNMENT as ENDPOINTS, CLUSTER, LISTENER, POLICY_DOCUMENT as POLICIES, ROUTE,
    WORKLOAD_TABLE as WORKLOADS,
};

/// The type of a resource.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum TypeUrl {
    /// The table of workloads and their identities; refers to nothing.
    Workloads,
    /// The documents of policies: after the workloads that they are about, before the services that they guard.
    Policies,
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// A type that this server has no resources of. Who asks for them is told that there are none.
    Other(Arc<str>),
}

impl TypeUrl {
    /// As on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Cluster => CLUSTER,
            Self::Endpoints => ENDPOINTS,
            Self::Listener => LISTENER,
            Self::Route => ROUTE,
            Self::Workloads => WORKLOADS,
            Self::Policies => POLICIES,
            Self::Other(url) => url,
        }
    }

    /// Whether a request without names asks for all there are, and whether a state-of-the-world response has all that its reader
    /// asked for, so that what is missing in it does not exist. Of the other types a response has some, and the rest stay.
    pub(super) fn is_full_state(&self) -> bool {
        !matches!(self, Self::Endpoints | Self::Route)
    }

    /// The types whose resources refer to resources of this one by name.
    pub(super) fn referrers(&self) -> &'static [Self] {
        match self {
            Self::Cluster => &[Self::Listener, Self::Route],
            Self::Endpoints => &[Self::Cluster],
            Self::Route => &[Self::Listener],
            Self::Listener | Self::Workloads | Self::Policies | Self::Other(_) => &[],
        }
    }
}

impl From<&str> for TypeUrl {
    fn from(url: &str) -> Self {
        match url {
            CLUSTER => Self::Cluster,
            ENDPOINTS => Self::Endpoints,
            LISTENER => Self::Listener,
            ROUTE => Self::Route,
            WORKLOADS => Self::Workloads,
            POLICIES => Self::Policies,
            other => Self::Other(other.into()),
        }
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
