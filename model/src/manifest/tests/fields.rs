// SPDX-License-Identifier: Apache-2.0
//! Cases of one resource each: its `spec`, and what is wrong with it.

use super::errors_of;

pub(super) type Cases = &'static [(&'static str, &'static [&'static str])];

pub(super) fn check(kind: &str, before: &str, cases: Cases) {
    for (given, expected) in cases {
        assert_eq!(errors_of(kind, &format!("{before}{given}")), *expected, "{given}");
    }
}

const SERVICES: Cases = &[
    (
        "addresses: []\nports: []",
        &[
            "spec.addresses: is empty; give at least one, such as 10.96.0.10",
            "spec.ports: is empty; give at least one, such as {port: 8000}",
        ],
    ),
    (
        "ports: [{port: 8000}]",
        &["spec.addresses: is missing; add addresses: [10.96.0.10]"],
    ),
    (
        "addresses: [10.96.0.10]",
        &["spec.ports: is missing; add ports: [{port: 8000}]"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{name: http}]",
        &["spec.ports[0].port: is missing; add port: 8000"],
    ),
    (
        "addresses: [llama.models, 10.0.0.0/8, 0.0.0.0, \"ff02::1\", 255.255.255.255, \"fe80::1\"]\nports: [{port: 1}]",
        &[
            "spec.addresses[0]: \"llama.models\" is no IP address; write one such as 10.1.0.2 or fd00::2 (host names are not resolved)",
            "spec.addresses[1]: \"10.0.0.0/8\" is no IP address; write one such as 10.1.0.2 or fd00::2 (host names are not resolved)",
            "spec.addresses[2]: 0.0.0.0 is unspecified; use a unicast address that does not depend on an interface",
            "spec.addresses[3]: ff02::1 is a multicast address; use a unicast address that does not depend on an interface",
            "spec.addresses[4]: 255.255.255.255 is the broadcast address; use a unicast address that does not depend on an interface",
            "spec.addresses[5]: fe80::1 is a link-local address; use a unicast address that does not depend on an interface",
        ],
    ),
    (
        "addresses: [10.96.0.10, 10.96.0.11]\nports: [{port: 1}]",
        &["spec.addresses[1]: 10.96.0.11 is a second IPv4 address; give at most one per family"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 0}]",
        &["spec.ports[0].port: port is 0; use 1 to 65535"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 65536, targetPort: -1}]",
        &[
            "spec.ports[0].port: port is 65536; use 1 to 65535",
            "spec.ports[0].targetPort: port is -1; use 1 to 65535",
        ],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: http}]",
        &["spec.ports[0].port: is the text \"http\"; write a whole number"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: \"8000\"}]",
        &["spec.ports[0].port: is the text \"8000\"; write a whole number, without quotes: 8000"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 80.5}]",
        &["spec.ports[0].port: is the number 80.5; write a whole number"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 18446744073709551615}]",
        &["spec.ports[0].port: is the number 18446744073709551615; write a whole number"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 1, protocol: tcp}]",
        &["spec.ports[0].protocol: \"tcp\" is not known here; did you mean \"TCP\"?"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 1, protocol: SCTP}]",
        &["spec.ports[0].protocol: \"SCTP\" is not known here; use one of TCP, UDP"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 1, protocol: quic}]",
        &["spec.ports[0].protocol: \"quic\" is not known here; use one of TCP, UDP"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [{port: 1}, {port: 2, name: a}, {port: 3, name: a}, {port: 2, name: B}]",
        &[
            "spec.ports[0].name: name is missing; a service with several ports names each of them",
            "spec.ports[2].name: \"a\" is already the name of ports[1]; give each port its own",
            "spec.ports[3].name: \"B\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end",
            "spec.ports[3].port: 2/TCP is already that of ports[1]; remove one of the two",
        ],
    ),
    (
        "addresses: 10.96.0.10\nports: [{port: 1}]",
        &["spec.addresses: is the text \"10.96.0.10\"; write a list"],
    ),
    (
        "addresses: [10.96.0.10]\nports: {port: 1}",
        &["spec.ports: is a mapping; write a list"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [8000]",
        &["spec.ports[0]: is the number 8000; write a mapping"],
    ),
    (
        "addresses: [10.96.0.10]\nports: [[http, 1]]",
        &["spec.ports[0]: is a list; write a mapping"],
    ),
    (
        "addresses: [10.96.0.10]\nports:",
        &["spec.ports: is empty; write a list"],
    ),
];

