// SPDX-License-Identifier: Apache-2.0
//! A workload: a process or pod that is a replica of services, a client of services, or both.
//!
//! Invariant: it has an address, a cgroup, or both; the cgroup is relative and normal (no empty, `.` or `..` component).

use std::{net::IpAddr, sync::Arc};

use nodemesh_abi::limits::MAX_CGROUP_DEPTH;

use super::{Locality, Metadata, address, identity, weight};
use crate::{
    invalid::{Findings, Problem},
    keyword::{self, BackendState, Family},
    wire,
};

/// What the cgroup of a pod begins with that is named by its UID, wherever the kubelet puts it.
pub const POD_CGROUP: &str = "pod:";
/// Longest UID of a pod, bytes.
const MAX_POD_UID: usize = 64;

/// A replica or a client.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Workload {
    /// Name and labels.
    pub metadata: Metadata,
    /// Its addresses, at most one per family.
    pub addresses: Vec<IpAddr>,
    /// Its share of the load as a replica, 1 to 65535.
    pub weight: u32,
    /// Whether it takes new connections as a replica.
    pub state: BackendState,
    /// The cgroup of its processes: a path below the cgroup v2 root of this node, or [`POD_CGROUP`] and the UID of a pod.
    pub cgroup: Option<Arc<str>>,
    /// Its SPIFFE ID; other workloads may have the same one.
    pub identity: Arc<str>,
    /// Where it is; `None` if that is not known.
    pub locality: Option<Arc<Locality>>,
}

impl Workload {
    /// Its SPIFFE ID, if it is another one than its name would give it.
    pub fn own_identity(&self) -> Option<&str> {
        let default = identity::default_identity(&self.metadata.name);
        Some(&*self.identity).filter(|own| **own != *default)
    }

    /// Its address of `family`.
    pub fn address(&self, family: Family) -> Option<IpAddr> {
        self.addresses
            .iter()
            .copied()
            .find(|address| Family::of(*address) == family)
    }
}

impl TryFrom<wire::Document<wire::WorkloadSpec>> for Workload {
    type Error = Findings;

    fn try_from(document: wire::Document<wire::WorkloadSpec>) -> Result<Self, Findings> {
        let mut findings = Findings::default();
        let spec = document.spec;
        let metadata = Metadata::validate(document.metadata, &mut findings);
        let texts = spec.addresses.unwrap_or_default();
        if texts.is_empty() && spec.cgroup.is_none() {
            findings.add("spec.addresses", Problem::NeitherAddressNorCgroup);
        }
        let addresses = address::parse_set("spec.addresses", &texts, &mut findings);
        let weight = findings.check("spec.weight", weight(spec.weight));
        let state = spec
            .state
            .as_deref()
            .map_or(Ok(BackendState::default()), keyword::parse);
        let state = findings.check("spec.state", state);
        let cgroup = spec
            .cgroup
            .and_then(|path| findings.check("spec.cgroup", cgroup_path(&path)));
        let identity = match (spec.identity, &metadata) {
            (Some(id), _) => findings.check("spec.identity", identity::parse(&id)),
            (None, metadata) => metadata
                .as_ref()
                .map(|metadata| identity::default_identity(&metadata.name)),
        };
        let locality = Locality::read(spec.locality, "spec.locality", &mut findings);
        match (metadata, weight, state, identity) {
            (Some(metadata), Some(weight), Some(state), Some(identity)) if findings.is_empty() => Ok(Self {
                metadata,
                addresses,
                weight,
                state,
                cgroup,
                identity,
                locality,
            }),
            _ => Err(findings),
        }
    }
}

/// Reads a path below the cgroup v2 root, or the UID of a pod; a leading `/`, as in `/proc/PID/cgroup`, is dropped.
fn cgroup_path(path: &str) -> Result<Arc<str>, Problem> {
    let invalid = |reason| {
        Err(Problem::Cgroup {
            found: path.to_owned(),
            reason,
        })
    };
    if let Some(uid) = path.strip_prefix(POD_CGROUP) {
        let is_uid = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        if (1..=MAX_POD_UID).contains(&uid.len()) && uid.bytes().all(is_uid) {
            return Ok(path.into());
        }
        return invalid("has no UID of a pod");
    }
    let components: Vec<&str> = path
        .split('/')
        .filter(|part| !part.is_empty() && *part != ".")
        .collect();
    if components.is_empty() {
        return invalid("is the cgroup root, which holds every process");
    }
    if components.contains(&"..") {
        return invalid("leads upwards");
    }
    if components.starts_with(&["sys", "fs", "cgroup"]) {
        return invalid("contains the mount point");
    }
    if path.chars().any(char::is_control) {
        return invalid("contains a control character");
    }
    if components.len() > MAX_CGROUP_DEPTH as usize {
        return Err(Problem::CgroupDepth {
            found: path.to_owned(),
            depth: components.len(),
        });
    }
    Ok(components.join("/").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_paths_are_normalised() {
        for (given, expected) in [
            ("kubepods/pod1", "kubepods/pod1"),
            ("/kubepods//./pod1/", "kubepods/pod1"),
            ("system.slice/vllm@0.service", "system.slice/vllm@0.service"),
            ("pod:0a1b-2c", "pod:0a1b-2c"),
        ] {
            assert_eq!(&*cgroup_path(given).unwrap(), expected);
        }
    }

    #[test]
    fn a_pod_has_a_uid() {
        for wrong in [
            "pod:",
            "pod:a/b",
            "pod:..",
            &format!("pod:{}", "a".repeat(MAX_POD_UID + 1)),
        ] {
            assert!(cgroup_path(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_deepest_cgroup_is_accepted() {
        let deepest = vec!["a"; MAX_CGROUP_DEPTH as usize].join("/");
        assert!(cgroup_path(&deepest).is_ok());
        assert!(cgroup_path(&format!("{deepest}/a")).is_err());
    }
}
