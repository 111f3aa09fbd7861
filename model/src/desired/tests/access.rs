// SPDX-License-Identifier: Apache-2.0
//! Access rules and principals: what a compilation shares, and the property that its decisions are those of a plain reading of
//! the resources.

use std::net::IpAddr;

use ipnet::IpNet;
use nodemesh_abi::Access;

use super::*;
use crate::{
    access::{AccessRules, Directory},
    resource::access_policy::{AccessTarget, Action, DefaultAccess, Source},
};

mod property;

fn access(desired: &Desired, service: &str, port: u16) -> Option<Arc<AccessRules>> {
    let frontend = desired
        .frontends
        .values()
        .find(|f| f.service.as_str() == service && f.key.port.get() == port);
    frontend
        .unwrap_or_else(|| panic!("no {service}:{port}"))
        .access
        .clone()
}

fn service(name: &str, index: u8) -> Value {
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    document(
        "Service",
        name,
        &json!({"addresses": [format!("10.96.0.{index}")], "ports": ports}),
    )
}

fn within(namespace: &str, mut document: Value) -> Value {
    document["metadata"]["namespace"] = json!(namespace);
    document
}

fn policy(name: &str, spec: &Value) -> Value {
    document("AccessPolicy", name, spec)
}

fn workload(name: &str, address: &str) -> Value {
    document("Workload", name, &json!({"addresses": [address]}))
}

#[test]
fn equal_rules_are_one_allocation() {
    let documents = |action: &str| {
        vec![
            service("a", 1),
            service("b", 2),
            within("other", service("c", 3)),
            policy(
                "namespace",
                &json!({"targetRef": {"kind": "Service"}, "default": "deny"}),
            ),
            policy(
                "ports",
                &json!({"targetRef": {"kind": "Service", "name": "b"}, "rules": [{"action": action, "ports": [81]}]}),
            ),
        ]
    };
    let old = merge(documents("allow"));
    let desired = Desired::compile(&old, &Locality::default(), None).unwrap();
    let same = |a: &Option<Arc<AccessRules>>, b: &Option<Arc<AccessRules>>| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        _ => false,
    };
    let of = |service, port| access(&desired, service, port);
    assert!(same(&of("default/a", 80), &of("default/a", 81)));
    assert!(
        same(&of("default/a", 80), &of("default/b", 80)),
        "the rule is about the other port"
    );
    assert_ne!(of("default/b", 80), of("default/b", 81));
    assert_eq!(of("other/c", 80), None, "no policy is about it");

    // A new manifest with equal content, and one change: what is equal stays the same allocation.
    let new = merge(documents("deny"));
    let changed = Desired::compile(&new, &Locality::default(), Some((&old, &desired))).unwrap();
    assert!(same(&of("default/a", 80), &access(&changed, "default/a", 80)));
    assert!(same(&of("default/b", 80), &access(&changed, "default/b", 80)));
    assert_ne!(of("default/b", 81), access(&changed, "default/b", 81));
}

#[test]
fn an_address_that_another_workload_takes_over_is_that_of_the_other_at_once() {
    let rules = json!([{"action": "allow", "from": [{"workloads": ["chat"]}]}]);
    let spec = json!({"targetRef": {"kind": "Service"}, "default": "deny", "rules": rules});
    let compile = |workloads: &[Value], previous: Option<(&Resources, &Desired)>| {
        let documents = workloads
            .iter()
            .cloned()
            .chain([service("a", 1), policy("p", &spec)]);
        let resources = merge(documents);
        let desired = Desired::compile(&resources, &Locality::default(), previous).unwrap();
        (resources, desired)
    };
    let at = |desired: &Desired| {
        let (name, principal) = desired.principal_at("10.1.0.1".parse().unwrap());
        let rules = access(desired, "default/a", 80).unwrap();
        (name.to_string(), rules.access(&principal))
    };
    let (old, before) = compile(&[workload("chat", "10.1.0.1")], None);
    assert_eq!(at(&before), ("default/chat".to_owned(), Access::Allow));
    let previous = Some((&old, &before));
    let (_, taken) = compile(&[workload("batch", "10.1.0.1")], previous);
    assert_eq!(at(&taken), ("default/batch".to_owned(), Access::Deny));
    let (_, moved) = compile(
        &[workload("batch", "10.1.0.1"), workload("chat", "10.1.0.2")],
        previous,
    );
    assert_eq!(at(&moved), ("default/batch".to_owned(), Access::Deny));
    let (_, shared) = compile(
        &[workload("batch", "10.1.0.1"), workload("chat", "10.1.0.1")],
        previous,
    );
    assert_eq!(
        at(&shared),
        ("10.1.0.1".to_owned(), Access::Deny),
        "allowed what each of the two is"
    );
    let (_, gone) = compile(&[], previous);
    assert_eq!(at(&gone), ("unknown".to_owned(), Access::Deny));
}

