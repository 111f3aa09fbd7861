// SPDX-License-Identifier: Apache-2.0
//! What the verbs of the control plane are about, in the words that people type.

use clap::{ValueEnum, builder::PossibleValue};

/// A kind of things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Services,
    Workloads,
    TrafficPolicies,
    AccessPolicies,
    Nodes,
    Backends,
}

impl ValueEnum for Kind {
    fn value_variants<'a>() -> &'a [Self] {
        &[
            Self::Services,
            Self::Workloads,
            Self::TrafficPolicies,
            Self::AccessPolicies,
            Self::Nodes,
            Self::Backends,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let (name, aliases) = match self {
            Self::Services => ("services", &["service", "svc", "Service"][..]),
            Self::Workloads => ("workloads", &["workload", "wl", "Workload"][..]),
            Self::TrafficPolicies => ("trafficpolicies", &["trafficpolicy", "tp", "TrafficPolicy"][..]),
            Self::AccessPolicies => ("accesspolicies", &["accesspolicy", "apol", "AccessPolicy"][..]),
            Self::Nodes => ("nodes", &["node"][..]),
            Self::Backends => ("backends", &["backend"][..]),
        };
        Some(PossibleValue::new(name).aliases(aliases))
    }
}

impl Kind {
    /// The kind of the resources in the registry; `None` for what is not a resource.
    pub(super) fn resource(self) -> Option<&'static str> {
        match self {
            Self::Services => Some("Service"),
            Self::Workloads => Some("Workload"),
            Self::TrafficPolicies => Some("TrafficPolicy"),
            Self::AccessPolicies => Some("AccessPolicy"),
            Self::Nodes | Self::Backends => None,
        }
    }
}

/// `service/models/llama`: how verbs name a resource in their output.
pub(super) fn label(kind: &str, namespace: &str, name: &str) -> String {
    format!("{}/{namespace}/{name}", kind.to_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_usual_word_is_known() {
        for (word, kind) in [
            ("services", Kind::Services),
            ("svc", Kind::Services),
            ("Service", Kind::Services),
            ("wl", Kind::Workloads),
            ("tp", Kind::TrafficPolicies),
            ("trafficpolicy", Kind::TrafficPolicies),
            ("apol", Kind::AccessPolicies),
            ("AccessPolicy", Kind::AccessPolicies),
            ("node", Kind::Nodes),
            ("backends", Kind::Backends),
        ] {
            assert_eq!(Kind::from_str(word, false), Ok(kind), "{word}");
        }
        assert!(Kind::from_str("pods", false).is_err());
        assert_eq!(label("TrafficPolicy", "a", "b"), "trafficpolicy/a/b");
    }
}
