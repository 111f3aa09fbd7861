// SPDX-License-Identifier: Apache-2.0
//! Whether our programs run where they should, and who else is there.
//!
//! Invariant: programs that do not change addresses are told and left alone; those that do are a warning, whoever they belong to.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    check::{
        Finding,
        facts::{AgentFacts, Facts},
    },
    datapath::hooks::HookUse,
};

/// Beginnings of the names of programs, whose they are, and how to keep them out of the way of model services.
const OWNERS: [(&str, &str, &str); 8] = [
    (
        "cil_",
        "Cilium's socket load balancer",
        "give model services addresses outside of the cluster's service range; or restrict it with `socketLB.hostNamespaceOnly=true`",
    ),
    (
        "sock4_",
        "Cilium's socket load balancer",
        "give model services addresses outside of the cluster's service range; or restrict it with `socketLB.hostNamespaceOnly=true`",
    ),
    (
        "sock6_",
        "Cilium's socket load balancer",
        "give model services addresses outside of the cluster's service range; or restrict it with `socketLB.hostNamespaceOnly=true`",
    ),
    (
        "cali",
        "Calico's connect-time load balancer",
        "give model services addresses that are no ClusterIPs; or set `bpfConnectTimeLoadBalancing: Disabled` in the FelixConfiguration",
    ),
    (
        "cgroup_connect",
        "Kmesh",
        "leave the namespaces of model clients out of Kmesh, by removing the label `istio.io/dataplane-mode`",
    ),
    (
        "mb_",
        "Merbridge",
        "leave model clients out of Merbridge, which sends every connection to a sidecar",
    ),
    ("sd_", "systemd", ""),
    ("sysctl_", "systemd", ""),
];

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    if facts.hooks.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    findings.push(attachment(facts));
    findings.push(neighbours(&facts.hooks));
    findings.extend(exclusive(&facts.hooks));
    findings.extend(plugins(facts));
    findings
}

/// Programs that are there only if something is metered.
const PACKETS: [&str; 2] = ["egress", "ingress"];

/// Whether the agent meters; if none runs, whether the last one did.
fn is_metered(facts: &Facts) -> bool {
    match facts.agent.status() {
        Some(status) => status.datapath.meter.path != "off",
        None => facts
            .hooks
            .iter()
            .any(|hook| hook.pinned && PACKETS.contains(&hook.program)),
    }
}

fn attachment(facts: &Facts) -> Finding {
    let looked_at = "programs that the kernel runs at each hook of the cgroup, and the links below --pin-dir";
    let metered = is_metered(facts);
    let used = |hook: &&HookUse| metered || !PACKETS.contains(&hook.program);
    let names = |wanted: fn(&HookUse) -> bool| {
        let hooks = facts.hooks.iter().filter(used).filter(|hook| wanted(hook));
        hooks.map(|hook| hook.program).collect::<Vec<_>>()
    };
    let errors = names(|hook| hook.error.is_some());
    if let Some(hook) = facts.hooks.iter().find(|hook| hook.error.is_some()) {
        return Finding::warning(
            "attachment",
            looked_at,
            format!(
                "{} hooks could not be asked: {}",
                errors.len(),
                hook.error.as_deref().unwrap_or_default()
            ),
            "run this as root, with the capabilities that the finding `privileges` names",
        );
    }
    let running = names(|hook| hook.effective);
    let never_started = !facts.pins.own && matches!(facts.agent, AgentFacts::Absent);
    if running.is_empty() && never_started {
        return Finding::ok(
            "attachment",
            looked_at,
            "nothing is attached: no agent was started yet",
        );
    }
    let missing = names(|hook| !hook.effective);
    if missing.is_empty() {
        return Finding::ok(
            "attachment",
            looked_at,
            format!("all {} programs run", running.len()),
        );
    }
    let gone = names(|hook| !hook.pinned);
    let why = if gone.is_empty() {
        "their links are pinned but lead to another cgroup, which may be gone; or another tool detached them"
    } else {
        "their pins are gone: somebody removed files below --pin-dir"
    };
    Finding::failure(
        "attachment",
        looked_at,
        format!(
            "{} of {} programs do not run at this cgroup: {}; {why}",
            missing.len(),
            facts.hooks.len(),
            missing.join(", ")
        ),
        "restart nodemesh-agent, which attaches what is missing; if --cgroup names a folder that was made anew, that is the cause",
    )
}

