// SPDX-License-Identifier: Apache-2.0
//! Registration: Register, Renew, Deregister.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use nodemesh_proto::v1;
use prometheus::IntCounterVec;
use tonic::{Status, Streaming};

use super::{
    entry::{document, lease},
    status::of_registry,
};
use crate::{
    metrics::Metrics,
    registry::{Registry, RegistryError},
    store::{LeaseId, StoreError},
};

/// How long registrations last.
#[derive(Clone, Copy, Debug)]
pub struct LeaseTimes {
    /// Unless a server asks for another time.
    pub default: Duration,
    /// At least.
    pub least: Duration,
    /// At most.
    pub most: Duration,
}

impl LeaseTimes {
    /// What a server gets that asks for `seconds`, 0 for the default.
    pub fn granted(&self, seconds: u32) -> Duration {
        let asked = match seconds {
            0 => self.default,
            seconds => Duration::from_secs(seconds.into()),
        };
        asked.min(self.most).max(self.least)
    }
}

pub(super) async fn register(
    registry: &Registry,
    times: &LeaseTimes,
    request: v1::RegisterRequest,
) -> Result<v1::RegisterResponse, Status> {
    let document = document(&request.resource)?;
    let former = match request.lease {
        0 => None,
        former => Some(lease(former)?),
    };
    let registration = registry
        .register(document, times.granted(request.ttl_seconds))
        .await
        .map_err(|error| of_registry(&error))?;
    if let Some(former) = former.filter(|former| *former != registration.lease.id) {
        // The registry ended it already if it was that of the same workload.
        if let Err(error) = registry.deregister(former).await
            && !is_gone(&error)
        {
            tracing::warn!(lease = %former, %error, "a replaced lease stays until it expires");
        }
    }
    Ok(v1::RegisterResponse {
        lease: registration.lease.id.0,
        ttl_seconds: whole_seconds(registration.lease.ttl),
        version: registration.version.to_string(),
    })
}

pub(super) async fn deregister(
    registry: &Registry,
    request: &v1::DeregisterRequest,
) -> Result<v1::DeregisterResponse, Status> {
    let ended = registry.deregister(lease(request.lease)?).await;
    ended.map_err(|error| of_registry(&error))?;
    Ok(v1::DeregisterResponse {})
}

/// Answers renewals one by one: a client that sends faster than the store renews has to wait.
pub(super) fn renewals(
    registry: Registry,
    metrics: Arc<Metrics>,
    requests: Streaming<v1::RenewRequest>,
) -> impl Stream<Item = Result<v1::RenewResponse, Status>> + Send {
    let answers = requests.then(move |request| {
        let registry = registry.clone();
        let renewals = metrics.renewals.clone();
        async move {
            let asked = request?.lease;
            renew(&registry, lease(asked)?, &renewals).await
        }
    });
    until_error(answers)
}

async fn renew(
    registry: &Registry,
    lease: LeaseId,
    renewals: &IntCounterVec,
) -> Result<v1::RenewResponse, Status> {
    let (outcome, answer) = match registry.renew(lease).await {
        Ok(renewed) => ("renewed", Ok(whole_seconds(renewed.ttl))),
        Err(error) if is_gone(&error) => ("gone", Ok(0)),
        Err(error) => ("failed", Err(of_registry(&error))),
    };
    renewals.with_label_values(&[outcome]).inc();
    Ok(v1::RenewResponse {
        lease: lease.0,
        ttl_seconds: answer?,
    })
}

/// The stream up to its first error, which is a call's last word.
pub(super) fn until_error<T: Send>(
    items: impl Stream<Item = Result<T, Status>> + Send,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let items = Box::pin(items);
    stream::unfold(Some(items), |items| async move {
        let mut items = items?;
        let item = items.next().await?;
        let rest = item.is_ok().then_some(items);
        Some((item, rest))
    })
}

fn is_gone(error: &RegistryError) -> bool {
    matches!(error, RegistryError::Store(StoreError::LeaseGone { .. }))
}

fn whole_seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_kept_within_the_limits() {
        let times = LeaseTimes {
            default: Duration::from_secs(10),
            least: Duration::from_secs(5),
            most: Duration::from_secs(60),
        };
        for (asked, granted) in [(0, 10), (1, 5), (5, 5), (30, 30), (60, 60), (u32::MAX, 60)] {
            assert_eq!(times.granted(asked), Duration::from_secs(granted), "{asked}");
        }
    }
}
