// SPDX-License-Identifier: Apache-2.0
//! Random policies and workloads against a reading of the resources without any index or sharing.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;
use crate::AccessWarning;

const NAMESPACES: [&str; 2] = ["a", "ab"];
const RANGES: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.0/24",
    "10.1.2.3/32",
    "::/0",
    "fd00::/8",
    "fd00:1::/32",
];
/// Addresses of clients; the first ones may be those of workloads.
const ADDRESSES: [&str; 7] = [
    "10.1.2.3",
    "10.1.2.4",
    "fd00:1::1",
    "10.1.9.9",
    "10.9.9.9",
    "192.0.2.1",
    "2001:db8::1",
];
const PORTS: [u16; 2] = [80, 81];

fn source() -> impl Strategy<Value = Value> {
    let names = |of: &'static [&'static str]| option::weighted(0.4, vec(select(of), 1..3));
    (
        names(&["a", "ab", "a*", "x"]),
        names(&["w0", "w1", "w*", "w1*", "*", "x"]),
        names(&["spiffe://mesh.local/ns/a/*", "spiffe://shared/id", "spiffe://s*"]),
        option::weighted(
            0.4,
            select(vec![json!({"app": "0"}), json!({"app": "1", "tier": "x"})]),
        ),
        option::weighted(0.4, vec(select(&RANGES[..]), 1..3)),
    )
        .prop_map(|(namespaces, workloads, identities, labels, cidrs)| {
            let distinct = |list: Option<Vec<&'static str>>| list.map(BTreeSet::from_iter);
            let fields = [
                ("namespaces", json!(distinct(namespaces))),
                ("workloads", json!(distinct(workloads))),
                ("identities", json!(distinct(identities))),
                ("labels", json!(labels)),
                ("cidrs", json!(distinct(cidrs))),
            ];
            let given: serde_json::Map<_, _> = fields
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .map(|(name, value)| (name.to_owned(), value))
                .collect();
            if given.is_empty() {
                json!({"unknown": true})
            } else {
                given.into()
            }
        })
}

fn rule() -> impl Strategy<Value = Value> {
    let action = select(&["allow", "deny", "audit"][..]);
    let from = option::weighted(0.9, vec(source(), 1..3));
    let ports = option::weighted(0.3, select(&PORTS[..]));
    (action, from, ports).prop_map(
        |(action, from, port)| json!({"action": action, "from": from, "ports": port.map(|port| [port])}),
    )
}

/// A policy of the mesh, of a namespace, or of a service.
fn access_policy() -> impl Strategy<Value = Value> {
    let level = 0..5_usize;
    let default = option::of(select(&["allow", "deny"][..]));
    (level, default, vec(rule(), 1..4)).prop_map(|(level, default, rules)| {
        let (namespace, target, default) = match level {
            0 => ("nodemesh-system", json!({"kind": "Mesh"}), default),
            1 | 2 => (NAMESPACES[level - 1], json!({"kind": "Service"}), default),
            _ => (
                NAMESPACES[level - 3],
                json!({"kind": "Service", "name": "s"}),
                None,
            ),
        };
        within(
            namespace,
            policy(
                "p",
                &json!({"targetRef": target, "default": default, "rules": rules}),
            ),
        )
    })
}

fn client() -> impl Strategy<Value = Value> {
    let addresses = prop_oneof![
        Just(json!([])),
        select(&ADDRESSES[..2]).prop_map(|v4| json!([v4])),
        select(&ADDRESSES[..2]).prop_map(|v4| json!([v4, ADDRESSES[2]])),
    ];
    let identity = option::of(Just("spiffe://shared/id"));
    (addresses, identity, 0..2_u8, any::<bool>()).prop_map(|(addresses, identity, app, tier)| {
        let labels = if tier {
            json!({"app": app.to_string(), "tier": "x"})
        } else {
            json!({"app": app.to_string()})
        };
        let spec = json!({"addresses": addresses, "cgroup": "set by the name", "identity": identity});
        let mut value = document("Workload", "w", &spec);
        value["metadata"]["labels"] = labels;
        value
    })
}

