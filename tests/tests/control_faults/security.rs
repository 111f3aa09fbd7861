// SPDX-License-Identifier: Apache-2.0
//! TLS and mutual TLS between the control plane, agents and the CLI: who is let in, as what, and who is not.

use std::{fs, path::Path, process::Output};

use nodemesh_e2e::{
    bed::Bed,
    certificate::{Authority, Certificates},
    control::ControlPlane,
    eventually::eventually,
    manifest::Manifest,
    process::Process,
    single_node::said,
};

use super::{empty, services};

/// Token of an agent, and what `printf %s ... | sha256sum` prints of it.
const AGENT_TOKEN: &str = "agent-token";
const AGENT_SHA256: &str = "eb47b9ce4840a5b3ea138b8691253b78035b9289d9014409067e9844c272ef99";
/// The same of somebody who may do everything.
const ADMIN_TOKEN: &str = "admin-token";
const ADMIN_SHA256: &str = "10a4c7c9fc5206d6f36dc6944a81bb6f4a3cb0e25014ae3b12e6c3e52712292a";

/// A control plane that speaks TLS, and what is needed to get in.
struct Secured {
    bed: Bed,
    control: ControlPlane,
    url: String,
    /// Of the role agent.
    node: Certificates,
    /// Of the role admin.
    operator: Certificates,
    /// From the same authority, but not listed.
    stranger: Certificates,
    /// From another authority, with the names of the operator.
    impostor: Certificates,
}

impl Secured {
    fn new() -> Self {
        let bed = Bed::new();
        let mut control = ControlPlane::new(bed.b.pod("control").expect("a pod"));
        let folder = control.folder();
        let authority = |prefix| Authority::new(folder, prefix).expect("an authority");
        let (ours, others) = (authority(""), authority("other-"));
        let leaf = |of: &Authority, prefix: &str, name: &str, names: &[&str]| {
            of.leaf(prefix, name, names).expect("a certificate")
        };
        let server = leaf(&ours, "server-", "server", &["control.example"]);
        let access = format!(
            "tokens:\n- {{name: node, role: agent, sha256: {AGENT_SHA256}}}\n- {{name: ops, role: admin, sha256: {ADMIN_SHA256}}}\n\
             identities:\n- {{uri: \"spiffe://mesh/agent/*\", role: agent}}\n- {{cn: ops, role: admin}}\n"
        );
        let node = leaf(&ours, "node-", "", &["spiffe://mesh/agent/a"]);
        let operator = leaf(&ours, "ops-", "ops", &[]);
        let stranger = leaf(&ours, "stranger-", "stranger", &[]);
        let impostor = leaf(&others, "impostor-", "ops", &["spiffe://mesh/agent/a"]);
        for (name, text) in [
            ("access.yaml", access.as_str()),
            ("agent.token", AGENT_TOKEN),
            ("admin.token", ADMIN_TOKEN),
        ] {
            fs::write(folder.join(name), text).expect("write a file");
        }
        let path = |path: &Path| path.display().to_string();
        let flags = [
            "--tls-cert",
            &path(&server.cert),
            "--tls-key",
            &path(&server.key),
            "--tls-client-ca",
            &path(&server.ca),
            "--access",
            &path(&folder.join("access.yaml")),
        ];
        let url = control.url().replace("http://", "https://");
        control.start(&flags).expect("start the control plane");
        Self {
            bed,
            control,
            url,
            node,
            operator,
            stranger,
            impostor,
        }
    }

    /// Flags that trust the authority `ca`.
    fn trusting(&self, ca: &Path) -> Vec<String> {
        let ca = ca.display().to_string();
        [
            "--control",
            &self.url,
            "--control-name",
            "control.example",
            "--control-ca",
            &ca,
        ]
        .map(str::to_owned)
        .into()
    }

    /// Flags of somebody who shows a certificate.
    fn showing(&self, certificate: &Certificates) -> Vec<String> {
        let [cert, key] = [&certificate.cert, &certificate.key].map(|path| path.display().to_string());
        let mut flags = self.trusting(&self.node.ca);
        flags.extend(["--control-cert".to_owned(), cert, "--control-key".to_owned(), key]);
        flags
    }

    /// Flags of somebody who has a token.
    fn with_token(&self, file: &str) -> Vec<String> {
        let file = self.control.folder().join(file).display().to_string();
        let mut flags = self.trusting(&self.node.ca);
        flags.extend(["--control-token-file".to_owned(), file]);
        flags
    }

