// SPDX-License-Identifier: Apache-2.0
//! A Grafana dashboard: its panels' expressions, and what Grafana would silently show as nothing.
//!
//! Invariant: an expression is given as Prometheus gets it, with every variable replaced; one that is left is an error.

use std::collections::BTreeSet;

use serde_json::Value;

/// A dashboard.
#[derive(Debug)]
pub struct Dashboard(Value);

/// An expression of a panel.
#[derive(Clone, Debug)]
pub struct Query {
    /// Title of the panel.
    pub panel: String,
    /// The expression, with variables.
    pub expression: String,
}

impl Dashboard {
    /// Reads its JSON.
    pub fn parse(text: &str) -> Self {
        Self(serde_json::from_str(text).expect("JSON"))
    }

    /// Its panels, rows among them.
    pub fn panels(&self) -> &[Value] {
        self.0["panels"].as_array().expect("a dashboard has panels")
    }

    /// The version of Grafana's schema.
    pub fn schema_version(&self) -> u64 {
        self.0["schemaVersion"]
            .as_u64()
            .expect("a dashboard has a schema version")
    }

    /// Names of its variables.
    pub fn variables(&self) -> BTreeSet<&str> {
        let variables = self.0["templating"]["list"]
            .as_array()
            .expect("a dashboard has variables");
        variables
            .iter()
            .filter_map(|variable| variable["name"].as_str())
            .collect()
    }

    /// The expressions of all panels.
    pub fn queries(&self) -> Vec<Query> {
        let of_panel = |panel: &Value| -> Vec<Query> {
            let targets = panel["targets"].as_array().cloned().unwrap_or_default();
            let query = |target: &Value| Query {
                panel: panel["title"].as_str().expect("a panel has a title").to_owned(),
                expression: target["expr"]
                    .as_str()
                    .expect("a target has an expression")
                    .to_owned(),
            };
            targets.iter().map(query).collect()
        };
        self.panels().iter().flat_map(of_panel).collect()
    }

    /// The selectors that its variables take their values from.
    pub fn selectors(&self) -> Vec<Query> {
        let variables = self.0["templating"]["list"]
            .as_array()
            .expect("a dashboard has variables");
        let of_variable = |variable: &Value| {
            let query = variable["query"]["query"].as_str()?;
            let (selector, _) = query.strip_prefix("label_values(")?.rsplit_once(", ")?;
            Some(Query {
                panel: format!("variable {}", variable["name"]),
                expression: selector.to_owned(),
            })
        };
        variables.iter().filter_map(of_variable).collect()
    }
}

impl Query {
    /// The expression with `values` in the place of variables.
    pub fn with(&self, values: &[(&str, &str)]) -> String {
        let replaced = values
            .iter()
            .fold(self.expression.clone(), |text, (name, value)| {
                text.replace(&format!("${name}"), value)
            });
        assert!(
            !replaced.contains('$'),
            "{}: a variable is left in {replaced}",
            self.panel
        );
        replaced
    }
}

/// Whether two panels cover each other.
pub fn overlap(one: &Value, other: &Value) -> bool {
    let span = |panel: &Value, start: &str, length: &str| {
        let of = |key: &str| panel["gridPos"][key].as_u64().expect("a panel has a place");
        (of(start), of(start) + of(length))
    };
    let meet = |start, length| {
        let ((a, a_end), (b, b_end)) = (span(one, start, length), span(other, start, length));
        a < b_end && b < a_end
    };
    meet("x", "w") && meet("y", "h")
}
