// SPDX-License-Identifier: Apache-2.0
//! What the kernel's maps should hold: the resources, compiled. Made by the agent at each change of its resources and
//! compared with what the maps do hold.
//!
//! ```text
//! (old Resources, new Resources) --changes--> stale services --select--> their workloads --expand, admission--> frontends
//!                                   └────────> workloads, access policies --principals--> principals, prefixes
//! ```
//!
//! Invariant: compiling on top of a previous result gives what compiling from scratch gives; a frontend none of whose inputs
//! changed keeps its allocation.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use nodemesh_abi::{
    Ip16, Protocol,
    client::mix,
    limits::{MAX_BACKENDS, MAX_IDENTITIES},
};

use crate::{
    access::{Prefix, Principal, PrincipalName},
    frontend::{Frontend, FrontendName},
    keyword::Family,
    name::ResourceName,
    resource::{Locality, Service, Workload},
    resources::Resources,
};

mod admission;
mod changes;
mod expand;
mod principals;
mod select;

pub use expand::frontends;
pub use select::selected;

use admission::Admission;

/// The compiled resources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Desired {
    /// What clients can dial.
    pub frontends: BTreeMap<FrontendName, Arc<Frontend>>,
    /// The workloads that are known by their cgroup, by name.
    pub clients: BTreeMap<ResourceName, Client>,
    /// The clients that policies tell apart; [`PrincipalName::Unknown`] is always there.
    pub principals: BTreeMap<PrincipalName, Arc<Principal>>,
    /// What the address of a client tells about it, the longest prefix first; unknown where there is none. Empty without access
    /// policies.
    pub prefixes: BTreeMap<Prefix, PrincipalName>,
    backends: usize,
}

/// A workload as a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Client {
    /// Hash of its name, the same on every node, never 0: [`workload_hash`].
    pub workload: u64,
    /// Its first address, or unspecified.
    pub addr: Ip16,
    /// Path of its cgroup below the cgroup v2 root, without a leading `/`.
    pub cgroup: Arc<str>,
    /// Its principal.
    pub principal: PrincipalName,
    /// Whether connections that it opens take the shortcut, whatever the service says: [`SHORTCUT_LABEL`].
    pub shortcut: bool,
}

/// The label of a workload whose connections take the shortcut, with the value `enabled`.
pub const SHORTCUT_LABEL: &str = "nodemesh.io/shortcut";

/// Why valid resources cannot be compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// Selectors multiply the backends beyond the limit.
    #[error(
        "the services have more than {MAX_BACKENDS} backends, selected workloads and each port counted; narrow the selectors, or split the mesh"
    )]
    TooManyBackends,
    /// Policies tell apart more clients than the kernel has numbers for.
    #[error(
        "the workloads and the address ranges of the access policies are more than {MAX_IDENTITIES}, and a client without a number could not be denied; name fewer ranges, or split the mesh"
    )]
    TooManyPrincipals,
}

impl Desired {
    /// Compiles `resources`, reusing what `previous` holds of services whose inputs are the same allocations.
    ///
    /// `node` says where this node is. The second of `previous` must have been compiled from the first, for the same node.
    pub fn compile(
        resources: &Resources,
        node: &Locality,
        previous: Option<(&Resources, &Self)>,
    ) -> Result<Self, CompileError> {
        let scratch = (&Resources::default(), &Self::default());
        let (old, compiled) = previous.unwrap_or(scratch);
        let changes = changes::between(old, resources);
        let mut desired = compiled.clone();
        let mut outdated = BTreeMap::new();
        let mut admission = Admission::new(resources, node, compiled);
        for service in changes.gone.iter().chain(&changes.outdated) {
            desired.remove(service, &mut outdated);
        }
        for services in changes
            .stale
            .chunk_by(|a, b| a.metadata.name.namespace() == b.metadata.name.namespace())
        {
            let room = MAX_BACKENDS.saturating_sub(desired.backends);
            let selected = select::select(services, resources, room).ok_or(CompileError::TooManyBackends)?;
            for (service, workloads) in services.iter().zip(&selected) {
                let policy = resources.policy_of(&service.metadata.name).map(Arc::as_ref);
                for mut frontend in frontends(service, policy, workloads) {
                    admission.complete(&mut frontend);
                    desired.insert(frontend, &mut outdated)?;
                }
            }
        }
        for (before, after) in &changes.workloads {
            if let Some(workload) = before {
                desired.clients.remove(&workload.metadata.name);
            }
            if let Some((workload, client)) = after.and_then(|workload| Some((workload, client(workload)?))) {
                desired.clients.insert(workload.metadata.name.clone(), client);
            }
        }
        // Before the first compilation there is not even the unknown principal.
        if previous.is_none() || changes.access || !changes.workloads.is_empty() {
            (desired.principals, desired.prefixes) = principals::compile(resources, &compiled.principals);
        }
        if !resources.access_policies().is_empty() && desired.principals.len() > MAX_IDENTITIES as usize {
            return Err(CompileError::TooManyPrincipals);
        }
        Ok(desired)
    }

