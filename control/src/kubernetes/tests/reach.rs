// SPDX-License-Identifier: Apache-2.0
//! What a Service is reached by beside its cluster IP, and what hints say of its endpoints.

use super::*;

/// A Service of type `LoadBalancer` that has every way in, with this annotation.
fn exposed(annotation: Option<&str>, more: Value) -> Value {
    let mut service = service(json!({
        "spec": {"type": "LoadBalancer", "externalIPs": ["203.0.113.7", "2001:db8::7", "203.0.113.7"],
                 "ports": [{"port": 8000, "targetPort": 8000, "protocol": "TCP", "nodePort": 30080}]},
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.9"}, {"hostname": "example.org"}]}},
    }));
    if let Some(mode) = annotation {
        service["metadata"]["annotations"] = json!({"nodemesh.io/packet-path": mode});
    }
    merge(&mut service, more);
    service
}

#[test]
fn ways_in_from_outside_are_taken_where_the_annotation_asks() {
    let key = "Service/models/llama";
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply([
        set(exposed(None, json!({}))),
        set(slice("llama-1", &[ready("10.1.0.1")])),
    ]);
    for field in ["packetPath", "externalAddresses"] {
        assert!(scene.spec(key).get(field).is_none(), "{field} is kube-proxy's");
    }

    scene.apply([set(exposed(Some("preserve"), json!({})))]);
    let spec = scene.spec(key);
    assert_eq!(spec["packetPath"], "preserve");
    // Of the families that the service has, each once.
    assert_eq!(spec["externalAddresses"], json!(["198.51.100.9", "203.0.113.7"]));
    assert_eq!(spec["ports"][0]["nodePort"], 30_080);

    // Direct server return leaves ports as they are.
    scene.apply([set(exposed(Some("dsr"), json!({})))]);
    assert_eq!(scene.spec(key)["ports"][0].get("nodePort"), None);
    let other_port = json!({"spec": {"ports": [{"port": 80, "targetPort": 8000, "protocol": "TCP"}]}});
    let outcome = scene.apply([set(exposed(Some("dsr"), other_port))]);
    let told = messages(&outcome, Reason::InvalidAnnotation);
    assert!(told.len() == 1 && told[0].contains("packet-path"), "{told:?}");
    assert!(scene.spec(key).get("packetPath").is_none());

    let outcome = scene.apply([set(exposed(Some("fast"), json!({})))]);
    let told = messages(&outcome, Reason::InvalidAnnotation);
    assert!(told.len() == 1 && told[0].contains("snat"), "{told:?}");
}

#[test]
fn hints_are_taken_where_every_ready_endpoint_has_one() {
    let hinted = |zones: &[&str]| {
        let zones: Vec<Value> = zones.iter().map(|zone| json!({"name": zone})).collect();
        json!({"forZones": zones})
    };
    let slice = |first: Value, second: Value| {
        let mut slice = slice(
            "llama-1",
            &[
                ready("10.1.0.1"),
                ready("10.1.0.2"),
                ("10.1.0.3", false, false, false),
            ],
        );
        for endpoint in slice["endpoints"].as_array_mut().unwrap() {
            endpoint["zone"] = "a".into();
        }
        slice["endpoints"][0]["hints"] = first;
        slice["endpoints"][1]["hints"] = second;
        set(slice)
    };
    let zones = |scene: &Scene| -> Vec<String> {
        let backends = scene.spec("Service/models/llama")["backends"].as_array().unwrap();
        let zone = |backend: &Value| backend["locality"]["zone"].as_str().unwrap().to_owned();
        backends.iter().map(zone).collect()
    };
    let mut scene = Scene::new(Membership::OptIn);
    // The own zone if it is among those that are meant.
    scene.apply([
        set(service(json!({}))),
        slice(hinted(&["b", "c"]), hinted(&["c", "a"])),
    ]);
    assert_eq!(zones(&scene), ["b", "a", "a"]);
    assert_eq!(
        scene.spec("TrafficPolicy/models/llama")["locality"]["tiers"],
        json!(["zone"])
    );

    scene.apply([slice(hinted(&["b"]), Value::Null)]);
    assert_eq!(zones(&scene), ["a", "a", "a"]);
    assert!(!scene.items.contains_key("TrafficPolicy/models/llama"));
}

#[test]
fn hints_for_nodes_are_those_for_the_clients_there() {
    let slice = |nodes: [&str; 2]| {
        let mut slice = slice("llama-1", &[ready("10.1.0.1"), ready("10.1.0.2")]);
        for (endpoint, node) in slice["endpoints"].as_array_mut().unwrap().iter_mut().zip(nodes) {
            endpoint["nodeName"] = "n1".into();
            if !node.is_empty() {
                endpoint["hints"] = json!({"forNodes": [{"name": node}]});
            }
        }
        set(slice)
    };
    let nodes = |scene: &Scene| -> Vec<Value> {
        let backends = scene.spec("Service/models/llama")["backends"].as_array().unwrap();
        backends
            .iter()
            .map(|backend| backend["locality"]["node"].clone())
            .collect()
    };
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply([set(service(json!({}))), slice(["n1", "n2"])]);
    assert_eq!(nodes(&scene), ["n1", "n2"]);
    let policy = "TrafficPolicy/models/llama";
    assert_eq!(scene.spec(policy)["locality"], json!({"tiers": ["node"]}));
    scene.apply([slice(["n2", ""])]);
    assert_eq!(nodes(&scene), ["n1", "n1"]);
    assert!(!scene.items.contains_key(policy));
}

#[test]
fn local_is_the_node_alone_each_for_itself() {
    let mut slice = slice(
        "llama-1",
        &[
            ready("10.1.0.1"),
            ("10.1.0.2", false, true, true),
            ("10.1.0.3", false, true, true),
        ],
    );
    for (endpoint, node) in slice["endpoints"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .zip(["n1", "n1", "n2"])
    {
        endpoint["nodeName"] = node.into();
    }
    let states = |scene: &Scene| -> Vec<Value> {
        let backends = scene.spec("Service/models/llama")["backends"].as_array().unwrap();
        backends.iter().map(|backend| backend["state"].clone()).collect()
    };
    let mut scene = Scene::new(Membership::OptIn);
    scene.apply([set(service(json!({}))), set(slice)]);
    assert_eq!(
        states(&scene),
        [Value::Null, "draining".into(), "draining".into()]
    );
    let local = json!({"spec": {"internalTrafficPolicy": "Local", "trafficDistribution": "PreferSameZone"}});
    let outcome = scene.apply([set(service(local))]);
    assert!(messages(&outcome, Reason::NotSupported).is_empty());
    assert_eq!(
        scene.spec("TrafficPolicy/models/llama")["locality"],
        json!({"tiers": ["node"], "strict": true})
    );
    // The last resort of a node is no matter of another one.
    assert_eq!(states(&scene), [Value::Null, "draining".into(), Value::Null]);
}
