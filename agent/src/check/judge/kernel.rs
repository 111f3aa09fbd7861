// SPDX-License-Identifier: Apache-2.0
//! Whether the kernel can carry the data path. Invariant: a feature decides by whether it is there; the release only explains.

use crate::{
    check::{Finding, facts::KernelFacts},
    datapath::features::{Answer, FEATURES, Feature},
};

/// The oldest Linux that has everything that is required.
const OLDEST: (u32, u32) = (5, 15);

pub(super) fn judge(kernel: &KernelFacts, lacking: &[&str]) -> Vec<Finding> {
    vec![
        privileges(lacking),
        release(kernel),
        features(kernel),
        types(kernel),
        compiler(kernel),
        lockdown(kernel),
        locked_memory(kernel),
    ]
}

fn privileges(lacking: &[&str]) -> Finding {
    let looked_at = "effective capabilities in /proc/self/status";
    if lacking.is_empty() {
        return Finding::ok(
            "privileges",
            looked_at,
            "CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN",
        );
    }
    // The kernel takes CAP_SYS_ADMIN for each of the others, but for ending the connections of others.
    let needed: &[&str] = if lacking.contains(&"CAP_SYS_ADMIN") {
        &["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]
    } else {
        &["CAP_NET_ADMIN"]
    };
    let names = lacking.join(", ");
    if !lacking.iter().any(|name| needed.contains(name)) {
        let found = format!("without {names}");
        if !lacking.contains(&"CAP_SYS_ADMIN") {
            return Finding::ok(
                "privileges",
                looked_at,
                format!("CAP_SYS_ADMIN stands for {names}"),
            );
        }
        return Finding::warning(
            "privileges",
            looked_at,
            format!(
                "{found} there are no run times of programs, and idle connections in the namespaces of pods are not ended"
            ),
            "add CAP_SYS_ADMIN, or do without",
        );
    }
    Finding::failure(
        "privileges",
        looked_at,
        format!("this process lacks {names}"),
        format!(
            "run as root; in a container add {names} to securityContext.capabilities.add, in a unit of systemd to AmbientCapabilities and CapabilityBoundingSet"
        ),
    )
}

fn release(kernel: &KernelFacts) -> Finding {
    let looked_at = "/proc/sys/kernel/osrelease";
    let found = format!("Linux {}", kernel.release);
    match version(&kernel.release) {
        Some(version) if version < OLDEST => Finding::warning(
            "kernel",
            looked_at,
            format!("{found}, older than {}.{}", OLDEST.0, OLDEST.1),
            "boot a newer kernel, unless the finding `features` says that this one has what is needed",
        ),
        _ => Finding::ok("kernel", looked_at, found),
    }
}

/// Major and minor number of a release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// The features that are required, or those with a fallback, of which `wanted` holds.
fn those(kernel: &KernelFacts, required: bool, wanted: fn(&Answer) -> bool) -> Vec<&'static Feature> {
    FEATURES
        .iter()
        .filter(|feature| feature.without.is_none() == required)
        .filter(|feature| kernel.features.get(feature.name).is_some_and(wanted))
        .collect()
}

fn features(kernel: &KernelFacts) -> Finding {
    let looked_at = "programs, maps and helpers, each tried with a tiny one; the kernel's types";
    let missing = those(kernel, true, |answer| *answer == Answer::No);
    if !missing.is_empty() {
        return lacking_features(looked_at, &missing);
    }
    let unknown = those(kernel, true, |answer| matches!(answer, Answer::Unknown(_)));
    if let Some(first) = unknown.first() {
        let why = match &kernel.features[first.name] {
            Answer::Unknown(why) => why.as_str(),
            _ => "",
        };
        return Finding::warning(
            "features",
            looked_at,
            format!(
                "{} features could not be tried, the first, {}: {why}",
                unknown.len(),
                first.name
            ),
            "run this as root, with the capabilities that the finding `privileges` names",
        );
    }
    let absent = those(kernel, false, |answer| *answer == Answer::No);
    let fallbacks = absent.iter().filter_map(|feature| {
        let without = feature.without?;
        Some(format!(
            "without {} (Linux {}) {without}",
            feature.name, feature.since
        ))
    });
    let found = format!(
        "{} of {} are there",
        FEATURES.len() - absent.len(),
        FEATURES.len()
    );
    let found = std::iter::once(found)
        .chain(fallbacks)
        .collect::<Vec<_>>()
        .join("; ");
    Finding::ok("features", looked_at, found)
}

