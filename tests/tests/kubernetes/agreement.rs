// SPDX-License-Identifier: Apache-2.0
//! The double answers as the real API server does, for what the control plane stands on: the same requests go to both.

use nodemesh_e2e::kubernetes::{NAMESPACE, Served};
use serde_json::{Value, json};

use super::Scene;

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/models/leases";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/models/endpointslices";
const OWN: &str = "/apis/nodemesh.io/v1alpha1/namespaces/models/services";
const APPLY: &str = "application/apply-patch+yaml";
const MERGE: &str = "application/merge-patch+json";
const JSON: &str = "application/json";

/// One of them, and what it has said so far, a line for each request.
struct Asking {
    scene: Scene,
    said: Vec<String>,
    /// Versions that answers had, in their order.
    versions: Vec<String>,
}

impl Asking {
    /// Sends a request, in which `@N` is the version in the `N`th answer; notes code, reason and the `fields` of the answer.
    fn ask(&mut self, method: &str, path: &str, form: &str, body: &Value, fields: &[&str]) -> String {
        let (mut path, mut body) = (path.to_owned(), body.to_string());
        for (number, version) in self.versions.iter().enumerate().rev() {
            for text in [&mut path, &mut body] {
                *text = text.replace(&format!("@{number}"), version);
            }
        }
        let (code, text) = self
            .scene
            .api
            .requests()
            .ask(method, &path, form, &body)
            .expect("an answer");
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default();
        self.versions.push(version.to_owned());
        let mut words = vec![format!("{method} {form}: {code}")];
        if code >= 400 {
            words.push(value["reason"].to_string());
        }
        let shown = fields
            .iter()
            .map(|field| format!("{field}={}", value.pointer(field).unwrap_or(&Value::Null)));
        words.extend(shown);
        self.said.push(words.join(" "));
        text
    }

    fn get(&mut self, path: &str, fields: &[&str]) {
        self.ask("GET", path, JSON, &Value::Null, fields);
    }

    /// Watches for a second; notes sorts and names of the events. Bookmarks come when a server likes.
    fn watch(&mut self, path: &str, from: &str) {
        let path =
            format!("{path}?watch=true&resourceVersion={from}&timeoutSeconds=1&allowWatchBookmarks=true");
        let text = self.ask("GET", &path, JSON, &Value::Null, &[]);
        let events = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok())
            .filter(|event| event["type"] != "BOOKMARK");
        let told = events.map(|event| {
            let about = match event["type"].as_str() {
                Some("ERROR") => &event["object"]["code"],
                _ => &event["object"]["metadata"]["name"],
            };
            format!("{} {about}", event["type"])
        });
        let told: Vec<String> = told.collect();
        self.said.push(told.join(", "));
    }
}

/// A lease: two writers of which one has not seen what the other wrote.
fn leases(asking: &mut Asking) {
    let lease = |version: &str, holder: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "agreed", "namespace": NAMESPACE, "resourceVersion": version},
            "spec": {"holderIdentity": holder},
        })
    };
    let holder = &["/spec/holderIdentity"];
    let one = &format!("{LEASES}/agreed");
    let first = asking.versions.len();
    asking.get(one, &[]);
    asking.ask("POST", LEASES, JSON, &lease("", "a"), holder);
    asking.ask("POST", LEASES, JSON, &lease("", "b"), &[]);
    let seen = format!("@{}", first + 1);
    asking.ask("PUT", one, JSON, &lease(&seen, "b"), holder);
    asking.ask("PUT", one, JSON, &lease(&seen, "c"), &[]);
    asking.get(one, holder);
    asking.ask("DELETE", one, JSON, &json!({}), &[]);
    asking.ask("DELETE", one, JSON, &json!({}), &[]);
    asking.ask("PUT", &one.replace("models", "other"), JSON, &lease("", "c"), &[]);
    asking.get("/apis/nodemesh.io/v1alpha1/nothings", &[]);
}

