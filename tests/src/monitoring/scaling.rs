// SPDX-License-Identifier: Apache-2.0
//! The expressions by which the examples of autoscaling ask Prometheus.
//!
//! Invariant: they come from the files; of the adapter's templates only what it fills in itself is replaced.

use std::fs;

use super::deployed;

/// Every expression of the examples for the service `service` of any namespace, with the file that has it.
pub fn queries(service: &str) -> Vec<(String, String)> {
    let folder = deployed("examples/autoscaling");
    let files = fs::read_dir(folder).expect("the examples").flatten();
    let mut queries = Vec::new();
    for file in files {
        let text = fs::read_to_string(file.path()).expect("an example");
        let name = file.file_name().to_string_lossy().into_owned();
        let found = text.lines().filter_map(|line| {
            let line = line.trim();
            let quoted = line
                .strip_prefix("query: '")
                .or_else(|| line.strip_prefix("metricsQuery: '"))?;
            quoted.strip_suffix('\'')
        });
        queries.extend(found.map(|query| (filled_in(query, service), name.clone())));
    }
    queries
}

fn filled_in(query: &str, service: &str) -> String {
    let own = format!("service=\"{service}\"");
    query
        .replace("<<.LabelMatchers>>", &format!("namespace=\"models\",{own}"))
        .replace("<<.GroupBy>>", "namespace, service")
        .replace("service=\"llama\"", &own)
}
