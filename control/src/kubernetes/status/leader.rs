// SPDX-License-Identifier: Apache-2.0
//! Which of several control planes writes to the cluster: the holder of a `Lease`.
//!
//! Driven by `status`. Source: Kubernetes documentation, "Leases" (leader election). Invariant: who could not renew in time does not
//! write; every write of the lease names the version that was read, so two never hold it at once. All of them serve the nodes,
//! leader or not.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

/// Name of the lease.
const NAME: &str = "nodemesh-control";
/// How long a lease lives without a renewal.
const DURATION: Duration = Duration::from_secs(15);

/// The lease, as one of those who want it sees it.
pub(super) struct Leader {
    leases: Api<Lease>,
    identity: String,
    /// Until when the lease is ours, by the monotonic clock of this process.
    until: Option<Instant>,
    others: Others,
}

/// What is known of other holders. Clocks of others are not asked: the time that counts is how long nothing new was seen, by our own.
#[derive(Debug, Default)]
struct Others {
    /// The version that another holder wrote, and since when it is known.
    seen: Option<(String, Instant)>,
}

impl Leader {
    pub(super) fn new(client: &Client, identity: String) -> Self {
        Self {
            leases: Api::default_namespaced(client.clone()),
            identity,
            until: None,
            others: Others::default(),
        }
    }

    /// Whether the lease is ours.
    pub(super) fn is_leading(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    /// Takes the lease if it is free, renews it if it is ours. To be called every few seconds.
    pub(super) async fn campaign(&mut self) -> Result<(), kube::Error> {
        let began = Instant::now();
        let Some(lease) = self.leases.get_opt(NAME).await? else {
            let created = self
                .leases
                .create(&PostParams::default(), &self.written(None))
                .await;
            return self.conclude(created, began);
        };
        if !self.others.are_gone(&lease, &self.identity, began) {
            self.until = None;
            return Ok(());
        }
        let written = self.written(Some(lease));
        let replaced = self.leases.replace(NAME, &PostParams::default(), &written).await;
        self.conclude(replaced, began)
    }

    /// Gives the lease back, so that another one need not wait until it is over.
    pub(super) async fn resign(&mut self) -> Result<(), kube::Error> {
        if !self.is_leading() {
            return Ok(());
        }
        self.until = None;
        let Some(mut lease) = self.leases.get_opt(NAME).await? else {
            return Ok(());
        };
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = None;
        let replaced = self.leases.replace(NAME, &PostParams::default(), &lease).await;
        replaced.map(drop)
    }

    fn conclude(&mut self, written: kube::Result<Lease>, began: Instant) -> Result<(), kube::Error> {
        match written {
            Ok(_) => {
                self.until = Some(began + DURATION);
                Ok(())
            }
            // Another one was faster.
            Err(kube::Error::Api(status)) if status.code == 409 => {
                self.until = None;
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn written(&self, former: Option<Lease>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let (metadata, former) = match former {
            Some(lease) => (lease.metadata, lease.spec.unwrap_or_default()),
            None => (
                ObjectMeta {
                    name: Some(NAME.to_owned()),
                    ..ObjectMeta::default()
                },
                LeaseSpec::default(),
            ),
        };
        let is_ours = former.holder_identity.as_deref() == Some(&self.identity);
        let transitions = former.lease_transitions.unwrap_or_default();
        Lease {
            metadata,
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: former
                    .acquire_time
                    .filter(|_| is_ours)
                    .or_else(|| Some(now.clone())),
                renew_time: Some(now),
                lease_transitions: Some(if is_ours { transitions } else { transitions + 1 }),
                ..former
            }),
        }
    }
}

impl Others {
    /// Whether nobody but `own` holds the lease: a holder that has not renewed for the duration, since we saw the last renewal, is gone.
    fn are_gone(&mut self, lease: &Lease, own: &str, now: Instant) -> bool {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref());
        if holder.is_none_or(|holder| holder.is_empty() || holder == own) {
            return true;
        }
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
        let duration = seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DURATION, Duration::from_secs);
        match &self.seen {
            Some((seen, since)) if *seen == version => now.duration_since(*since) > duration,
            _ => {
                self.seen = Some((version, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// The lease of another one, with what its clock says.
    fn lease(version: &str, renewed: &str) -> Lease {
        let lease = json!({
            "metadata": {"resourceVersion": version},
            "spec": {"holderIdentity": "other", "leaseDurationSeconds": 15, "renewTime": renewed},
        });
        serde_json::from_value(lease).unwrap()
    }

    #[test]
    fn the_clock_of_the_holder_is_not_asked() {
        const PAST: &str = "2001-01-01T00:00:00.000000Z";
        const FUTURE: &str = "2099-01-01T00:00:00.000000Z";
        let (mut others, start) = (Others::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        // It renews, and its clock is decades behind: the lease is its own.
        for (version, seconds) in [("1", 0), ("2", 10), ("3", 20), ("4", 30)] {
            assert!(!others.are_gone(&lease(version, PAST), "own", at(seconds)));
        }
        assert!(!others.are_gone(&lease("4", PAST), "own", at(45)));
        assert!(
            others.are_gone(&lease("4", PAST), "own", at(46)),
            "16 s after it was seen for the last time"
        );
        // It has died, and its clock was decades ahead.
        assert!(!others.are_gone(&lease("5", FUTURE), "own", at(50)));
        assert!(others.are_gone(&lease("5", FUTURE), "own", at(66)));
        assert!(
            others.are_gone(&lease("6", FUTURE), "other", at(67)),
            "it is ours"
        );
    }
}
