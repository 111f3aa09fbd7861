// SPDX-License-Identifier: Apache-2.0
//! What `deploy/` ships for Prometheus and Grafana, held against a real Prometheus.
//!
//! `prometheus` runs the server and promtool, `expression` takes an alert apart into what must have data, `dashboard` reads the
//! panels, `scaling` the examples of autoscaling. Used by the tests of monitoring. Invariant: nothing here knows what a rule or a panel says; it comes from the files.

pub mod dashboard;
pub mod expression;
pub mod prometheus;
pub mod scaling;

use std::path::{Path, PathBuf};

/// A file that is shipped.
pub fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}
