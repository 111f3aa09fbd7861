// SPDX-License-Identifier: Apache-2.0
//! Which Services are in the mesh: those that say so, or whose namespace does, or all.
//!
//! Called by `service`. Invariant: what is nearer wins: the Service's own word, then that of its namespace, then the default; a label
//! wins over an annotation, and a word that is none of the two is noted and has no effect.

use clap::ValueEnum;

use super::super::{
    finding::{Finding, Reason},
    object::{Labels, Namespace, Service},
};

/// Label or annotation that says it.
pub const MESH: &str = "nodemesh.io/mesh";
const ENABLED: &str = "enabled";
const DISABLED: &str = "disabled";

/// What holds for a Service of which nobody says anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Membership {
    /// It is not in the mesh.
    #[default]
    OptIn,
    /// It is.
    All,
}

/// Whether `service` is in the mesh.
pub(crate) fn is_member(
    service: &Service,
    namespace: Option<&Namespace>,
    default: Membership,
    findings: &mut Vec<Finding>,
) -> bool {
    let own = said(&service.labels, &service.annotations, "", findings);
    let of_namespace = || {
        let namespace = namespace?;
        said(
            &namespace.labels,
            &namespace.annotations,
            " of its namespace",
            findings,
        )
    };
    own.or_else(of_namespace).unwrap_or(default == Membership::All)
}

fn said(labels: &Labels, annotations: &Labels, whose: &str, findings: &mut Vec<Finding>) -> Option<bool> {
    let (place, word) = match labels.get(MESH) {
        Some(word) => ("label", word),
        None => ("annotation", annotations.get(MESH)?),
    };
    match word.as_str() {
        ENABLED => Some(true),
        DISABLED => Some(false),
        other => {
            findings.push(Finding::new(
                Reason::InvalidAnnotation,
                format!("{place} {MESH}{whose}: {other:?} is neither {ENABLED:?} nor {DISABLED:?}; it has no effect"),
            ));
            None
        }
    }
}
