// SPDX-License-Identifier: Apache-2.0
//! How an operator names what is to be drained: `[SERVICE/]BACKEND`. Pure.
//!
//! BACKEND is an address, an address and port, or a workload; SERVICE and a workload are `namespace/name`, and in front of a workload the
//! service's namespace is the workload's. Invariant: a target reads back from what it shows.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use nodemesh_model::{FrontendBackend, ResourceName};
use serde::{Deserialize, Serialize};

/// What is drained.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DrainTarget {
    /// Only as a backend of this service.
    service: Option<ResourceName>,
    backend: Which,
}

/// Which backend.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Which {
    Endpoint(SocketAddr),
    Address(IpAddr),
    Workload(ResourceName),
}

/// What a backend is known by.
#[derive(Clone, Copy, Debug)]
pub struct Backend<'a> {
    /// Its address.
    pub addr: IpAddr,
    /// Its port.
    pub port: u16,
    /// The workload that it is.
    pub workload: Option<&'a ResourceName>,
}

impl<'a> From<&'a FrontendBackend> for Backend<'a> {
    fn from(backend: &'a FrontendBackend) -> Self {
        Self {
            addr: backend.addr.into(),
            port: backend.port.get(),
            workload: backend.workload.as_ref(),
        }
    }
}

impl<'a> From<&'a &mut FrontendBackend> for Backend<'a> {
    fn from(backend: &'a &mut FrontendBackend) -> Self {
        Self::from(&**backend)
    }
}

/// Why a text names nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` names no backend; write an address (10.0.0.1), an address and port (10.0.0.1:8000), a workload (namespace/name), or one of \
     these behind a service (namespace/service/10.0.0.1:8000, namespace/service/workload)"
)]
pub struct NoTarget(String);

impl DrainTarget {
    /// Whether `backend`, as one of `service`, is meant.
    pub fn is(&self, service: &ResourceName, backend: Backend<'_>) -> bool {
        let addr = backend.addr.to_canonical();
        self.service.as_ref().is_none_or(|own| own == service)
            && match &self.backend {
                Which::Endpoint(own) => (own.ip(), own.port()) == (addr, backend.port),
                Which::Address(own) => *own == addr,
                Which::Workload(own) => Some(own) == backend.workload,
            }
    }

    /// The address that it names, if it names one.
    pub fn addr(&self) -> Option<IpAddr> {
        match &self.backend {
            Which::Endpoint(own) => Some(own.ip()),
            Which::Address(own) => Some(*own),
            Which::Workload(_) => None,
        }
    }
}

impl FromStr for DrainTarget {
    type Err = NoTarget;

    fn from_str(text: &str) -> Result<Self, NoTarget> {
        let parts: Vec<&str> = text.split('/').collect();
        let name = |parts: &[&str]| ResourceName::new(parts[0], parts[1]).ok();
        let (last, before) = parts.split_last().ok_or_else(|| NoTarget(text.to_owned()))?;
        let address = last
            .parse()
            .map(|endpoint: SocketAddr| {
                Which::Endpoint(SocketAddr::new(endpoint.ip().to_canonical(), endpoint.port()))
            })
            .or_else(|_| {
                last.parse()
                    .map(|addr: IpAddr| Which::Address(addr.to_canonical()))
            })
            .ok();
        let (service, backend) = match (before.len(), address) {
            (0, Some(address)) => (None, Some(address)),
            (2, Some(address)) => (Some(name(before)), Some(address)),
            (1, None) => (None, name(&parts).map(Which::Workload)),
            (2, None) => (Some(name(before)), name(&[before[0], last]).map(Which::Workload)),
            _ => (None, None),
        };
        match (service, backend) {
            (None, Some(backend)) => Ok(Self {
                service: None,
                backend,
            }),
            (Some(Some(service)), Some(backend)) => Ok(Self {
                service: Some(service),
                backend,
            }),
            _ => Err(NoTarget(text.to_owned())),
        }
    }
}

impl fmt::Display for DrainTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(service) = &self.service {
            write!(f, "{service}/")?;
        }
        match (&self.backend, &self.service) {
            (Which::Endpoint(endpoint), _) => write!(f, "{endpoint}"),
            (Which::Address(addr), _) => write!(f, "{addr}"),
            (Which::Workload(workload), None) => write!(f, "{workload}"),
            (Which::Workload(workload), Some(_)) => f.write_str(workload.name()),
        }
    }
}

impl TryFrom<String> for DrainTarget {
    type Error = NoTarget;

    fn try_from(text: String) -> Result<Self, NoTarget> {
        text.parse()
    }
}

impl From<DrainTarget> for String {
    fn from(target: DrainTarget) -> Self {
        target.to_string()
    }
}
