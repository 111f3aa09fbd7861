// SPDX-License-Identifier: Apache-2.0
//! The store of several control planes: an etcd cluster (3.4 or later), which has leases, transactions and watches itself.
//!
//! ```text
//! calls ----> members (one at a time, another one after a failure) --gRPC--> etcd
//! renewals -> one stream
//! watches --> one stream each, opened again after the last revision told
//! ```
//!
//! Invariant: reads and writes go through a quorum (etcd's default), so a replica reads what any other one was acknowledged.

mod members;
mod renewals;
mod watching;
mod wire;

use std::{future::Future, time::Duration};

use async_trait::async_trait;
use tonic::{Code, Response, Status};

use super::{Change, Item, Lease, LeaseId, Listing, Revision, Store, StoreError, Transaction, Watch};
use api::{LeaseGrantRequest, LeaseRevokeRequest, RangeRequest, RangeResponse, ResponseHeader};
use members::{CALL_WITHIN, Members};
use renewals::Renewals;
use wire::Prefix;

/// etcd's API.
#[expect(
    clippy::allow_attributes_without_reason,
    clippy::enum_variant_names,
    clippy::pedantic,
    unused_qualifications,
    reason = "generated"
)]
mod api {
    tonic::include_proto!("etcdserverpb");
}

/// Most items of one answer of a listing.
const PAGE: i64 = 2_000;

/// Where etcd is.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// `HOST:PORT` of its members.
    pub endpoints: Vec<String>,
    /// What our keys begin with; other users of the same etcd stay out of there.
    pub prefix: String,
    /// Without it, etcd is spoken to in plaintext.
    pub tls: Option<EtcdTls>,
}

/// How to speak to etcd over TLS; all in PEM form.
#[derive(Clone)]
pub struct EtcdTls {
    /// Certificates that etcd's come from.
    pub ca: Vec<u8>,
    /// Certificate and key to show to etcd, whose common name is our user there if etcd has users.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls").finish_non_exhaustive()
    }
}

/// A store in an etcd cluster.
#[derive(Debug)]
pub struct EtcdStore {
    members: Members,
    renewals: Renewals,
    prefix: Prefix,
}

impl EtcdStore {
    /// Finds a member that works.
    pub async fn connect(options: EtcdOptions) -> Result<Self, StoreError> {
        let members = Members::new(&options)?;
        members.kv("connect").await?;
        Ok(Self {
            renewals: Renewals::start(members.clone()),
            members,
            prefix: Prefix(options.prefix.into()),
        })
    }

    /// One call of etcd, with `refused` for what its errors mean in this case.
    async fn call<T>(
        &self,
        op: &'static str,
        call: impl Future<Output = Result<Response<T>, Status>> + Send,
    ) -> Result<T, Failed> {
        let status = match tokio::time::timeout(CALL_WITHIN, call).await {
            Ok(Ok(response)) => return Ok(response.into_inner()),
            Ok(Err(status)) => status,
            Err(_) => Status::deadline_exceeded("no answer"),
        };
        let error = wire::failure(op, &status);
        if matches!(error, StoreError::Unavailable { .. }) {
            self.members.suspect();
        }
        Err(Failed { status, error })
    }

    async fn range(&self, op: &'static str, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        let from = request.revision;
        let mut again = true;
        loop {
            let mut client = self.members.kv(op).await?;
            match self.call(op, client.range(request.clone())).await {
                Ok(response) => return Ok(response),
                // Compacted while it was listed page by page.
                Err(failed) if failed.status.code() == Code::OutOfRange => {
                    return Err(StoreError::Compacted {
                        from: wire::revision(from),
                        oldest: wire::revision(from + 1),
                    });
                }
                // A read can be repeated, on another member.
                Err(Failed {
                    error: StoreError::Unavailable { .. },
                    ..
                }) if again => again = false,
                Err(failed) => return Err(failed.error),
            }
        }
    }

