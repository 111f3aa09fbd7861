// SPDX-License-Identifier: Apache-2.0
//! The kinds that the double serves, and how a path or an object names one.
//!
//! Used by `serve` for paths and by `ApiServer` for objects. Invariant: a kind that is not in the list is not served, as on a server
//! without its definition.

use serde_json::Value;

/// A kind of object.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    pub(super) is_namespaced: bool,
    /// Whether its status is written by the subresource only.
    pub(super) has_status: bool,
}

const fn kind(
    group: &'static str,
    version: &'static str,
    names: [&'static str; 2],
    is_namespaced: bool,
    has_status: bool,
) -> Resource {
    Resource {
        group,
        version,
        plural: names[1],
        kind: names[0],
        is_namespaced,
        has_status,
    }
}

const OURS: &str = "nodemesh.io";

/// All of them.
pub(super) static ALL: [Resource; 12] = [
    kind("", "v1", ["Namespace", "namespaces"], false, true),
    kind("", "v1", ["Node", "nodes"], false, true),
    kind("", "v1", ["Pod", "pods"], true, true),
    kind("", "v1", ["Service", "services"], true, true),
    kind(
        "discovery.k8s.io",
        "v1",
        ["EndpointSlice", "endpointslices"],
        true,
        false,
    ),
    kind(
        "networking.k8s.io",
        "v1",
        ["NetworkPolicy", "networkpolicies"],
        true,
        false,
    ),
    kind("events.k8s.io", "v1", ["Event", "events"], true, false),
    kind("coordination.k8s.io", "v1", ["Lease", "leases"], true, false),
    kind(OURS, "v1alpha1", ["Service", "services"], true, true),
    kind(OURS, "v1alpha1", ["Workload", "workloads"], true, true),
    kind(OURS, "v1alpha1", ["TrafficPolicy", "trafficpolicies"], true, true),
    kind(OURS, "v1alpha1", ["AccessPolicy", "accesspolicies"], true, true),
];

impl Resource {
    /// What objects call their version.
    pub(super) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// The kind that `object` says it is.
    pub(super) fn of(object: &Value) -> Option<&'static Self> {
        ALL.iter()
            .find(|kind| object["kind"] == kind.kind && object["apiVersion"] == kind.api_version())
    }

    /// The kind that a person calls `word`: singular or plural, with the group where that is not clear.
    pub(super) fn called(word: &str) -> Option<&'static Self> {
        let (name, group) = word.split_once('.').unwrap_or((word, ""));
        ALL.iter().find(|kind| {
            let is_named = name == kind.plural || name.eq_ignore_ascii_case(kind.kind);
            is_named && (group == kind.group || group.is_empty() && kind.group != OURS)
        })
    }
}

/// What a path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target<'a> {
    pub(super) resource: &'static Resource,
    /// Empty for all namespaces, and for kinds that are in none.
    pub(super) namespace: &'a str,
    pub(super) name: Option<&'a str>,
    pub(super) is_status: bool,
}

impl<'a> Target<'a> {
    /// Reads `/api/v1/...` and `/apis/GROUP/VERSION/...`.
    pub(super) fn of(path: &'a str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, version, rest) = match &parts[..] {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() && rest != ["status"] => {
                (*namespace, rest)
            }
            rest => ("", rest),
        };
        let (plural, name, is_status) = match rest {
            [plural] => (*plural, None, false),
            [plural, name] => (*plural, Some(*name), false),
            [plural, name, "status"] => (*plural, Some(*name), true),
            _ => return None,
        };
        let is_asked =
            |kind: &&Resource| kind.group == group && kind.version == version && kind.plural == plural;
        let resource = ALL.iter().find(is_asked)?;
        let is_placed = resource.is_namespaced || namespace.is_empty();
        (is_placed && (resource.has_status || !is_status)).then_some(Self {
            resource,
            namespace,
            name,
            is_status,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_name_kinds_and_objects() {
        let read =
            |path| Target::of(path).map(|target| (target.resource.kind, target.namespace, target.name));
        assert_eq!(read("/api/v1/nodes"), Some(("Node", "", None)));
        assert_eq!(
            read("/api/v1/namespaces/models"),
            Some(("Namespace", "", Some("models")))
        );
        assert_eq!(
            read("/api/v1/namespaces/models/services/llama"),
            Some(("Service", "models", Some("llama")))
        );
        let status = Target::of("/apis/nodemesh.io/v1alpha1/namespaces/m/services/own/status");
        assert!(status.is_some_and(|target| target.is_status && target.resource.group == OURS));
        for strange in [
            "/api",
            "/apis/apps/v1/deployments",
            "/api/v1/namespaces/m/nodes",
            "/healthz",
        ] {
            assert_eq!(read(strange), None, "{strange}");
        }
    }
}
