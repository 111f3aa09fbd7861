// SPDX-License-Identifier: Apache-2.0
//! A store that is measured.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;

use super::Metrics;
use crate::store::{Item, Lease, LeaseId, Listing, Revision, Store, StoreError, Transaction, Watch};

/// Does what another store does, and notes how long it took and what went wrong.
pub struct MeasuredStore {
    inner: Arc<dyn Store>,
    metrics: Arc<Metrics>,
}

impl MeasuredStore {
    /// Measures `inner`.
    pub fn new(inner: Arc<dyn Store>, metrics: Arc<Metrics>) -> Self {
        Self { inner, metrics }
    }

    async fn measured<T>(
        &self,
        op: &'static str,
        operation: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let began = Instant::now();
        let result = operation.await;
        let durations = self.metrics.store_duration.with_label_values(&[op]);
        durations.observe(began.elapsed().as_secs_f64());
        if let Err(error) = &result {
            self.metrics
                .store_errors
                .with_label_values(&[op, reason(error)])
                .inc();
        }
        result
    }
}

#[async_trait]
impl Store for MeasuredStore {
    async fn commit(&self, transaction: Transaction) -> Result<Revision, StoreError> {
        self.measured("commit", self.inner.commit(transaction)).await
    }

    async fn get(&self, key: &str) -> Result<Option<Item>, StoreError> {
        self.measured("get", self.inner.get(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        self.measured("list", self.inner.list(prefix)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.measured("watch", self.inner.watch(prefix, from)).await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.measured("grant", self.inner.grant(ttl)).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<Lease, StoreError> {
        self.measured("renew", self.inner.renew(lease)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.measured("revoke", self.inner.revoke(lease)).await
    }
}

fn reason(error: &StoreError) -> &'static str {
    match error {
        StoreError::Conflict { .. } => "conflict",
        StoreError::LeaseGone { .. } => "lease_gone",
        StoreError::Compacted { .. } => "compacted",
        StoreError::TooLarge { .. } | StoreError::Transaction { .. } => "too_large",
        StoreError::Full { .. } => "full",
        StoreError::Corrupt { .. } => "corrupt",
        StoreError::Locked { .. } => "locked",
        StoreError::Io { .. } => "io",
        StoreError::Unavailable { .. } => "unavailable",
        StoreError::Format { .. } => "format",
        StoreError::Refused { .. } | StoreError::ReadOnly { .. } => "refused",
    }
}
