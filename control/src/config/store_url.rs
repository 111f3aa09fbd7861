// SPDX-License-Identifier: Apache-2.0
//! Where a store is, as `--store` says it.

use std::{fmt, path::PathBuf, str::FromStr};

/// Keys of etcd begin with this unless the URL says otherwise.
const DEFAULT_PREFIX: &str = "nodemesh/";

/// Where the store is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreUrl {
    /// A file.
    Embedded {
        /// Its path, absolute.
        path: PathBuf,
    },
    /// A cluster.
    Etcd {
        /// `HOST:PORT` of its members.
        endpoints: Vec<String>,
        /// What our keys begin with.
        prefix: String,
    },
    /// The objects of a Kubernetes cluster.
    Kubernetes {
        /// Context of the kubeconfig; `None` for the cluster that this process runs in, or the current context.
        context: Option<String>,
    },
}

/// Why a URL is none of a store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{reason}; use embedded:///PATH, etcd://HOST:PORT[,HOST:PORT][?prefix=PREFIX] or kubernetes[://CONTEXT]"
)]
pub struct InvalidStoreUrl {
    reason: String,
}

impl FromStr for StoreUrl {
    type Err = InvalidStoreUrl;

    fn from_str(text: &str) -> Result<Self, InvalidStoreUrl> {
        if text == "kubernetes" {
            return Ok(StoreUrl::Kubernetes { context: None });
        }
        match text.split_once("://") {
            Some(("kubernetes", context)) => Ok(StoreUrl::Kubernetes {
                context: Some(context.to_owned()).filter(|context| !context.is_empty()),
            }),
            Some(("embedded", path)) => embedded(path),
            Some(("etcd", rest)) => etcd(rest),
            Some((scheme, _)) => Err(invalid(format!("there is no store of kind {scheme:?}"))),
            None => Err(invalid(format!("{text:?} is no URL"))),
        }
    }
}

fn embedded(path: &str) -> Result<StoreUrl, InvalidStoreUrl> {
    if !path.starts_with('/') || path.ends_with('/') {
        return Err(invalid(format!("{path:?} is no absolute path of a file")));
    }
    Ok(StoreUrl::Embedded { path: path.into() })
}

fn etcd(rest: &str) -> Result<StoreUrl, InvalidStoreUrl> {
    let (members, query) = rest.split_once('?').unwrap_or((rest, ""));
    let endpoints: Vec<String> = members
        .trim_end_matches('/')
        .split(',')
        .map(str::to_owned)
        .collect();
    if let Some(wrong) = endpoints.iter().find(|endpoint| !is_host_port(endpoint)) {
        return Err(invalid(format!("{wrong:?} is no HOST:PORT")));
    }
    let mut prefix = DEFAULT_PREFIX.to_owned();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("prefix", value)) => value.clone_into(&mut prefix),
            _ => return Err(invalid(format!("{pair:?} is no option of etcd"))),
        }
    }
    Ok(StoreUrl::Etcd { endpoints, prefix })
}

fn is_host_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok())
}

fn invalid(reason: String) -> InvalidStoreUrl {
    InvalidStoreUrl { reason }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded { path } => write!(f, "embedded://{}", path.display()),
            Self::Kubernetes { context: None } => f.write_str("kubernetes"),
            Self::Kubernetes {
                context: Some(context),
            } => write!(f, "kubernetes://{context}"),
            Self::Etcd { endpoints, prefix } => write!(f, "etcd://{}?prefix={prefix}", endpoints.join(",")),
        }
    }
}
