// SPDX-License-Identifier: Apache-2.0
//! Custom resources: what the API server refuses by their definitions, what the control plane tells in their status.

use nodemesh_e2e::{
    bed::Family,
    eventually::eventually,
    kubernetes::{NAMESPACE, objects},
    single_node::said,
};
use serde_json::{Value, json};

use super::{PORT, Scene, until_answers};

/// Status and message of a condition.
fn condition(object: &Value, kind: &str) -> Option<(String, String)> {
    let all = object["status"]["conditions"].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    all.into_iter()
        .find(|condition| condition["type"] == kind)
        .map(|condition| (text(&condition["status"]), text(&condition["message"])))
}

#[test]
fn the_api_server_refuses_by_schema_and_by_rule() {
    let Some(scene) = Scene::real_for("what schemas refuse") else {
        return;
    };
    let target = json!({"kind": "Service", "name": "llama"});
    let refused = [
        // By the schema, with the field.
        (
            "Service",
            json!({"addresses": ["10.96.0.9"], "ports": [{"port": 0}]}),
            "spec.ports[0].port",
        ),
        (
            "TrafficPolicy",
            json!({"targetRef": target, "loadBalancer": {"algorithm": "fastest"}}),
            "spec.loadBalancer.algorithm",
        ),
        (
            "TrafficPolicy",
            json!({"targetRef": target, "limits": {"connections": "many"}}),
            "limits.connections",
        ),
        ("AccessPolicy", json!({"rules": []}), "targetRef"),
        // By rules.
        (
            "Service",
            json!({"addresses": ["10.96.0.9"], "ports": [{"port": 1}, {"port": 2}]}),
            "each of several ports needs a name",
        ),
        (
            "Workload",
            json!({"identity": "spiffe://a/b"}),
            "give addresses, a cgroup, or both",
        ),
        (
            "AccessPolicy",
            json!({"targetRef": target}),
            "give rules, a default, or both",
        ),
    ];
    for (kind, spec, expected) in refused {
        let reason = scene.api.refusal(&objects::custom(kind, "x", spec));
        assert!(reason.contains(expected), "{kind}: {expected}: {reason}");
    }
    // A field that nobody knows is no typing error that nobody sees.
    let strange = objects::custom(
        "AccessPolicy",
        "x",
        json!({"targetRef": target, "default": "deny", "ruls": []}),
    );
    let reason = scene.api.refusal(&strange);
    assert!(reason.contains("ruls"), "{reason}");
}

#[test]
fn conditions_tell_what_is_valid_and_on_how_many_nodes_it_holds() {
    let Some(mut scene) = Scene::real_for("the table that kubectl prints") else {
        return;
    };
    let client = scene.client("chat");
    let (r0, _s0) = scene.replica("r0");
    let to = Family::V4.vip(7);
    let spec = |address: &str| {
        json!({
            "model": "llama-3-8b", "addresses": [to.ip()], "ports": [{"port": to.port()}],
            "backends": [{"address": address, "port": PORT}],
        })
    };
    let good = objects::custom("Service", "own", spec(&r0.at(PORT).ip().to_string()));
    scene.api.apply(std::slice::from_ref(&good));
    scene.start();
    until_answers(&client, to, &["r0"]);
    let own = ["services.nodemesh.io", "own", "-n", NAMESPACE];
    let held = Some(("True".to_owned(), "1 of 1 nodes".to_owned()));
    let object = scene.api.wait_for("it is programmed", &own, |object| {
        condition(object, "Programmed") == held
    });
    assert_eq!(
        condition(&object, "Accepted"),
        Some(("True".to_owned(), "valid".to_owned()))
    );

    // It passes the schema and is still not valid: what it said before holds.
    scene
        .api
        .apply(&[objects::custom("Service", "own", spec("no address"))]);
    let object = scene.api.wait_for("it is refused", &own, |object| {
        condition(object, "Accepted").is_some_and(|(status, _)| status == "False")
    });
    let (_, message) = condition(&object, "Accepted").expect("it was seen");
    assert!(message.contains("spec.backends[0].address"), "{message}");
    assert_eq!(
        object["status"]["conditions"][0]["observedGeneration"],
        object["metadata"]["generation"]
    );
    scene.api.event("Invalid", "own");
    until_answers(&client, to, &["r0"]);

    scene.api.apply(&[good]);
    scene.api.wait_for("it is valid again", &own, |object| {
        condition(object, "Programmed") == held
            && condition(object, "Accepted").is_some_and(|(status, _)| status == "True")
    });
    let table = scene.api.expect(&["get", "msvc,tpol,apol", "-A"], "");
    for word in ["MODEL", "llama-3-8b", "PROGRAMMED", "1 of 1 nodes"] {
        assert!(table.contains(word), "{word}: {table}");
    }

    // What the cluster says is changed there, and nowhere else.
    let change = objects::custom("Service", "own", spec("10.2.0.99")).to_string();
    let output = scene.control.cli_with(&["apply", "-f", "-"], &change);
    assert!(
        !output.status.success() && said(&output).contains("kubectl apply"),
        "{}",
        said(&output)
    );
    let log = scene.control.process().stderr();
    let is_told = |line: &String| line.contains("WARN") && line.contains("Service/models/own");
    assert!(log.iter().any(is_told), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains("ERROR")), "{log:#?}");
}

