// SPDX-License-Identifier: Apache-2.0
//! Cases of access policies, and of what traffic policies say about limits and health.

use super::fields::{Cases, check};

const TARGETS: Cases = &[
    (
        "targetRef: {kind: Mesh}\ndefault: deny",
        &[
            "spec.targetRef.kind: a Mesh is the target of policies in namespace nodemesh-system only; use kind Service, or move the policy there",
        ],
    ),
    (
        "targetRef: {kind: Mesh, name: all}\ndefault: deny",
        &[
            "spec.targetRef.name: there is one mesh, which has no name; remove it",
            "spec.targetRef.kind: a Mesh is the target of policies in namespace nodemesh-system only; use kind Service, or move the policy there",
        ],
    ),
    (
        "targetRef: {kind: Workload, name: a}\nrules: [{action: deny}]",
        &["spec.targetRef.kind: \"Workload\" is not known here; use one of Service, Mesh"],
    ),
    (
        "targetRef: {kind: Service, name: A}\nrules: [{action: deny}]",
        &["spec.targetRef.name: \"A\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end"],
    ),
    (
        "targetRef: {kind: Service}",
        &[
            "spec: says nothing: there is neither a rule nor a default; add rules: [{action: deny}], or default: deny",
        ],
    ),
    (
        "targetRef: {kind: Service}\ndefault: audit",
        &["spec.default: \"audit\" is not known here; use one of allow, deny"],
    ),
    (
        "rules: [{action: deny}]",
        &["spec.targetRef: is missing; add targetRef: {kind: Service, name: llama}"],
    ),
];