    fn apply(&self, flags: &[String], resources: &Manifest) -> Output {
        self.control
            .cli_as(flags, &["apply", "-f", "-"], &resources.to_string())
    }

    /// Panics unless the CLI fails with these words.
    fn assert_refused(&self, flags: &[String], words: &str) {
        let output = self.apply(flags, &empty("mistral", 9));
        assert_eq!(output.status.code(), Some(1), "{flags:?}: {}", said(&output));
        assert!(said(&output).contains(words), "{flags:?}: {}", said(&output));
    }

    /// Starts the agent of node a and waits until it says why it is not let in.
    fn refused_agent(&self, flags: &[String], words: &str) -> Process {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let agent = self.bed.agent.launch(&flags).expect("start an agent");
        let told = agent
            .wait_for_log(|line| line.contains("no connection to the control plane") && line.contains(words));
        told.unwrap_or_else(|error| panic!("{words}: {error:#}"));
        agent
    }
}

#[test]
fn agents_and_users_are_let_in_by_certificate_or_token_as_what_they_are() {
    let mut fleet = Secured::new();
    let mut other = fleet.bed.b.agent().expect("an agent");
    let by_certificate = fleet.showing(&fleet.node);
    let by_token = fleet.with_token("agent.token");
    for (agent, flags) in [(&mut fleet.bed.agent, &by_certificate), (&mut other, &by_token)] {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        agent.start(&flags).expect("start an agent");
    }
    let writers = [fleet.showing(&fleet.operator), fleet.with_token("admin.token")];
    for (index, flags) in writers.iter().enumerate() {
        let output = fleet.apply(flags, &empty(&format!("s{index}"), index as u8));
        assert!(output.status.success(), "{flags:?}: {}", said(&output));
    }
    for agent in [&fleet.bed.agent, &other] {
        eventually(
            "both services",
            || services(agent),
            |names| names == &["models/s0", "models/s1"],
        );
    }
    // An agent reads and reports; it does not write.
    for flags in [by_certificate, by_token] {
        fleet.assert_refused(&flags, "not allowed");
        let output = fleet.control.cli_as(&flags, &["get", "services", "-A"], "");
        assert!(
            output.status.success() && said(&output).contains("s1"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn nobody_else_is_let_in_and_nobody_is_taken_in() {
    let fleet = Secured::new();
    let operator = fleet.showing(&fleet.operator);
    assert!(fleet.apply(&operator, &empty("llama", 1)).status.success());
    let anonymous = fleet.trusting(&fleet.node.ca);
    let deceived = fleet.trusting(&fleet.impostor.ca);
    let stranger = fleet.showing(&fleet.stranger);
    let impostor = fleet.showing(&fleet.impostor);
    fleet.assert_refused(&anonymous, "does not know who this is");
    fleet.assert_refused(&stranger, "does not know who this is");
    fleet.assert_refused(&deceived, "UnknownIssuer");
    // TLS 1.3 is done for the client before the server has looked at its certificate.
    fleet.assert_refused(&impostor, "the control plane");
    let mut misnamed = fleet.showing(&fleet.operator);
    misnamed[3] = "another.example".to_owned();
    fleet.assert_refused(&misnamed, "not valid for name");
    fleet.assert_refused(&fleet.control.flags(), "https");
    let listed = fleet
        .control
        .cli_as(&operator, &["get", "services", "-A", "-o", "name"], "");
    assert!(!said(&listed).contains("mistral"), "{}", said(&listed));

    // It answers a moment after it has begun to ask.
    let known = || fleet.bed.agent.services().ok().map(|services| services.len());
    // An agent that cannot tell who the control plane is takes nothing from it.
    for (flags, words) in [
        (&deceived, "UnknownIssuer"),
        (&impostor, "no connection"),
        (&anonymous, "Unauthenticated"),
        (&stranger, "Unauthenticated"),
    ] {
        let agent = fleet.refused_agent(flags, words);
        eventually("an answer of an agent without services", known, |count| {
            *count == Some(0)
        });
        agent.stop().expect("stop the agent");
    }
    // With what it should have had, it does.
    let flags = fleet.showing(&fleet.node);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let agent = fleet.bed.agent.launch(&flags).expect("start an agent");
    eventually("the service", known, |count| *count == Some(1));
    agent.stop().expect("stop the agent");
}