    /// Number of backends of all frontends together: rows of the `backends` map.
    pub fn backend_count(&self) -> usize {
        self.backends
    }

    /// Who a client at `address` is to a server's node, which knows nothing but this address.
    pub fn principal_at(&self, address: IpAddr) -> (PrincipalName, Arc<Principal>) {
        let mut prefixes = (0..=128).rev().map(|bits| Prefix::of(address, bits));
        let name = prefixes
            .find_map(|prefix| self.prefixes.get(&prefix))
            .cloned()
            .unwrap_or_default();
        let principal = match (&name, self.principals.get(&name)) {
            (PrincipalName::Unknown, _) | (_, None) => Arc::new(Principal::new([], Vec::new(), true)),
            (_, Some(principal)) => Arc::clone(principal),
        };
        (name, principal)
    }

    /// The frontends of `service`, by port, protocol and family.
    pub fn frontends_of(&self, service: &ResourceName) -> impl Iterator<Item = &Arc<Frontend>> + use<'_> {
        let name = |port, protocol, family| FrontendName {
            service: service.clone(),
            port,
            protocol,
            family,
        };
        let first = name(0, Protocol::Tcp, Family::V4);
        let last = name(u16::MAX, Protocol::Udp, Family::V6);
        self.frontends.range(first..=last).map(|(_, frontend)| frontend)
    }

    /// Moves the frontends of `service` to `outdated`.
    fn remove(&mut self, service: &Service, outdated: &mut BTreeMap<FrontendName, Arc<Frontend>>) {
        for name in expand::names(service) {
            if let Some((name, frontend)) = self.frontends.remove_entry(&name) {
                self.backends -= frontend.backends.len();
                outdated.insert(name, frontend);
            }
        }
    }

    /// Inserts `frontend`, or what `outdated` has of the same content.
    fn insert(
        &mut self,
        frontend: Frontend,
        outdated: &mut BTreeMap<FrontendName, Arc<Frontend>>,
    ) -> Result<(), CompileError> {
        self.backends += frontend.backends.len();
        if self.backends > MAX_BACKENDS {
            return Err(CompileError::TooManyBackends);
        }
        let name = frontend.name();
        let frontend = match outdated.remove(&name) {
            Some(old) if *old == frontend => old,
            _ => Arc::new(frontend),
        };
        self.frontends.insert(name, frontend);
        Ok(())
    }
}

fn client(workload: &Workload) -> Option<Client> {
    let cgroup = Arc::clone(workload.cgroup.as_ref()?);
    let addr = workload
        .addresses
        .first()
        .map_or(Ip16::UNSPECIFIED, |address| (*address).into());
    Some(Client {
        workload: workload_hash(&workload.metadata.name),
        addr,
        cgroup,
        principal: PrincipalName::Workload(workload.metadata.name.clone()),
        shortcut: workload
            .metadata
            .labels
            .get(SHORTCUT_LABEL)
            .is_some_and(|value| &**value == "enabled"),
    })
}

/// The hash that stands for a workload in the kernel: 64-bit FNV-1a of `namespace/name`, mixed by
/// [`nodemesh_abi::client::mix`], and 1 in place of 0.
pub fn workload_hash(name: &ResourceName) -> u64 {
    name_hash(name.as_str())
}

/// As [`workload_hash`], of any text.
pub fn name_hash(text: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let hash = text
        .bytes()
        .fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME));
    mix(hash).max(1)
}

#[cfg(test)]
mod tests;
