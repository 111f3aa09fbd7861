// SPDX-License-Identifier: Apache-2.0
//! What a request comes down to in the store: a pure function of the request and the state.
//!
//! Called by `writer`. Invariant: a plan names the version of every resource that it was made from, so it is done on that state
//! or not at all; what it claims is kept free by the fence, which `writer` adds.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use bytes::Bytes;
use nodemesh_model::{Kind, ResourceName, name::DEFAULT_NAMESPACE};
use serde_json::{Value, json};

use super::{
    address::AddressRanges,
    conflict,
    document::{self, Document},
    error::RegistryError,
    key::{self, Key},
    state::{Entry, Released, State},
};
use crate::store::{Change, LeaseId, Precondition, Revision, Transaction};

/// An address for documentation (RFC 5737).
const UNUSED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Something to be written.
#[derive(Clone, Debug)]
pub(super) enum Request {
    /// A document of a user, or of a server with its lease.
    Apply {
        value: Value,
        expected: Precondition,
        lease: Option<LeaseId>,
    },
    /// The end of a resource.
    Delete { key: Key, expected: Precondition },
}

/// What is to be done about a request.
#[derive(Debug)]
pub(super) struct Plan {
    /// The resource.
    pub(super) key: Key,
    /// What it was before.
    pub(super) former: Option<Arc<Entry>>,
    /// The version that it had before, also if it was no resource.
    version: Option<Revision>,
    /// What it will be; its version is that of `former` if nothing changes.
    pub(super) entry: Option<Arc<Entry>>,
    /// What to write; empty if the document is as it was.
    pub(super) changes: Vec<Change>,
    /// Addresses that are given up, to be kept back for a while.
    pub(super) released: Vec<IpAddr>,
    /// Whether others must not claim something at the same time.
    pub(super) is_fenced: bool,
}

impl Plan {
    /// The plan for `request`; `state` becomes what it will be.
    pub(super) fn of(
        request: &Request,
        ranges: &AddressRanges,
        state: &mut State,
    ) -> Result<Self, RegistryError> {
        match request {
            Request::Apply {
                value,
                expected,
                lease,
            } => Self::apply(value.clone(), *expected, *lease, ranges, state),
            Request::Delete { key, expected } => Self::delete(key, *expected, ranges, state),
        }
    }

    fn apply(
        mut value: Value,
        expected: Precondition,
        lease: Option<LeaseId>,
        ranges: &AddressRanges,
        state: &mut State,
    ) -> Result<Self, RegistryError> {
        fill_in_addresses(&mut value, ranges, state)?;
        let Document { key, value, resource } = Document::parse(value)?;
        let (former, version) = (state.get(&key).cloned(), state.version_of(&key));
        check(&key, expected, version)?;
        if lease.is_some() && key.kind != Kind::Workload {
            return Err(RegistryError::NotAWorkload { key });
        }
        match former.as_ref().map(|former| former.lease) {
            Some(Some(former)) if lease.is_none() => {
                return Err(RegistryError::Registered { key, lease: former });
            }
            Some(None) if lease.is_some() => return Err(RegistryError::Applied { key }),
            _ => {}
        }
        let is_fenced = conflict::claims_something(&resource);
        let text: Arc<str> = value.to_string().into();
        let is_same = former
            .as_ref()
            .is_some_and(|former| former.lease == lease && is_document(&former.document, &value));
        let entry = Arc::new(Entry {
            key: key.clone(),
            version: former
                .as_ref()
                .map_or(Revision::default(), |former| former.version),
            lease,
            document: Arc::clone(&text),
            resource,
        });
        state.insert(Arc::clone(&entry))?;
        let mut plan = Self {
            key,
            former,
            version,
            entry: Some(entry),
            changes: Vec::new(),
            released: Vec::new(),
            is_fenced,
        };
        if !is_same {
            plan.changes.push(Change::Put {
                key: plan.key.to_string().into(),
                value: Bytes::copy_from_slice(text.as_bytes()),
                lease,
            });
            plan.move_addresses(ranges, state);
        }
        Ok(plan)
    }

