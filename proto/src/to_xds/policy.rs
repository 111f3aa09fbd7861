// SPDX-License-Identifier: Apache-2.0
//! Access policies as documents: Envoy has no type for who may connect by namespace, name or label.
//!
//! Invariant: equal policies have equal bytes, since the document is canonical.

use nodemesh_model::{AccessPolicy, Kind, Resource};

use crate::{names::policy_name, v1::PolicyDocument};

/// The resource of `policy`: its name, and its document.
pub fn access_policy(policy: &std::sync::Arc<AccessPolicy>) -> (String, PolicyDocument) {
    let document = Resource::AccessPolicy(std::sync::Arc::clone(policy)).to_value();
    let document = PolicyDocument {
        document: document.to_string(),
    };
    (policy_name(Kind::AccessPolicy, &policy.metadata.name), document)
}