/// All documents, each with a name of its own.
fn documents() -> impl Strategy<Value = Vec<Value>> {
    (vec(access_policy(), 0..5), vec(client(), 0..5)).prop_map(|(policies, clients)| {
        let services = NAMESPACES
            .iter()
            .zip(1..)
            .map(|(namespace, index)| within(namespace, service("s", index)));
        let policies = policies.into_iter().enumerate().map(|(index, mut policy)| {
            policy["metadata"]["name"] = json!(format!("p{index}"));
            policy
        });
        let clients = clients.into_iter().enumerate().map(|(index, mut client)| {
            client["metadata"]["name"] = json!(format!("w{index}"));
            client["metadata"]["namespace"] = json!(NAMESPACES[index % 2]);
            client["spec"]["cgroup"] = json!(format!("pods/{index}"));
            client
        });
        services.chain(policies).chain(clients).collect()
    })
}

/// Whether `source` has the client: what it is, and at which addresses.
fn has(source: &Source, who: Option<&Workload>, addresses: &[IpAddr]) -> bool {
    let is_in = |range: &IpNet| addresses.iter().any(|address| range.contains(address));
    if !source.cidrs.is_empty() && !source.cidrs.iter().any(is_in) {
        return false;
    }
    let about_workloads =
        source.namespaces.len() + source.workloads.len() + source.identities.len() + source.labels.len();
    let Some(workload) = who else {
        return about_workloads == 0;
    };
    let name = &workload.metadata.name;
    !source.unknown
        && (source.namespaces.is_empty() || source.namespaces.iter().any(|p| p.matches(name.namespace())))
        && (source.workloads.is_empty() || source.workloads.iter().any(|p| p.matches(name.name())))
        && (source.identities.is_empty() || source.identities.iter().any(|p| p.matches(&workload.identity)))
        && source
            .labels
            .iter()
            .all(|(key, value)| workload.metadata.labels.get(key) == Some(value))
}

/// What the policies say, read one by one, and whether it is the default.
fn plain(
    resources: &Resources,
    service: &ResourceName,
    port: u16,
    who: Option<&Workload>,
    addresses: &[IpAddr],
) -> (Access, bool) {
    let levels = [
        AccessTarget::Mesh,
        AccessTarget::Namespace(service.namespace().into()),
        AccessTarget::Service(service.clone()),
    ];
    let policies: Vec<_> = resources
        .access_policies()
        .values()
        .filter(|p| levels.contains(&p.target))
        .collect();
    let matching = policies.iter().flat_map(|policy| &policy.rules).filter(|rule| {
        let is_from = rule
            .from
            .as_ref()
            .is_none_or(|from| from.iter().any(|source| has(source, who, addresses)));
        is_from && rule.ports.as_ref().is_none_or(|ports| ports.contains(&port))
    });
    let actions: Vec<Action> = matching.map(|rule| rule.action).collect();
    if actions.contains(&Action::Deny) {
        return (Access::Deny, false);
    }
    if actions.contains(&Action::Audit) {
        return (Access::Audit, false);
    }
    if actions.contains(&Action::Allow) {
        return (Access::Allow, false);
    }
    let default = |target: &AccessTarget| {
        let of: Vec<_> = policies
            .iter()
            .filter(|p| p.target == *target)
            .filter_map(|p| p.default)
            .collect();
        [DefaultAccess::Deny, DefaultAccess::Allow]
            .into_iter()
            .find(|default| of.contains(default))
    };
    match default(&levels[1]).or_else(|| default(&levels[0])) {
        Some(DefaultAccess::Deny) => (Access::Deny, true),
        _ => (Access::Allow, true),
    }
}