#[test]
fn an_unknown_client_is_judged_by_its_address_where_that_is_known() {
    let rules = json!([{"action": "allow", "from": [{"cidrs": ["10.0.0.0/8"]}]}, {"action": "deny", "from": [{"cidrs": ["10.1.0.0/16"]}]}]);
    let spec = |default: &str| json!({"targetRef": {"kind": "Service"}, "default": default, "rules": rules});
    for (default, at_connect, elsewhere) in [
        ("deny", Access::ByAddress, Access::Deny),
        ("allow", Access::Allow, Access::Allow),
    ] {
        let host = document("Workload", "host", &json!({"cgroup": "system.slice/host"}));
        let desired = compile([service("a", 1), policy("p", &spec(default)), host]);
        let rules = access(&desired, "default/a", 80).unwrap();
        assert_eq!(
            rules.access(&desired.principals[&PrincipalName::Unknown]),
            at_connect
        );
        let host = PrincipalName::Workload(ResourceName::new("default", "host").unwrap());
        assert_eq!(
            rules.access(&desired.principals[&host]),
            at_connect,
            "a workload of unknown address"
        );
        let of = |address: &str| rules.access(&desired.principal_at(address.parse().unwrap()).1);
        assert_eq!((of("10.2.0.1"), of("10.1.0.1")), (Access::Allow, Access::Deny));
        assert_eq!((of("192.0.2.1"), of("fd00::1")), (elsewhere, elsewhere));
    }
}

#[test]
fn a_range_of_all_ipv6_addresses_holds_no_ipv4_client() {
    let rules = json!([{"action": "allow", "from": [{"cidrs": ["::/0"]}]}]);
    let spec = json!({"targetRef": {"kind": "Service"}, "default": "deny", "rules": rules});
    let desired = compile([service("a", 1), policy("p", &spec)]);
    let rules = access(&desired, "default/a", 80).unwrap();
    let of = |address: &str| {
        let (name, principal) = desired.principal_at(address.parse().unwrap());
        (name.to_string(), rules.access(&principal))
    };
    assert_eq!(of("fd00::1"), ("::/0".to_owned(), Access::Allow));
    assert_eq!(of("10.1.0.1"), ("unknown".to_owned(), Access::Deny));
    let prefixes: Vec<_> = desired
        .prefixes
        .iter()
        .map(|(prefix, name)| (prefix.bits, name.to_string()))
        .collect();
    assert_eq!(prefixes, [(0, "::/0".to_owned()), (96, "unknown".to_owned())]);
}

#[test]
fn without_access_policies_addresses_need_no_principal() {
    let client = document(
        "Workload",
        "client",
        &json!({"addresses": ["10.1.0.2"], "cgroup": "pods/client"}),
    );
    let desired = compile([service("a", 1), workload("replica", "10.1.0.1"), client]);
    let names: Vec<_> = desired.principals.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["unknown", "default/client"]);
    assert!(desired.prefixes.is_empty());
    assert_eq!(access(&desired, "default/a", 80), None);
    let name = ResourceName::new("default", "client").unwrap();
    assert_eq!(
        desired.clients[&name].principal,
        PrincipalName::Workload(name.clone())
    );
}

#[test]
fn what_policies_do_not_look_at_changes_no_principal() {
    let documents = |weight: u8, label: &str| {
        let mut replica = document(
            "Workload",
            "w",
            &json!({"addresses": ["10.1.0.1"], "weight": weight}),
        );
        replica["metadata"]["labels"] = json!({"app": label});
        merge([
            service("a", 1),
            policy("p", &json!({"targetRef": {"kind": "Service"}, "default": "deny"})),
            replica,
        ])
    };
    let old = documents(1, "x");
    let desired = Desired::compile(&old, &Locality::default(), None).unwrap();
    let name = PrincipalName::Workload(ResourceName::new("default", "w").unwrap());
    for (new, is_same) in [(documents(2, "x"), true), (documents(1, "y"), false)] {
        let changed = Desired::compile(&new, &Locality::default(), Some((&old, &desired))).unwrap();
        assert_eq!(
            Arc::ptr_eq(&desired.principals[&name], &changed.principals[&name]),
            is_same
        );
        assert_eq!(
            changed,
            Desired::compile(&new, &Locality::default(), None).unwrap()
        );
    }
}

#[test]
fn more_principals_than_numbers_are_refused() {
    let workloads = (0..65_536_u32).map(|index| {
        let address = std::net::Ipv4Addr::from(0x0a01_0000 + index);
        workload(&format!("w{index}"), &address.to_string())
    });
    let denying = policy("p", &json!({"targetRef": {"kind": "Service"}, "default": "deny"}));
    let resources = merge(workloads.chain([denying]));
    assert_eq!(
        Desired::compile(&resources, &Locality::default(), None),
        Err(CompileError::TooManyPrincipals)
    );
}