fn lacking_features(looked_at: &str, missing: &[&Feature]) -> Finding {
    let list: Vec<String> = missing
        .iter()
        .map(|feature| format!("{} ({}, Linux {})", feature.name, feature.purpose, feature.since))
        .collect();
    let newest = missing.iter().max_by_key(|feature| version(feature.since));
    Finding::failure(
        "features",
        looked_at,
        format!("this kernel lacks {}", list.join("; ")),
        format!(
            "boot Linux {} or newer, with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_DEBUG_INFO_BTF",
            newest.map_or("", |feature| feature.since)
        ),
    )
}

fn types(kernel: &KernelFacts) -> Finding {
    let looked_at = "/sys/kernel/btf/vmlinux, and in it the fields that the programs read";
    match &kernel.btf_error {
        None => Finding::ok("btf", looked_at, "the kernel's types have every field"),
        Some(error) => Finding::failure(
            "btf",
            looked_at,
            error,
            "boot a kernel with CONFIG_DEBUG_INFO_BTF=y; in a container, do not hide /sys/kernel/btf",
        ),
    }
}

fn compiler(kernel: &KernelFacts) -> Finding {
    let looked_at = "net.core.bpf_jit_enable";
    match kernel.jit {
        Some(0) => Finding::warning(
            "jit",
            looked_at,
            "the programs are interpreted, which makes each packet and each connect several times slower",
            "`sysctl -w net.core.bpf_jit_enable=1`",
        ),
        Some(_) => Finding::ok("jit", looked_at, "the programs are compiled"),
        None => Finding::ok("jit", looked_at, "is not to be seen in this network namespace"),
    }
}

fn lockdown(kernel: &KernelFacts) -> Finding {
    let looked_at = "/sys/kernel/security/lockdown";
    match kernel.lockdown.as_deref() {
        Some("confidentiality") => Finding::failure(
            "lockdown",
            looked_at,
            "the mode `confidentiality` forbids programs to read the kernel's memory",
            "boot with `lockdown=integrity` or without the parameter",
        ),
        Some(mode) => Finding::ok("lockdown", looked_at, format!("the mode is `{mode}`")),
        None => Finding::ok("lockdown", looked_at, "there is no lockdown"),
    }
}

fn locked_memory(kernel: &KernelFacts) -> Finding {
    let looked_at = "a map, created while the limit of locked memory is 0";
    let memlock = &kernel.memlock;
    match (&memlock.free, memlock.limit) {
        (Answer::Yes, _) => Finding::ok(
            "memlock",
            looked_at,
            "maps count as memory of the cgroup; the limit of locked memory does not matter",
        ),
        (Answer::No, None) => Finding::ok(
            "memlock",
            looked_at,
            "maps are locked memory, which has no limit here",
        ),
        (Answer::No, Some(limit)) => Finding::failure(
            "memlock",
            looked_at,
            format!("maps are locked memory, of which {limit} bytes are allowed"),
            "`ulimit -l unlimited`, or LimitMEMLOCK=infinity in the unit",
        ),
        (Answer::Unknown(why), _) => Finding::warning(
            "memlock",
            looked_at,
            format!("a map could not be tried: {why}"),
            "run this as root, with the capabilities that the finding `privileges` names",
        ),
    }
}