fn strictest(all: impl Iterator<Item = Access>) -> Option<Access> {
    let order = [Access::Allow, Access::Audit, Access::Deny];
    all.max_by_key(|access| order.iter().position(|other| other == access))
}

/// Checks every decision of one frontend.
fn check(resources: &Resources, desired: &Desired, frontend: &Frontend) -> Result<(), TestCaseError> {
    let (service, port) = (&frontend.service, frontend.key.port.get());
    let plain =
        |who: Option<&Workload>, addresses: &[IpAddr]| plain(resources, service, port, who, addresses);
    let decide = |principal: &Principal| match &frontend.access {
        Some(rules) => rules.decide(principal).access,
        None => Access::Allow,
    };
    let all = ADDRESSES.map(|address| address.parse::<IpAddr>().unwrap());
    // Clients that the client's node knows.
    for workload in resources.workloads().values() {
        let name = PrincipalName::Workload(workload.metadata.name.clone());
        let decided = desired
            .principals
            .get(&name)
            .map_or(Access::Allow, |principal| decide(principal));
        if workload.addresses.is_empty() {
            unaddressed(decided, |addresses| plain(Some(workload), addresses), &all)?;
        } else {
            prop_assert_eq!(decided, plain(Some(workload), &workload.addresses).0, "{}", name);
        }
    }
    unaddressed(
        decide(&Principal::UNKNOWN),
        |addresses| plain(None, addresses),
        &all,
    )?;
    // Clients that the server's node knows by their address.
    for address in all {
        let owners = resources
            .workloads()
            .values()
            .filter(|workload| workload.addresses.contains(&address));
        let owners: Vec<_> = owners.collect();
        let expected = match &owners[..] {
            [one] => plain(Some(one), &one.addresses).0,
            several => {
                let all = several.iter().map(|workload| plain(Some(workload), &[address]).0);
                strictest(all).unwrap_or_else(|| plain(None, &[address]).0)
            }
        };
        prop_assert_eq!(decide(&desired.principal_at(address).1), expected, "{}", address);
    }
    Ok(())
}

/// Checks the decision about a client whose address is not known: it is let pass if some address would be.
fn unaddressed(
    decided: Access,
    plain: impl Fn(&[IpAddr]) -> (Access, bool),
    all: &[IpAddr],
) -> Result<(), TestCaseError> {
    let (nowhere, is_default) = plain(&[]);
    match decided {
        Access::Deny => {
            prop_assert_eq!(nowhere, Access::Deny);
            for address in all {
                prop_assert_eq!(plain(&[*address]).0, Access::Deny, "{}", address);
            }
        }
        Access::ByAddress => prop_assert_eq!((nowhere, is_default), (Access::Deny, true)),
        other => prop_assert_eq!(other, nowhere),
    }
    Ok(())
}

/// Checks that a table, and the list of matching rules, say what each decision says.
fn check_forms(desired: &Desired, rules: &AccessRules) -> Result<(), TestCaseError> {
    let mut numbered: Vec<_> = desired.principals.values().cloned().map(Some).collect();
    numbered.insert(1, None);
    let table = rules.table(&Directory::new(numbered.clone()));
    prop_assert_eq!(table.len(), numbered.len());
    for (principal, access) in numbered.iter().zip(table) {
        let Some(principal) = principal else {
            prop_assert_eq!(access, Access::Deny, "a number that is not in use");
            continue;
        };
        let decision = rules.decide(principal);
        prop_assert_eq!(access, decision.access);
        prop_assert_eq!(access, rules.access(principal));
        if principal.workloads().len() <= 1 && access != Access::ByAddress {
            let first = rules.matching(principal).into_iter().next();
            prop_assert_eq!(first.is_none(), decision.default);
            prop_assert_eq!(
                first.map(|(name, _)| name),
                decision.rule.filter(|_| !decision.default)
            );
        }
    }
    Ok(())
}