const RULES: Cases = &[
    ("- {}", &["spec.rules[0].action: is missing; add action: allow"]),
    (
        "- {action: block}",
        &["spec.rules[0].action: \"block\" is not known here; use one of allow, deny, audit"],
    ),
    (
        "- {action: deny, name: a}\n- {action: allow, name: a}",
        &["spec.rules[1].name: \"a\" is already the name of rules[0]; give each rule its own"],
    ),
    (
        "- {action: deny, name: rule 2}\n- {action: allow}",
        &["spec.rules[1].name: \"rule 2\" is already the name of rules[0]; give each rule its own"],
    ),
    (
        "- {action: deny, name: \" a/b\"}",
        &[
            "spec.rules[0].name: \" a/b\" is no name of a rule; use 1 to 63 of letters, digits, -, _, . and spaces",
        ],
    ),
    (
        "- {action: deny, ports: [0, 80, 80]}",
        &[
            "spec.rules[0].ports[0]: port is 0; use 1 to 65535",
            "spec.rules[0].ports[2]: \"80\" is already at [0]; remove one of the two",
        ],
    ),
    (
        "- {action: deny, ports: []}",
        &["spec.rules[0].ports: is empty and would match nothing; list at least one, or remove it"],
    ),
    (
        "- {action: deny, from: []}",
        &[
            "spec.rules[0].from: is empty and would match nobody; list at least one source, or remove \"from\" to match everybody",
        ],
    ),
    (
        "- {action: deny, from: [{}]}",
        &[
            "spec.rules[0].from[0]: is empty and would match everybody; give at least one field, or remove \"from\" of the rule to mean everybody",
        ],
    ),
    (
        "- {action: deny, from: [{unknown: false}]}",
        &["spec.rules[0].from[0].unknown: is false; write unknown: true, or remove it"],
    ),
    (
        "- {action: deny, from: [{unknown: true, cidrs: [10.0.0.0/8]}]}",
        &[
            "spec.rules[0].from[0].unknown: a client that is unknown has no cidrs; give unknown an entry of its own in \"from\"",
        ],
    ),
    (
        "- {action: deny, from: [{unknown: yes}]}",
        &["spec.rules[0].from[0].unknown: is the text \"yes\"; write true or false"],
    ),
    (
        "- {action: deny, from: [{names: [a]}]}",
        &[
            "spec.rules[0].from[0].names: unknown field; use one of namespaces, workloads, identities, labels, cidrs, unknown",
        ],
    ),
    (
        "- action: deny\n  from:\n  - namespaces: [A, \"a*b\", \"\", a, a]",
        &[
            "spec.rules[0].from[0].namespaces[0]: \"A\" is no pattern: names are of a-z, 0-9 and -, not - at either end; write a name, or the beginning of one and * as its last character",
            "spec.rules[0].from[0].namespaces[1]: \"a*b\" is no pattern: * stands at the end only; write a name, or the beginning of one and * as its last character",
            "spec.rules[0].from[0].namespaces[2]: \"\" is no pattern: it is empty; write a name, or the beginning of one and * as its last character",
            "spec.rules[0].from[0].namespaces[4]: \"a\" is already at [3]; remove one of the two",
        ],
    ),
    (
        "- {action: deny, from: [{workloads: []}]}",
        &[
            "spec.rules[0].from[0].workloads: is empty and would match nothing; list at least one, or remove it",
        ],
    ),
    (
        "- {action: deny, from: [{labels: {}}]}",
        &["spec.rules[0].from[0].labels: is empty and would match nothing; list at least one, or remove it"],
    ),
    (
        "- {action: deny, from: [{labels: {a b: c d}}]}",
        &[
            "spec.rules[0].from[0].labels: \"a b\" is no label key; use up to 63 letters, digits, -, _ and ., after an optional DNS name and /",
            "spec.rules[0].from[0].labels.a b: \"c d\" is no label value; use up to 63 letters, digits, -, _ and ., a letter or digit at both ends",
        ],
    ),
    (
        "- {action: deny, from: [{identities: [chat, \"chat/*\", \"spiffe://a/b?*\"]}]}",
        &[
            "spec.rules[0].from[0].identities[0]: \"chat\" is no SPIFFE ID: it does not begin with spiffe://; write one such as spiffe://example.org/ns/apps/chat",
            "spec.rules[0].from[0].identities[1]: \"chat/*\" is no pattern: identities begin with spiffe://; write a name, or the beginning of one and * as its last character",
            "spec.rules[0].from[0].identities[2]: \"spiffe://a/b?*\" is no pattern: identities are of letters, digits, /, ., - and _; write a name, or the beginning of one and * as its last character",
        ],
    ),
    (
        "- {action: deny, from: [{cidrs: [10.1.0.0, 10.1.2.3/16, \"fd00::/129\"]}]}",
        &[
            "spec.rules[0].from[0].cidrs[0]: \"10.1.0.0\" is no address range; write one such as 10.1.0.0/16 or fd00:1::/64",
            "spec.rules[0].from[0].cidrs[1]: \"10.1.2.3/16\" has bits beyond its length; write 10.1.0.0/16",
            "spec.rules[0].from[0].cidrs[2]: \"fd00::/129\" is no address range; write one such as 10.1.0.0/16 or fd00:1::/64",
        ],
    ),
];