#[test]
fn what_does_not_go_together_is_told_until_there_is_room() {
    let mut scene = Scene::new();
    let spec = json!({"addresses": ["10.96.0.7"], "ports": [{"port": 8000}]});
    scene.api.apply(&[
        objects::custom("Service", "one", spec.clone()),
        objects::custom("Service", "other", spec),
    ]);
    scene.start();
    let refused = || {
        ["one", "other"].map(|name| {
            let object = scene.api.get(&["services.nodemesh.io", name, "-n", NAMESPACE]);
            condition(&object, "Accepted").filter(|(status, _)| status == "False")
        })
    };
    let told = eventually("one is refused", refused, |told| {
        told.iter().flatten().count() == 1
    });
    let (index, message) = told
        .iter()
        .enumerate()
        .find_map(|(index, told)| Some((index, &told.as_ref()?.1)))
        .expect("one is");
    let (name, winner) = if index == 0 {
        ("one", "other")
    } else {
        ("other", "one")
    };
    assert!(
        message.contains("10.96.0.7") && message.contains(winner),
        "{message}"
    );
    let note = scene.api.event("Conflict", name);
    assert_eq!(
        note.trim_start_matches("Conflict: "),
        message.trim_start_matches("Conflict: ")
    );

    // What makes room is enough.
    scene.api.delete(&[objects::custom("Service", winner, json!({}))]);
    let own = ["services.nodemesh.io", name, "-n", NAMESPACE];
    scene.api.wait_for("it is accepted", &own, |object| {
        condition(object, "Accepted").is_some_and(|(status, _)| status == "True")
    });
}

#[test]
fn a_definition_of_an_older_release_is_told_with_the_fields_that_it_lacks() {
    let Some(mut scene) = Scene::real_for("what definitions drop") else {
        return;
    };
    let name = "trafficpolicies.nodemesh.io";
    let mut definition = scene.api.get(&["crd", name]);
    let fields = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let fields = definition.pointer_mut(fields).and_then(Value::as_object_mut);
    fields.expect("the fields").remove("onRemoval");
    definition["metadata"] = json!({"name": name});
    scene.api.expect(&["replace", "-f", "-"], &definition.to_string());

    // A person is told by the API server, unless it is asked not to; then the field is dropped and the rest holds.
    let spec = json!({
        "targetRef": {"kind": "Service", "name": "llama"}, "onRemoval": "close", "limits": {"connections": 7},
    });
    let policy = objects::custom("TrafficPolicy", "limits", spec);
    let refused = || {
        let output = scene
            .api
            .kubectl_with(&["apply", "--server-side", "-f", "-"], &policy.to_string());
        if output.status.success() {
            return String::new();
        }
        said(&output)
    };
    eventually("the field is unknown", refused, |reason| {
        reason.contains("onRemoval")
    });
    let unchecked = ["create", "--validate=ignore", "-f", "-"];
    scene.api.expect(&unchecked, &policy.to_string());
    let kept = scene.api.get(&[name, "limits", "-n", NAMESPACE]);
    assert_eq!(
        (
            &kept["spec"]["limits"]["connections"],
            kept["spec"].get("onRemoval")
        ),
        (&json!(7), None)
    );

    // Who runs the mesh is told by the control plane.
    scene.start();
    let is_told = |line: &str| line.contains("TrafficPolicy") && line.contains("spec.onRemoval");
    let told = scene
        .control
        .process()
        .wait_for_log(is_told)
        .expect("it is logged");
    assert!(told.contains("nodemesh-control crds"), "{told}");
    let own = [name, "limits", "-n", NAMESPACE];
    scene.api.wait_for("the rest is accepted", &own, |object| {
        condition(object, "Accepted").is_some_and(|(status, _)| status == "True")
    });
}
