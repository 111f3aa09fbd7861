// SPDX-License-Identifier: Apache-2.0
//! Tiers of backends as seen from a node, and the tables that they become.

use super::*;

fn workload(name: &str, address: &str, locality: &Value) -> Value {
    let mut value = document(
        "Workload",
        name,
        &json!({"addresses": [address], "locality": locality}),
    );
    value["metadata"]["labels"] = json!({"app": "llama"});
    value
}

fn documents(tiers: &Value) -> Vec<Value> {
    let spec = json!({
        "addresses": ["10.96.0.10"], "ports": [{"port": 80}], "selector": {"app": "llama"},
        "backends": [{"address": "10.1.0.9", "locality": {"node": "n1"}}],
    });
    let policy = json!({"targetRef": {"kind": "Service"}, "locality": {"tiers": tiers, "spillRequests": 8}});
    vec![
        document("Service", "llama", &spec),
        document("TrafficPolicy", "near", &policy),
        workload(
            "own",
            "10.1.0.1",
            &json!({"region": "r", "zone": "a", "node": "n1"}),
        ),
        workload(
            "zone",
            "10.1.0.2",
            &json!({"region": "r", "zone": "a", "node": "n2"}),
        ),
        workload("region", "10.1.0.3", &json!({"region": "r", "zone": "b"})),
        workload("twin", "10.1.0.4", &json!({"region": "s", "zone": "a"})),
        workload("nowhere", "10.1.0.5", &json!({})),
    ]
}

fn frontend(tiers: &Value, node: &Locality) -> Arc<Frontend> {
    let desired = Desired::compile(&merge(documents(tiers)), node, None).unwrap();
    Arc::clone(desired.frontends.values().next().unwrap())
}

fn tiers(frontend: &Frontend) -> Vec<u8> {
    frontend.backends.iter().map(|backend| backend.tier).collect()
}

#[test]
fn a_backend_is_in_the_first_tier_that_it_shares_with_the_node() {
    let here = Locality::new(Some("r"), Some("a"), Some("n1")).unwrap();
    // The listed backend comes last.
    for (levels, expected) in [
        (json!(["node", "zone", "region"]), [0, 1, 2, 3, 3, 0]),
        (json!(["zone"]), [0, 0, 1, 1, 1, 1]),
        (json!(["node", "region"]), [0, 1, 1, 2, 2, 0]),
    ] {
        assert_eq!(tiers(&frontend(&levels, &here)), expected, "{levels}");
    }
    let unknown = frontend(&json!(["node", "zone", "region"]), &Locality::default());
    assert_eq!(
        tiers(&unknown),
        [3; 6],
        "a node of which nothing is known is near to nothing"
    );
}

#[test]
fn each_tier_with_an_available_backend_has_a_table() {
    let here = Locality::new(Some("r"), Some("a"), Some("n1")).unwrap();
    let mut frontend = Frontend::clone(&frontend(&json!(["node", "zone", "region"]), &here));
    assert_eq!(frontend.rules.kernel.spill_load, 8);
    let ids = |frontend: &Frontend| -> Vec<BTreeSet<u32>> {
        let tables = frontend.slot_tables(|position| position as u32);
        tables
            .iter()
            .map(|table| table.iter().map(|slot| slot.backend).collect())
            .collect()
    };
    assert_eq!(
        ids(&frontend),
        [[0, 5].into(), [1].into(), [2].into(), BTreeSet::from([3, 4])]
    );
    frontend.backends[1].state = crate::BackendState::Draining;
    assert_eq!(
        ids(&frontend),
        [[0, 5].into(), [2].into(), BTreeSet::from([3, 4])]
    );
    frontend.backends.clear();
    assert_eq!(frontend.slot_tables(|_| 1), [[nodemesh_abi::Slot::EMPTY]]);
}

#[test]
fn where_tiers_are_strict_what_is_in_none_is_left_out() {
    let here = Locality::new(Some("r"), Some("a"), Some("n1")).unwrap();
    let compiled = |node: &Locality| {
        let mut documents = documents(&json!(["node"]));
        documents[1]["spec"]["locality"]["strict"] = true.into();
        let desired = Desired::compile(&merge(documents), node, None).unwrap();
        Arc::clone(desired.frontends.values().next().unwrap())
    };
    let near = compiled(&here);
    let tables = near.slot_tables(|position| position as u32);
    assert_eq!(tables.len(), 1);
    assert!(tables[0].iter().all(|slot| [0, 5].contains(&slot.backend)));
    let elsewhere = Locality::new(Some("r"), Some("a"), Some("n9")).unwrap();
    assert_eq!(
        compiled(&elsewhere).slot_tables(|_| 1),
        [[nodemesh_abi::Slot::EMPTY]]
    );
}

#[test]
fn without_tiers_there_is_one_table() {
    let here = Locality::new(Some("r"), None, None).unwrap();
    let mut documents = documents(&json!(["node"]));
    documents.remove(1);
    let desired = Desired::compile(&merge(documents), &here, None).unwrap();
    let frontend = desired.frontends.values().next().unwrap();
    assert_eq!(
        frontend.slot_tables(|id| id as u32),
        [frontend.slot_table(|id| id as u32)]
    );
}
