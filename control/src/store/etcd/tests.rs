// SPDX-License-Identifier: Apache-2.0
//! The store on real etcd servers, and what becomes of it when they fail.

mod journal;
mod replicas;
mod server;
mod tls;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::{EtcdOptions, EtcdStore, api, wire};
use crate::store::{Precondition, Revision, Store, StoreError, conformance::conformance};
use journal::Journal;
use server::Cluster;

async fn open() -> (Arc<dyn Store>, Cluster) {
    let cluster = Cluster::start(1).await;
    let store = cluster.connect().await.unwrap();
    (Arc::new(store), cluster)
}

mod conformance_of_etcd {
    super::conformance! { super::open }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_etcd_is_killed() {
    let mut cluster = Cluster::start(1).await;
    let journal = Journal::start(Arc::new(cluster.connect().await.unwrap())).await;
    for _ in 0..3 {
        journal.until_acknowledged(100).await;
        cluster.kill(0);
        journal.until_refused(1).await;
        cluster.restart(0);
    }
    journal.until_acknowledged(100).await;
    journal.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_acknowledged_is_lost_when_etcd_is_paused() {
    let cluster = Cluster::start(1).await;
    let journal = Journal::start(Arc::new(cluster.connect().await.unwrap())).await;
    for _ in 0..2 {
        journal.until_acknowledged(100).await;
        cluster.pause(0, true);
        journal.until_refused(1).await;
        cluster.pause(0, false);
    }
    journal.until_acknowledged(100).await;
    journal.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_member_may_go_and_come_back() {
    let mut cluster = Cluster::start(3).await;
    let journal = Journal::start(Arc::new(cluster.connect().await.unwrap())).await;
    for index in 0..3 {
        journal.until_acknowledged(50).await;
        cluster.kill(index);
        journal.until_acknowledged(200).await;
        cluster.restart(index);
        journal.until_acknowledged(200).await;
        cluster.pause((index + 1) % 3, true);
        journal.until_acknowledged(200).await;
        cluster.pause((index + 1) % 3, false);
    }
    journal.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_survive_a_restart_and_are_renewed_after_it() {
    let mut cluster = Cluster::start(1).await;
    let store = cluster.connect().await.unwrap();
    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    store
        .put("a", Bytes::new(), Precondition::Any, Some(lease.id))
        .await
        .unwrap();
    assert_eq!(store.renew(lease.id).await.unwrap(), lease);
    cluster.kill(0);
    let asked = store.renew(lease.id);
    cluster.restart(0);
    assert_eq!(asked.await.unwrap(), lease, "renewals wait for etcd to come back");
    store.revoke(lease.id).await.unwrap();
    assert_eq!(store.get("a").await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_was_compacted_is_not_watched() {
    let (store, cluster) = open().await;
    let first = store
        .put("a", Bytes::new(), Precondition::Any, None)
        .await
        .unwrap();
    let mut last = first;
    for _ in 0..5 {
        last = store
            .put("a", Bytes::new(), Precondition::Any, None)
            .await
            .unwrap();
    }
    let mut kv = cluster
        .connect()
        .await
        .unwrap()
        .members
        .kv("compact")
        .await
        .unwrap();
    let revision = i64::try_from(last.0).unwrap();
    kv.compact(api::CompactionRequest { revision }).await.unwrap();
    let mut watch = store.watch("", first).await.unwrap();
    let error = watch.next().await.unwrap().unwrap_err();
    assert!(
        matches!(error, StoreError::Compacted { from, oldest } if from == first && oldest == last),
        "{error}"
    );
    assert!(store.watch("", last).await.is_ok());
    assert_eq!(store.list("").await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_others_are_not_ours() {
    let (store, cluster) = open().await;
    let from = store
        .put("a", Bytes::new(), Precondition::Any, None)
        .await
        .unwrap();
    let mut watch = store.watch("", from).await.unwrap();
    let mut kv = cluster
        .connect()
        .await
        .unwrap()
        .members
        .kv("write")
        .await
        .unwrap();
    for key in [&b"tes"[..], b"test", b"test0", b"test/\xff"] {
        let put = api::PutRequest {
            key: key.to_vec(),
            ..api::PutRequest::default()
        };
        let request = Some(api::request_op::Request::RequestPut(put));
        let transaction = api::TxnRequest {
            success: vec![api::RequestOp { request }],
            ..api::TxnRequest::default()
        };
        assert!(kv.txn(transaction).await.unwrap().into_inner().succeeded);
    }
    let last = store
        .put("b", Bytes::new(), Precondition::Any, None)
        .await
        .unwrap();
    assert_eq!(last, Revision(from.0 + 5));
    let listing = store.list("").await.unwrap();
    assert_eq!(
        listing.items.iter().map(|item| &*item.key).collect::<Vec<_>>(),
        ["a", "b"]
    );
    let batch = watch.next().await.unwrap().unwrap();
    assert_eq!((batch.events.len(), batch.revision), (1, last));
    let error = store
        .put("a", Bytes::new(), Precondition::Absent, None)
        .await
        .unwrap_err();
    let StoreError::Conflict { revision, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(revision, from, "a watch of ours has come this far");
}

#[tokio::test]
async fn no_etcd_is_an_error_that_says_so() {
    let options = EtcdOptions {
        endpoints: vec!["127.0.0.1:1".to_owned()],
        prefix: String::new(),
        tls: None,
    };
    let error = EtcdStore::connect(options).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains("no member of etcd works"), "{error}");
    assert_eq!(wire::revision(-1), Revision(0));
}