    fn delete(
        key: &Key,
        expected: Precondition,
        ranges: &AddressRanges,
        state: &mut State,
    ) -> Result<Self, RegistryError> {
        let (former, version) = (state.get(key).cloned(), state.version_of(key));
        check(key, expected, version)?;
        if version.is_none() {
            return Err(RegistryError::NotFound { key: key.clone() });
        }
        state.remove(key);
        let mut plan = Self {
            key: key.clone(),
            former,
            version,
            entry: None,
            changes: vec![Change::Delete {
                key: key.to_string().into(),
            }],
            released: Vec::new(),
            is_fenced: false,
        };
        plan.move_addresses(ranges, state);
        Ok(plan)
    }

    /// Keeps back the addresses that the service gives up, and takes those back that it has now.
    fn move_addresses(&mut self, ranges: &AddressRanges, state: &mut State) {
        let addresses = |entry: &Option<Arc<Entry>>| {
            entry
                .as_ref()
                .and_then(|entry| entry.service())
                .map_or_else(Vec::new, |service| service.addresses.clone())
        };
        let (old, new) = (addresses(&self.former), addresses(&self.entry));
        let given_up = |address: &IpAddr| {
            !new.contains(address) && ranges.contains(*address) && !state.is_taken(*address)
        };
        self.released = old.iter().copied().filter(given_up).collect();
        for address in &self.released {
            let owner = self.key.name.as_str().into();
            state.released.insert(*address, Released { owner });
        }
        for address in new {
            if state.released.remove(&address).is_some() {
                self.changes.push(Change::Delete {
                    key: key::released(address).into(),
                });
            }
        }
    }

    /// The keys that it writes.
    pub(super) fn keys(&self) -> impl Iterator<Item = String> {
        let changed = self.changes.iter().map(|change| change.key().to_string());
        changed.chain(self.released.iter().map(|address| key::released(*address)))
    }

    /// Length of the values that it writes, bytes.
    pub(super) fn size(&self) -> usize {
        self.changes
            .iter()
            .map(|change| match change {
                Change::Put { value, .. } => value.len(),
                Change::Delete { .. } => 0,
            })
            .sum()
    }

    /// Adds it to `transaction`; `grace` is the lease that ends when its addresses may be given away.
    pub(super) fn add_to(&self, mut transaction: Transaction, grace: Option<LeaseId>) -> Transaction {
        transaction = transaction.check(&self.key.to_string(), self.version.into());
        transaction.changes.extend(self.changes.iter().cloned());
        if grace.is_some() {
            let owner = Bytes::from(self.key.name.to_string());
            for address in &self.released {
                transaction = transaction.put(&key::released(*address), owner.clone(), grace);
            }
        }
        transaction
    }
}

/// Whether `text` is `value`, however it is written.
fn is_document(text: &str, value: &Value) -> bool {
    serde_json::from_str::<Value>(text).is_ok_and(|read| read == *value)
}

fn check(key: &Key, expected: Precondition, found: Option<Revision>) -> Result<(), RegistryError> {
    if expected.holds(found) {
        Ok(())
    } else {
        Err(RegistryError::Conflict {
            key: key.clone(),
            expected,
            found,
        })
    }
}

/// Gives a service without addresses those that it has already, or new ones.
fn fill_in_addresses(value: &mut Value, ranges: &AddressRanges, state: &State) -> Result<(), RegistryError> {
    if !document::wants_addresses(value) {
        return Ok(());
    }
    let text = |pointer| value.pointer(pointer).and_then(Value::as_str);
    let namespace = text("/metadata/namespace").unwrap_or(DEFAULT_NAMESPACE);
    let name = text("/metadata/name").and_then(|name| ResourceName::new(namespace, name).ok());
    let addresses = match name.map(|name| (state.service(&name), name)) {
        Some((Some(service), _)) => service.addresses.clone(),
        Some((None, name)) => ranges.allocate(&name, state)?,
        // The model is to say what is wrong with the name, not that addresses are missing.
        None => vec![UNUSED],
    };
    value["spec"]["addresses"] = json!(addresses);
    Ok(())
}