const SERVICE_FIELDS: Cases = &[
    (
        "model: 8",
        &["spec.model: is the number 8; write text, in quotes: \"8\""],
    ),
    (
        "model: true",
        &["spec.model: is the boolean true; write text, in quotes: \"true\""],
    ),
    (
        "model: \"\"",
        &["spec.model: \"\" is no model name; use 1 to 253 printable characters"],
    ),
    (
        "model: \"a\\nb\"",
        &["spec.model: \"a\\nb\" is no model name; use 1 to 253 printable characters"],
    ),
    (
        "selector: {}",
        &["spec.selector: is empty and would match every Workload; name at least one label, or remove it"],
    ),
    ("selector: {app: }", &["spec.selector.app: is empty; write text"]),
    (
        "selector: {app: a b}",
        &[
            "spec.selector.app: \"a b\" is no label value; use up to 63 letters, digits, -, _ and ., a letter or digit at both ends",
        ],
    ),
    (
        "selector: {a b: x}",
        &[
            "spec.selector: \"a b\" is no label key; use up to 63 letters, digits, -, _ and ., after an optional DNS name and /",
        ],
    ),
    (
        "selectr: {app: a}",
        &["spec.selectr: unknown field; did you mean \"selector\"?"],
    ),
    (
        "tls: off",
        &[
            "spec.tls: unknown field; use one of model, addresses, ports, backends, selector, packetPath, externalAddresses",
        ],
    ),
];

const BACKENDS: Cases = &[
    (
        "- {address: 10.1.0.2, weight: 0}",
        &[
            "spec.backends[0].weight: weight is 0; use 1 to 65535, and \"state: draining\" to take a backend out of rotation",
        ],
    ),
    (
        "- {address: 10.1.0.2, weight: 65536}\n- {address: 10.1.0.3, weight: -1}",
        &[
            "spec.backends[0].weight: weight is 65536; use 1 to 65535",
            "spec.backends[1].weight: weight is -1; use 1 to 65535",
        ],
    ),
    (
        "- {address: 10.1.0.2, port: 0}",
        &["spec.backends[0].port: port is 0; use 1 to 65535"],
    ),
    (
        "- {address: 10.1.0.2, state: drainning}",
        &["spec.backends[0].state: \"drainning\" is not known here; did you mean \"draining\"?"],
    ),
    (
        "- {address: 10.1.0.2, state: off}",
        &["spec.backends[0].state: \"off\" is not known here; use one of active, draining, unhealthy"],
    ),
    (
        "- {address: \"fd00::2\"}",
        &[
            "spec.backends[0].address: fd00::2 is IPv6, but the service has no IPv6 address; add one to spec.addresses, or remove the backend",
        ],
    ),
    (
        "- {address: 10.1.0.2}\n- {address: 10.1.0.3}\n- {address: \"::ffff:10.1.0.2\", port: 8000}",
        &[
            "spec.backends[2]: is the same replica as backends[0]; remove one of the two, or give each its own port",
        ],
    ),
    (
        "- {address: 10.1.0.2}\n- {port: 8000}",
        &["spec.backends[1].address: is missing; add address: 10.1.0.2"],
    ),
    (
        "- {address: 10.1.0.2, workload: Llama}",
        &[
            "spec.backends[0].workload: \"Llama\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end",
        ],
    ),
    (
        "- {address: 10.1.0.2, wieght: 2}",
        &["spec.backends[0].wieght: unknown field; did you mean \"weight\"?"],
    ),
    (
        "- 10.1.0.2",
        &["spec.backends[0]: is the text \"10.1.0.2\"; write a mapping"],
    ),
];

const WORKLOADS: Cases = &[
    (
        "weight: 1",
        &["spec.addresses: is missing, and so is spec.cgroup; give at least one of the two"],
    ),
    (
        "addresses: [10.1.0.2, 10.1.0.3]",
        &["spec.addresses[1]: 10.1.0.3 is a second IPv4 address; give at most one per family"],
    ),
    (
        "addresses: [10.1.0.2]\nweight: 0\nstate: up",
        &[
            "spec.weight: weight is 0; use 1 to 65535, and \"state: draining\" to take a backend out of rotation",
            "spec.state: \"up\" is not known here; use one of active, draining, unhealthy",
        ],
    ),
    (
        "cgroup: ../x",
        &[
            "spec.cgroup: \"../x\" leads upwards; write a path such as kubepods/pod1, relative to the cgroup v2 root",
        ],
    ),
    (
        "cgroup: /",
        &[
            "spec.cgroup: \"/\" is the cgroup root, which holds every process; write a path such as kubepods/pod1, relative to the cgroup v2 root",
        ],
    ),
    (
        "cgroup: /sys/fs/cgroup/kubepods",
        &[
            "spec.cgroup: \"/sys/fs/cgroup/kubepods\" contains the mount point; write a path such as kubepods/pod1, relative to the cgroup v2 root",
        ],
    ),
    (
        "cgroup: \"a\\0b\"",
        &[
            "spec.cgroup: \"a\\0b\" contains a control character; write a path such as kubepods/pod1, relative to the cgroup v2 root",
        ],
    ),
    (
        "cgroup: a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a",
        &[
            "spec.cgroup: \"a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a\" has 32 levels; the limit is 31, name a cgroup above it",
        ],
    ),
    (
        "address: 10.1.0.2",
        &["spec.address: unknown field; did you mean \"addresses\"?"],
    ),
];