fn compiled(resources: &Resources) -> Desired {
    Desired::compile(resources, &Locality::default(), None).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn decisions_are_those_of_a_plain_reading(documents in documents()) {
        let resources = merge(documents);
        let desired = Desired::compile(&resources, &Locality::default(), None).unwrap();
        for frontend in desired.frontends.values() {
            check(&resources, &desired, frontend)?;
            if let Some(rules) = &frontend.access {
                check_forms(&desired, rules)?;
            }
        }
    }

    #[test]
    fn a_policy_reads_back_as_itself(document in access_policy()) {
        let read = |document: &Value| {
            let manifest = Manifest::from_values([document.clone()]);
            match manifest.resources().next() {
                Some(crate::Resource::AccessPolicy(policy)) => Arc::clone(policy),
                other => panic!("{other:?} {}", manifest.errors()),
            }
        };
        let policy = read(&document);
        let mut written = document;
        written["spec"] = policy.to_spec().into();
        prop_assert_eq!(&read(&written), &policy, "{}", written);
    }

    #[test]
    fn a_rule_without_effect_can_be_removed(documents in documents()) {
        let resources = merge(documents.clone());
        let shadowed: BTreeSet<_> = resources.warnings().into_iter().filter_map(|warning| match warning {
            crate::Warning::Access(AccessWarning::Shadowed { rule, .. }) => Some((rule.policy.to_string(), rule.rule)),
            _ => None,
        }).collect();
        let without = documents.into_iter().map(|mut document| {
            let name = format!("{}/{}", document["metadata"]["namespace"].as_str().unwrap_or("default"), document["metadata"]["name"].as_str().unwrap());
            if let Some(rules) = document.pointer_mut("/spec/rules").and_then(Value::as_array_mut) {
                let mut number = 0;
                rules.retain(|_| {
                    number += 1;
                    !shadowed.contains(&(name.clone(), format!("rule {number}").into()))
                });
                rules.push(json!({"name": "last", "action": "allow", "from": [{"workloads": ["nobody"]}]}));
            }
            document
        });
        let less = merge(without);
        let (all, less) = (compiled(&resources), compiled(&less));
        for (name, frontend) in &all.frontends {
            let decide = |desired: &Desired, address: &str| {
                let principal = desired.principal_at(address.parse().unwrap()).1;
                let rules = desired.frontends[name].access.as_ref();
                rules.map_or(Access::Allow, |rules| rules.access(&principal))
            };
            for address in ADDRESSES {
                prop_assert_eq!(decide(&all, address), decide(&less, address), "{} {:?} {:?}", address, frontend.access, shadowed);
            }
        }
    }

    #[test]
    fn an_edit_compiles_to_what_a_fresh_start_would(versions in vec(documents(), 2..4)) {
        let parse = |documents: &[Value], previous: &Manifest| Manifest::from_values(documents.iter().cloned()).sharing(previous);
        let mut manifest = parse(&versions[0], &Manifest::default());
        let mut resources = Resources::merge([("file", &manifest)]).unwrap();
        let mut desired = Desired::compile(&resources, &Locality::default(), None).unwrap();
        for documents in &versions[1..] {
            let new_manifest = parse(documents, &manifest);
            let new_resources = Resources::merge([("file", &new_manifest)]).unwrap();
            let new = Desired::compile(&new_resources, &Locality::default(), Some((&resources, &desired))).unwrap();
            prop_assert_eq!(&new, &Desired::compile(&new_resources, &Locality::default(), None).unwrap());
            let rules: Vec<_> = new.frontends.values().filter_map(|frontend| frontend.access.as_ref()).collect();
            for (index, one) in rules.iter().enumerate() {
                for other in &rules[index..] {
                    prop_assert_eq!(one == other, Arc::ptr_eq(one, other), "equal rules share an allocation");
                }
            }
            (manifest, resources, desired) = (new_manifest, new_resources, new);
        }
    }
}
