// SPDX-License-Identifier: Apache-2.0
//! xDS streams, reports, and what `Nodes` makes of both.

use std::sync::Arc;

use nodemesh_proto::{
    v1::{ApplyRequest, NodeReport, NodeState, NodesRequest},
    xds::{
        envoy::{
            config::core::v3::Node,
            service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse},
        },
        google::rpc::Status as Rejection,
    },
};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use crate::harness::{Control, eventually, service, soon};

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn hello(node: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node {
            id: node.to_owned(),
            user_agent_name: "test".to_owned(),
            ..Node::default()
        }),
        type_url: CLUSTER.to_owned(),
        ..DeltaDiscoveryRequest::default()
    }
}

struct Reader {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

impl Reader {
    async fn connect(control: &Control, node: &str) -> Self {
        let (requests, receiver) = mpsc::channel(8);
        requests.send(hello(node)).await.unwrap();
        let mut ads = control.ads().await;
        let responses = ads
            .delta_aggregated_resources(from(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, responses }
    }

    async fn response(&mut self) -> DeltaDiscoveryResponse {
        soon("a response", self.responses.message())
            .await
            .unwrap()
            .unwrap()
    }

    /// The first response with a resource: the feed may be a moment behind what was acknowledged.
    async fn resource(&mut self) -> DeltaDiscoveryResponse {
        loop {
            let response = self.response().await;
            if !response.resources.is_empty() {
                return response;
            }
            self.answer(&response, None).await;
        }
    }

    async fn answer(&self, response: &DeltaDiscoveryResponse, error: Option<&str>) {
        let answer = DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|message| Rejection {
                code: 3,
                message: message.to_owned(),
                details: Vec::new(),
            }),
            ..DeltaDiscoveryRequest::default()
        };
        self.requests.send(answer).await.unwrap();
    }
}

pub fn from<T: Send + 'static>(receiver: mpsc::Receiver<T>) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::unfold(receiver, |mut receiver| async move {
        let item = receiver.recv().await?;
        Some((item, receiver))
    })
}

async fn nodes(control: &Control) -> Vec<NodeState> {
    let mut client = control.registry().await;
    client.nodes(NodesRequest {}).await.unwrap().into_inner().nodes
}

async fn apply(control: &Control, address: &str) {
    let request = ApplyRequest {
        resource: service("llama", &[address]).to_string(),
        ..ApplyRequest::default()
    };
    control.registry().await.apply(request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_shows_versions_and_refusals() {
    let control = Arc::new(Control::start(&[]).await);
    apply(&control, "10.96.0.1").await;
    let mut reader = Reader::connect(&control, "node-a").await;
    let response = reader.resource().await;
    reader.answer(&response, None).await;
    eventually("the acknowledgement shows", || async {
        let nodes = nodes(&control).await;
        nodes.len() == 1
            && nodes[0].id == "node-a"
            && nodes[0].version == "test"
            && nodes[0].connected_since_ms > 0
            && nodes[0]
                .types
                .iter()
                .any(|state| state.type_url == CLUSTER && state.acked_version == response.system_version_info)
    })
    .await;
    let mut policy = service("llama", &["10.96.0.1"]);
    policy["kind"] = "TrafficPolicy".into();
    policy["spec"] = serde_json::json!({"targetRef": {"kind": "Service", "name": "llama"},
                                        "loadBalancer": {"algorithm": "random"}});
    let request = ApplyRequest {
        resource: policy.to_string(),
        ..ApplyRequest::default()
    };
    control.registry().await.apply(request).await.unwrap();
    let second = reader.resource().await;
    reader.answer(&second, Some("no such cluster here")).await;
    eventually("the refusal shows", || async {
        nodes(&control).await[0]
            .types
            .iter()
            .any(|state| state.nack_message == "no such cluster here")
    })
    .await;
    assert_eq!(
        control.metric("nodemesh_control_xds_nacks_total").await,
        Some(1.0)
    );
    assert_eq!(control.metric("nodemesh_control_nodes").await, Some(1.0));
    drop(reader);
    eventually("the node is gone", || async { nodes(&control).await.is_empty() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_are_merged_into_nodes() {
    let control = Arc::new(Control::start(&["--report-interval", "7s"]).await);
    apply(&control, "10.96.0.1").await;
    let mut reader = Reader::connect(&control, "node-a").await;
    let version = reader.resource().await.system_version_info;
    let (reports, receiver) = mpsc::channel(8);
    let mut acks = control
        .node()
        .await
        .report(from(receiver))
        .await
        .unwrap()
        .into_inner();
    let mut report = NodeReport {
        node: "node-a".to_owned(),
        version: "0.1.0".to_owned(),
        kernel: "6.18".to_owned(),
        errors: vec!["the map is full".to_owned()],
        applied_version: version.clone(),
        ..NodeReport::default()
    };
    reports.send(report.clone()).await.unwrap();
    let ack = soon("an answer", acks.message()).await.unwrap().unwrap();
    assert_eq!(ack.interval_seconds, 7);
    let state = nodes(&control).await.remove(0);
    assert_eq!(state.applied_version, version);
    assert_eq!(
        (state.kernel.as_str(), state.errors.as_slice()),
        ("6.18", &["the map is full".to_owned()][..])
    );
    let lag = "nodemesh_control_node_applied_lag_seconds{node=\"node-a\"}";
    assert_eq!(control.metric(lag).await, Some(0.0));
    apply(&control, "10.96.0.2").await;
    eventually("it is behind", || async {
        control.metric(lag).await.is_some_and(|lag| lag > 0.0)
    })
    .await;

    report.node.clear();
    reports.send(report).await.unwrap();
    let status = soon("a refusal", acks.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    eventually("its report is gone", || async {
        nodes(&control).await[0].kernel.is_empty()
    })
    .await;
    assert_eq!(control.metric(lag).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_with_one_name_are_told_of() {
    let control = Arc::new(Control::start(&[]).await);
    let mut readers = [
        Reader::connect(&control, "twin").await,
        Reader::connect(&control, "twin").await,
    ];
    for reader in &mut readers {
        reader.response().await;
    }
    let states = nodes(&control).await;
    assert_eq!(states.len(), 2);
    for state in &states {
        assert!(
            state.errors.iter().any(|error| error.contains("node id")),
            "{state:?}"
        );
    }
    assert_eq!(
        control.metric("nodemesh_control_duplicate_nodes").await,
        Some(1.0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_a_limit_of_nodes() {
    let control = Control::start(&["--max-nodes", "1"]).await;
    let mut first = Reader::connect(&control, "a").await;
    first.response().await;
    let (_requests, receiver) = mpsc::channel(1);
    let refused = control
        .ads()
        .await
        .delta_aggregated_resources(from(receiver))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::ResourceExhausted);
}
