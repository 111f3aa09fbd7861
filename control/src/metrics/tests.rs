// SPDX-License-Identifier: Apache-2.0
//! The text that Prometheus reads, and the measured store.

use std::{sync::Arc, time::Duration};

use tonic::Code;

use super::*;
use crate::{
    security::METHODS,
    store::{LeaseId, Store as _, StoreError, embedded::EmbeddedStore},
};

fn text(metrics: &Metrics) -> String {
    prometheus::TextEncoder::new()
        .encode_to_string(&metrics.registry.gather())
        .unwrap()
}

#[test]
fn calls_are_counted_once() {
    let metrics = Metrics::new().unwrap();
    let method = |name: &str| METHODS.into_iter().find(|method| method.name == name).unwrap();
    for name in ["Registry/List", "Registry/Watch"] {
        metrics.call_began(method(name));
        metrics.call_began(method(name));
        metrics.call_ended(method(name), Code::Unauthenticated, Duration::from_millis(3));
    }
    let text = text(&metrics);
    for line in [
        "nodemesh_control_requests_total{code=\"UNAUTHENTICATED\",method=\"Registry/List\"} 1",
        "nodemesh_control_calls{method=\"Registry/List\"} 1",
        "nodemesh_control_calls{method=\"Registry/Watch\"} 1",
        "nodemesh_control_request_duration_seconds_count{method=\"Registry/List\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
    assert!(
        !text.contains("request_duration_seconds_count{method=\"Registry/Watch\"}"),
        "streams have no duration"
    );
}

#[tokio::test]
async fn what_the_store_does_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Arc::new(Metrics::new().unwrap());
    let inner = Arc::new(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
    let store = MeasuredStore::new(inner, Arc::clone(&metrics));
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    store.renew(lease.id).await.unwrap();
    store.revoke(lease.id).await.unwrap();
    let gone = store.renew(LeaseId(lease.id.0)).await;
    assert!(matches!(gone, Err(StoreError::LeaseGone { .. })), "{gone:?}");
    let text = text(&metrics);
    for line in [
        "nodemesh_control_store_duration_seconds_count{op=\"grant\"} 1",
        "nodemesh_control_store_duration_seconds_count{op=\"renew\"} 2",
        "nodemesh_control_store_errors_total{op=\"renew\",reason=\"lease_gone\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in {text}");
    }
}