/// Slices by three managers, pages of lists, and what watches from before tell.
fn slices(asking: &mut Asking) {
    let slice = |name: &str, labels: Value, address: &str| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
            "endpoints": [{"addresses": [address], "conditions": {"ready": true}}], "ports": [],
        })
    };
    let by = |name: &str, manager: &str| format!("{SLICES}/{name}?fieldManager={manager}");
    let shown = &["/metadata/labels", "/endpoints/0/addresses/0"];
    let first = asking.versions.len();
    asking.get(SLICES, &["/kind", "/items"]);
    for (manager, labels, address) in [
        ("a", json!({"x": "1", "y": "1"}), "10.0.0.1"),
        ("b", json!({"y": "1", "z": "1"}), "10.0.0.1"),
        ("b", json!({"y": "1", "z": "1"}), "10.0.0.2"),
        ("a", json!({"w": "1"}), "10.0.0.1"),
        ("b&force=true", json!({"w": "2"}), "10.0.0.3"),
        // Nothing new: no event.
        ("b&force=true", json!({"w": "2"}), "10.0.0.3"),
    ] {
        asking.ask(
            "PATCH",
            &by("s1", manager),
            APPLY,
            &slice("s1", labels, address),
            shown,
        );
    }
    asking.ask(
        "PATCH",
        &by("s2", "a"),
        APPLY,
        &slice("s2", json!({}), "10.0.0.4"),
        &[],
    );
    let label = json!({"metadata": {"labels": {"w": null, "v": "1"}}});
    asking.ask("PATCH", &by("s1", "c"), MERGE, &label, &shown[..1]);
    asking.get(
        &format!("{SLICES}?limit=1"),
        &["/items/0/metadata/name", "/metadata/remainingItemCount"],
    );
    asking.ask("DELETE", &format!("{SLICES}/s2"), JSON, &json!({}), &[]);
    asking.watch(SLICES, &format!("@{first}"));
    asking.watch(SLICES, &format!("@{}", first + 8));
    asking.get(SLICES, &["/items/0/metadata/name", "/items/1"]);
}

/// A resource of ours: its status is another matter than the rest of it.
fn statuses(asking: &mut Asking) {
    let own = json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": "own", "namespace": NAMESPACE},
        "spec": {"addresses": ["10.96.0.9"], "ports": [{"port": 1}]},
        "status": {"conditions": []},
    });
    let status = json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "spec": {"model": "x"},
        "status": {"conditions": [{
            "type": "Accepted", "status": "True", "reason": "Accepted", "message": "valid", "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]},
    });
    let shown = &[
        "/metadata/generation",
        "/spec/ports/0/port",
        "/spec/model",
        "/status/conditions/0/type",
    ];
    let one = format!("{OWN}/own");
    asking.ask("POST", OWN, JSON, &own, shown);
    let path = format!("{one}/status?fieldManager=control&force=true");
    asking.ask("PATCH", &path, APPLY, &status, shown);
    let spec = json!({"spec": {"ports": [{"port": 2}]}, "status": null});
    asking.ask("PATCH", &one, MERGE, &spec, shown);
    let path = format!("{OWN}/none/status?fieldManager=control&force=true");
    asking.ask("PATCH", &path, APPLY, &status, &[]);
}

/// All that one of them says.
fn all(served: Served) -> Vec<String> {
    let mut asking = Asking {
        scene: Scene::on(served),
        said: Vec::new(),
        versions: Vec::new(),
    };
    leases(&mut asking);
    let before = asking.versions.len();
    slices(&mut asking);
    statuses(&mut asking);
    asking.scene.api.kill().expect("kill the API server");
    asking.scene.api.restart().expect("start the API server");
    // What had changed before it started it does not know any more.
    asking.watch(SLICES, &format!("@{before}"));
    asking.said
}

#[test]
fn the_double_answers_as_the_real_api_server_does() {
    let Some(real) = Served::real_for("a comparison with the double") else {
        return;
    };
    let (real, double) = (all(real), all(Served::Double));
    assert!(
        real.iter().any(|line| line.contains("\"ERROR\" 410")),
        "{real:#?}"
    );
    let both = real.iter().zip(&double);
    let other: Vec<_> = both.filter(|(real, double)| real != double).collect();
    assert!(other.is_empty(), "the real one and the double: {other:#?}");
    assert_eq!(double.len(), real.len());
}
