// SPDX-License-Identifier: Apache-2.0
//! A document reads back as its resource, whatever was written in the first place.

use proptest::prelude::*;

use super::*;
use crate::{manifest::Manifest, strategy};

fn read(document: Value) -> Resource {
    let manifest = Manifest::from_values([document]);
    assert!(manifest.errors().is_empty(), "{}", manifest.errors());
    manifest.resources().next().cloned().unwrap()
}

#[test]
fn defaults_are_left_out_and_addresses_are_short() {
    let resource = read(json!({
        "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service", "metadata": {"name": "llama", "labels": {}},
        "spec": {
            "addresses": ["::ffff:10.96.0.10", "fd00:0:0::0010"],
            "ports": [{"port": 80, "targetPort": 80, "protocol": "TCP"}],
            "backends": [{"address": "10.1.0.2", "weight": 1, "state": "active", "workload": "llama-0"}],
        },
    }));
    assert_eq!(
        resource.to_value(),
        json!({
            "apiVersion": "nodemesh.io/v1alpha1", "kind": "Service",
            "metadata": {"namespace": "default", "name": "llama"},
            "spec": {
                "addresses": ["10.96.0.10", "fd00::10"],
                "ports": [{"port": 80, "protocol": "TCP"}],
                "backends": [{"address": "10.1.0.2", "workload": "llama-0"}],
            },
        })
    );
}

proptest! {
    #[test]
    fn every_resource_reads_back(documents in strategy::documents()) {
        for document in documents {
            let resource = read(document);
            let again = read(resource.to_value());
            prop_assert_eq!(format!("{resource:?}"), format!("{again:?}"));
            prop_assert_eq!(resource.to_value(), again.to_value());
        }
    }
}