const POLICIES: Cases = &[
    (
        "clientKey: workload",
        &["spec.targetRef: is missing; add targetRef: {kind: Service, name: llama}"],
    ),
    (
        "targetRef: {kind: Workload, name: A}",
        &[
            "spec.targetRef.kind: \"Workload\" is not known here; use one of Service",
            "spec.targetRef.name: \"A\" is no DNS label; use 1 to 63 of a-z, 0-9 and -, not - at either end",
        ],
    ),
];

const POLICY_FIELDS: Cases = &[
    (
        "loadBalancer: {algorithm: least_request}",
        &[
            "spec.loadBalancer.algorithm: \"least_request\" is not known here; did you mean \"least-request\"?",
        ],
    ),
    (
        "loadBalancer: {tableSize: 16381}",
        &[
            "spec.loadBalancer.tableSize: a table size is for algorithm maglev, this is least-request; remove it",
        ],
    ),
    (
        "loadBalancer: {algorithm: maglev, tableSize: 16384}",
        &["spec.loadBalancer.tableSize: 16384 is not a prime; the next one is 16411"],
    ),
    (
        "loadBalancer: {algorithm: maglev, tableSize: 5000011}",
        &["spec.loadBalancer.tableSize: 5000011 is no table size; use a prime from 251 to 1048573"],
    ),
    (
        "clientKey: ip",
        &["spec.clientKey: \"ip\" is not known here; use one of workload, address"],
    ),
    (
        "sessionAffinity: {timeout: 3 parsecs}",
        &[
            "spec.sessionAffinity.timeout: \"3 parsecs\" is no duration: unknown time unit \"parsecs\", supported units: ns, us/µs, ms, sec, min, hours, days, weeks, months, years (and few variations); write one such as 3h or 90s",
        ],
    ),
    (
        "sessionAffinity: {timeout: 25h}",
        &["spec.sessionAffinity.timeout: \"25h\" is out of range; use whole seconds, 1s to 24h"],
    ),
    (
        "sessionAffinity: {timeout: 10800}",
        &["spec.sessionAffinity.timeout: is the number 10800; write text, in quotes: \"10800\""],
    ),
    (
        "sessionAffinity: {}",
        &["spec.sessionAffinity.timeout: is missing; add timeout: 3h"],
    ),
];

#[test]
fn services() {
    check("Service", "", SERVICES);
    check(
        "Service",
        "addresses: [10.96.0.10]\nports: [{port: 8000}]\n",
        SERVICE_FIELDS,
    );
}

#[test]
fn backends() {
    check(
        "Service",
        "addresses: [10.96.0.10]\nports: [{port: 8000}]\nbackends:\n",
        BACKENDS,
    );
}

#[test]
fn a_backend_names_no_port_where_the_service_has_several() {
    check(
        "Service",
        "addresses: [10.96.0.10]\nports: [{name: a, port: 1}, {name: b, port: 2}]\nbackends:\n",
        &[
            (
                "- {address: 10.1.0.2, port: 1}\n- {address: 10.1.0.3}",
                &[
                    "spec.backends[0].port: port is given, but the service has 2 ports; leave it out for the targetPort of each, or choose one by portName",
                ],
            ),
            (
                "- {address: 10.1.0.2, portName: a, port: 1}\n- {address: 10.1.0.2, portName: c}",
                &[
                    "spec.backends[1].portName: \"c\" is the name of no port of this service; use one of spec.ports, or leave portName out",
                ],
            ),
            (
                "- {address: 10.1.0.2, portName: a}\n- {address: 10.1.0.2, portName: b}\n- {address: 10.1.0.2, portName: b, port: 2}",
                &[
                    "spec.backends[2]: is the same replica as backends[1]; remove one of the two, or give each its own port",
                ],
            ),
        ],
    );
}

#[test]
fn workloads() {
    check("Workload", "", WORKLOADS);
}

#[test]
fn policies() {
    check("TrafficPolicy", "", POLICIES);
    check(
        "TrafficPolicy",
        "targetRef: {kind: Service, name: llama}\n",
        POLICY_FIELDS,
    );
}
