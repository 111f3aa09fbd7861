// SPDX-License-Identifier: Apache-2.0
//! A connection to a service's address is placed on a replica inside `connect()`.

use nodemesh_e2e::topology::Topology;

const SERVICE: &str = "\
apiVersion: nodemesh.io/v1alpha1
kind: Service
metadata: {name: echo, namespace: models}
";

#[test]
fn a_connection_is_placed_on_a_replica_of_another_node() {
    let topology = Topology::new().unwrap();
    let (a, b) = (topology.node("a").unwrap(), topology.node("b").unwrap());
    let client = a.pod("client").unwrap();
    let server = b.pod("server").unwrap();
    let _server = server
        .serve(
            "socket-probe",
            &[
                "serve",
                "--tcp",
                "--listen",
                &format!("{}:9000", server.v4()),
                "--name",
                "one",
            ],
        )
        .unwrap();
    let mut agent = a.agent().unwrap();
    agent.configure(&format!("{SERVICE}spec: {{addresses: [10.96.0.10], ports: [{{port: 8000}}], backends: [{{address: {}, port: 9000}}]}}\n", server.v4())).unwrap();
    agent.start(&[]).unwrap();
    let (report, _): (serde_json::Value, _) = client
        .spawn("socket-probe", &["connect", "10.96.0.10:8000", "--count", "10"])
        .unwrap()
        .report()
        .unwrap();
    assert_eq!(report["ok"], 10, "{report}");
    assert_eq!(report["peers"]["10.96.0.10:8000"], 10, "{report}");
}