/// Hooks whose programs may change the address that a client dials.
fn places(hook: &HookUse) -> bool {
    ["connect", "sendmsg"]
        .iter()
        .any(|kind| hook.program.starts_with(kind))
}

fn neighbours(hooks: &[HookUse]) -> Finding {
    let looked_at = "names of programs at the same hooks";
    let mut owners: BTreeMap<(&str, bool), BTreeSet<String>> = BTreeMap::new();
    let mut remedies = BTreeSet::new();
    for hook in hooks {
        for program in &hook.others {
            let own = hooks.iter().any(|hook| hook.program == program.name);
            let known = OWNERS
                .iter()
                .find(|(prefix, ..)| program.name.starts_with(prefix));
            let (owner, remedy) = match known {
                Some((_, owner, remedy)) => (*owner, *remedy),
                None if own => (
                    "another nodemesh-agent",
                    "stop it and run its `nodemesh cleanup --pin-dir DIR`, or give the two cgroups of which none contains the other",
                ),
                None => (
                    "an unknown tool",
                    "`bpftool prog show id ID` and `bpftool cgroup tree` tell whose it is; if it changes addresses too, keep it away from model services",
                ),
            };
            let changes = places(hook) && !remedy.is_empty();
            if changes {
                remedies.insert(remedy);
            }
            let label = format!("{} (id {}) beside {}", program.name, program.id, hook.program);
            owners.entry((owner, changes)).or_default().insert(label);
        }
    }
    if owners.is_empty() {
        return Finding::ok("neighbours", looked_at, "nobody else is there");
    }
    let describe = |((owner, _), programs): (&(&str, bool), &BTreeSet<String>)| {
        let shown: Vec<&str> = programs.iter().map(String::as_str).take(4).collect();
        let more = programs.len().saturating_sub(shown.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!("{owner}: {}{more}", shown.join(", "))
    };
    let found = owners.iter().map(describe).collect::<Vec<_>>().join("; ");
    if remedies.is_empty() {
        return Finding::ok(
            "neighbours",
            looked_at,
            format!("{found}; they do not change addresses"),
        );
    }
    Finding::warning(
        "neighbours",
        looked_at,
        format!("{found}: whichever runs last decides where a connection goes"),
        remedies.into_iter().collect::<Vec<_>>().join("; "),
    )
}

fn exclusive(hooks: &[HookUse]) -> Option<Finding> {
    let (hook, cgroup) = hooks
        .iter()
        .find_map(|hook| Some((hook, hook.exclusive.as_ref()?)))?;
    Some(Finding::failure(
        "exclusive",
        "flags of the programs that are attached to the cgroup and to those above it",
        format!(
            "somebody attached to {} at the hook of {} so that no other program may be there (BPF_PROG_ATTACH without BPF_F_ALLOW_MULTI)",
            cgroup.display(),
            hook.program
        ),
        format!(
            "`bpftool cgroup show {}` names it: end the tool that attached it or `bpftool cgroup detach` it, then start the agent; or choose another --cgroup",
            cgroup.display()
        ),
    ))
}

/// What redirects without a program at our hooks, or has none there yet.
fn plugins(facts: &Facts) -> Option<Finding> {
    if facts.cni.is_empty() {
        return None;
    }
    let looked_at = "/etc/cni/net.d";
    let found = facts.cni.join(", ");
    if facts.cni.iter().any(|plugin| plugin == "Istio CNI") {
        return Some(Finding::warning(
            "plugins",
            looked_at,
            format!(
                "{found}; Istio redirects connections of its pods after nodemesh has placed them, so its proxy sees the replica as the destination"
            ),
            "leave model clients out of the mesh of Istio (`sidecar.istio.io/inject: \"false\"`, or no `istio.io/dataplane-mode`), or exclude the replicas' ports (`traffic.sidecar.istio.io/excludeOutboundPorts`)",
        ));
    }
    Some(Finding::ok("plugins", looked_at, found))
}