    async fn try_list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let (mut key, range_end) = self.prefix.range(prefix);
        let (mut items, mut revision) = (Vec::new(), 0);
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE,
                revision,
                ..RangeRequest::default()
            };
            let page = self.range("list", request).await?;
            if revision == 0 {
                revision = revision_of(page.header);
            }
            let next = page.kvs.last().map(|row| [&row.key[..], &[0]].concat());
            items.extend(page.kvs.into_iter().filter_map(|row| self.prefix.item(row)));
            match next.filter(|_| page.more) {
                Some(next) => key = next,
                None => break,
            }
        }
        Ok(Listing {
            items,
            revision: wire::revision(revision),
        })
    }
}

/// A call that failed.
struct Failed {
    status: Status,
    error: StoreError,
}

impl Failed {
    /// etcd's word for a lease that is not there.
    fn or_gone(self, lease: Option<LeaseId>) -> StoreError {
        match lease {
            Some(lease) if self.status.code() == Code::NotFound => StoreError::LeaseGone { lease },
            _ => self.error,
        }
    }
}

#[async_trait]
impl Store for EtcdStore {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        transaction.validate()?;
        let mut client = self.members.kv("write").await?;
        let response = self
            .call("write", client.txn(self.prefix.transaction(&transaction)))
            .await;
        let response = response.map_err(|failed| failed.or_gone(first_lease(&transaction)))?;
        if response.succeeded {
            Ok(wire::revision(revision_of(response.header)))
        } else {
            Err(Prefix::conflict(&transaction, response))
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        let request = RangeRequest {
            key: self.prefix.key(key),
            ..RangeRequest::default()
        };
        let found = self.range("get", request).await?.kvs.into_iter().next();
        Ok(found.and_then(|row| self.prefix.item(row)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        loop {
            match self.try_list(prefix).await {
                Err(StoreError::Compacted { .. }) => {}
                result => return result,
            }
        }
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        watching::watch(self.members.clone(), self.prefix.clone(), prefix, from).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        const OP: &str = "grant a lease";
        let ttl = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        let mut client = self.members.lease(OP).await?;
        let granted = self.call(OP, client.lease_grant(LeaseGrantRequest { ttl })).await;
        let granted = granted.map_err(|failed| failed.error)?;
        if !granted.error.is_empty() {
            return Err(wire::refused(OP, &granted.error));
        }
        Ok(Lease {
            id: LeaseId(granted.id),
            ttl: Duration::from_secs(u64::try_from(granted.ttl).unwrap_or_default()),
        })
    }

    async fn renew(&self, lease: LeaseId) -> Result<Lease, StoreError> {
        let ttl = self.renewals.renew(lease.0).await?;
        ttl.map(|ttl| Lease { id: lease, ttl })
            .ok_or(StoreError::LeaseGone { lease })
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        const OP: &str = "revoke a lease";
        let mut client = self.members.lease(OP).await?;
        let revoked = self
            .call(OP, client.lease_revoke(LeaseRevokeRequest { id: lease.0 }))
            .await;
        revoked.map_err(|failed| failed.or_gone(Some(lease)))?;
        Ok(())
    }
}

/// The revision of etcd, from a quorum.
async fn read_revision(members: &Members) -> Result<Revision, StoreError> {
    let mut client = members.kv("watch").await?;
    let request = RangeRequest {
        key: vec![0],
        keys_only: true,
        ..RangeRequest::default()
    };
    let response = client
        .range(request)
        .await
        .map_err(|status| wire::failure("watch", &status))?;
    Ok(wire::revision(revision_of(response.into_inner().header)))
}

fn revision_of(header: Option<ResponseHeader>) -> i64 {
    header.map_or(0, |header| header.revision)
}

/// The lease that a transaction needs; of several, etcd does not say which one is gone.
fn first_lease(transaction: &Transaction) -> Option<LeaseId> {
    transaction.changes.iter().find_map(|change| match change {
        Change::Put { lease, .. } => *lease,
        Change::Delete { .. } => None,
    })
}

#[cfg(test)]
mod tests;