const LIMITS: Cases = &[
    (
        "limits: {connectionsPerSecond: 0, connections: -1, requests: 100000001}",
        &[
            "spec.limits.connectionsPerSecond: is 0; use 1 to 1000000, or leave it out for no limit",
            "spec.limits.connections: is -1; use 1 to 100000000, or leave it out for no limit",
            "spec.limits.requests: is 100000001; use 1 to 100000000, or leave it out for no limit",
        ],
    ),
    (
        "limits: {burst: 5}",
        &[
            "spec.limits.burst: a burst without connectionsPerSecond limits nothing; add connectionsPerSecond, or remove it",
        ],
    ),
    (
        "limits: {connectionsPerSecond: 5, burst: 0}",
        &["spec.limits.burst: is 0; use 1 to 1000000, or leave it out for as many as connectionsPerSecond"],
    ),
    (
        "limits: {excess: refuse}",
        &[
            "spec.limits: limits nothing; give at least one of connectionsPerSecond, connections, requests, perClient and perBackend, or remove it",
        ],
    ),
    (
        "limits: {perClient: {}, perBackend: {}}",
        &[
            "spec.limits.perClient: limits nothing; give at least one of connectionsPerSecond, connections and requests, or remove it",
            "spec.limits.perBackend: limits nothing; give at least one of connectionsPerSecond, connections and requests, or remove it",
        ],
    ),
    (
        "limits: {perBackend: {requests: 0}, excess: drop}",
        &[
            "spec.limits.excess: \"drop\" is not known here; use one of again, refuse",
            "spec.limits.perBackend.requests: is 0; use 1 to 100000000, or leave it out for no limit",
        ],
    ),
    (
        "limits: {connectionsPerSecond: 5, connections: 9, requests: 9, perClient: {connectionsPerSecond: 6, connections: 10, requests: 9}}",
        &[
            "spec.limits.perClient.connectionsPerSecond: is 6, more than the 5 of all clients together; use at most 5, or leave it out",
            "spec.limits.perClient.connections: is 10, more than the 9 of all clients together; use at most 9, or leave it out",
        ],
    ),
    (
        "limits: {connections: -1, perBackend: {connectionsPerSecond: 0, burst: -2}}",
        &[
            "spec.limits.connections: is -1; use 1 to 100000000, or leave it out for no limit",
            "spec.limits.perBackend.connectionsPerSecond: is 0; use 1 to 1000000, or leave it out for no limit",
            "spec.limits.perBackend.burst: is -2; use 1 to 1000000, or leave it out for as many as connectionsPerSecond",
        ],
    ),
    (
        "limits: {perBackend: {burst: 3}}",
        &[
            "spec.limits.perBackend.burst: a burst without connectionsPerSecond limits nothing; add connectionsPerSecond, or remove it",
        ],
    ),
    (
        "limits: {perClient: {connections: 1.5}}",
        &["spec.limits.perClient.connections: is the number 1.5; write a whole number"],
    ),
];

