// SPDX-License-Identifier: Apache-2.0
//! The Helm chart, rendered by Helm's own library. Used by tests that install it.
//!
//! Invariant: what cannot be rendered fails the test, with Helm's reason.

use std::process::Command;

use serde_json::Value;

use super::SYSTEM;
use crate::{real::tool, single_node::said};

/// The release, and so the name that everything of it begins with.
pub const RELEASE: &str = "nodemesh";

/// What the chart installs with `values`.
pub fn rendered(values: &Value) -> Vec<Value> {
    let output = Command::new(tool::deploy_python())
        .arg(tool::script("chart.py"))
        .args([RELEASE, SYSTEM, &values.to_string()])
        .output()
        .expect("run Python");
    assert!(output.status.success(), "render the chart: {}", said(&output));
    serde_json::from_slice(&output.stdout).expect("JSON")
}