const HEALTH: Cases = &[
    (
        "outlierDetection: {connectFailures: -1, maxEjectionPercent: 0}",
        &[
            "spec.outlierDetection.connectFailures: is -1; use 0 to 1000000 (0: never)",
            "spec.outlierDetection.maxEjectionPercent: is 0; use 1 to 100; to eject nothing, set connectFailures, requestFailures and silence.streams to 0",
        ],
    ),
    (
        "outlierDetection: {baseEjectionTime: 10s, maxEjectionTime: 5s}",
        &["spec.outlierDetection.maxEjectionTime: is 5s, less than baseEjectionTime; make it at least 10s"],
    ),
    (
        "outlierDetection: {baseEjectionTime: 0s, silence: {minimum: 2h}}",
        &[
            "spec.outlierDetection.baseEjectionTime: \"0s\" is out of range; use 100ms to 1day",
            "spec.outlierDetection.silence.minimum: \"2h\" is out of range; use 100ms to 1h",
        ],
    ),
    (
        "outlierDetection: {baseEjectionTime: -1s, maxEjectionTime: 2days, maxEjectionPercent: 101}",
        &[
            "spec.outlierDetection.maxEjectionPercent: is 101; use 1 to 100; to eject nothing, set connectFailures, requestFailures and silence.streams to 0",
            "spec.outlierDetection.baseEjectionTime: \"-1s\" is no duration: expected number at 0; write one such as 3h or 90s",
            "spec.outlierDetection.maxEjectionTime: \"2days\" is out of range; use 100ms to 1day",
        ],
    ),
    (
        "outlierDetection: {silence: {streams: -2}}",
        &["spec.outlierDetection.silence.streams: is -2; use 0 to 10000 (0: never)"],
    ),
    (
        "outlierDetection: {serverErrors: 5}",
        &["spec.outlierDetection.serverErrors: is the number 5; write true or false"],
    ),
    (
        "healthChecks: {}",
        &["spec.healthChecks.kind: is missing; add kind: http"],
    ),
    (
        "healthChecks: {kind: ping, port: 0, path: health}",
        &[
            "spec.healthChecks.kind: \"ping\" is not known here; use one of tcp, http, grpc",
            "spec.healthChecks.port: port is 0; use 1 to 65535",
            "spec.healthChecks.path: \"health\" is no path; write one such as /health, of printable characters without spaces",
        ],
    ),
    (
        "healthChecks: {kind: grpc, path: /health}",
        &["spec.healthChecks.path: a path is for kind http, this is grpc; remove it"],
    ),
    (
        "healthChecks: {kind: tcp, interval: 1s, timeout: 2s, healthyThreshold: 0, from: here}",
        &[
            "spec.healthChecks.healthyThreshold: is 0; use 1 to 1000",
            "spec.healthChecks.from: \"here\" is not known here; use one of backend-node, every-node",
            "spec.healthChecks.timeout: is 2s, longer than interval; make it at most 1s",
        ],
    ),
    (
        "slowStart: {}",
        &[
            "spec.slowStart: neither a window nor untilFirstToken is given; add window: 30s, or remove slowStart",
        ],
    ),
    (
        "slowStart: {window: 0s}",
        &["spec.slowStart.window: \"0s\" is out of range; use 100ms to 1day"],
    ),
    (
        "locality: {}",
        &["spec.locality.tiers: is missing; add tiers: [node, zone, region]"],
    ),
    (
        "locality: {tiers: []}",
        &["spec.locality.tiers: is empty; give at least one, such as [node, zone, region]"],
    ),
    (
        "locality: {tiers: [zone, rack, zone, node], spillRequests: 0}",
        &[
            "spec.locality.spillRequests: is 0; use 1 to 1000000, or leave it out to spill only when a tier has no fit backend",
            "spec.locality.tiers[1]: \"rack\" is not known here; use one of node, zone, region",
            "spec.locality.tiers[2]: zone is already tiers[0]; name each level once",
            "spec.locality.tiers[3]: node lies within zone, which is tiers[0], so no backend would be left for it; order them node, zone, region",
        ],
    ),
    (
        "onRemoval: kill",
        &["spec.onRemoval: \"kill\" is not known here; use one of keep, close"],
    ),
];

const WORKLOADS: Cases = &[
    (
        "identity: chat",
        &[
            "spec.identity: \"chat\" is no SPIFFE ID: it does not begin with spiffe://; write one such as spiffe://example.org/ns/apps/chat",
        ],
    ),
    (
        "locality: {zone: \"a b\", rack: 1}",
        &["spec.locality.rack: unknown field; use one of region, zone, node"],
    ),
    (
        "locality: {zone: \"a b\", node: \"\"}",
        &[
            "spec.locality.zone: \"a b\" is no locality; use 1 to 253 printable characters without spaces",
            "spec.locality.node: \"\" is no locality; use 1 to 253 printable characters without spaces",
        ],
    ),
];

#[test]
fn access_policies() {
    check("AccessPolicy", "", TARGETS);
    check(
        "AccessPolicy",
        "targetRef: {kind: Service, name: llama}\nrules:\n",
        RULES,
    );
}

#[test]
fn limits_and_health() {
    check(
        "TrafficPolicy",
        "targetRef: {kind: Service, name: llama}\n",
        LIMITS,
    );
    check(
        "TrafficPolicy",
        "targetRef: {kind: Service, name: llama}\n",
        HEALTH,
    );
}

#[test]
fn identities_and_localities() {
    check("Workload", "addresses: [10.1.0.2]\n", WORKLOADS);
    check(
        "Service",
        "addresses: [10.96.0.10]\nports: [{port: 8000}]\nbackends:\n",
        &[(
            "- {address: 10.1.0.2, locality: {node: \"\"}}",
            &[
                "spec.backends[0].locality.node: \"\" is no locality; use 1 to 253 printable characters without spaces",
            ],
        )],
    );
}
