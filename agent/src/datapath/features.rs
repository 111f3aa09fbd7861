// SPDX-License-Identifier: Apache-2.0
//! What the running kernel can do, found by trying: tiny programs and maps that are gone at once, and the kernel's own types. Used by
//! `nodemesh check` and, for what has a fallback, by the loader.
//!
//! Invariant: a feature whose absence the agent survives says in [`Feature::without`] what happens then; all others are required. The floor is Linux 5.15.

use std::{collections::BTreeMap, fs};

use aya::{
    Btf,
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};
use aya_obj::btf::BtfKind;

/// Whether the kernel can do something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// It did not let itself be asked.
    Unknown(String),
}

impl Answer {
    fn of<E: std::fmt::Display>(result: Result<bool, E>) -> Self {
        match result {
            Ok(true) => Self::Yes,
            Ok(false) => Self::No,
            Err(error) => Self::Unknown(error.to_string()),
        }
    }
}

/// How a feature is found.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Program(ProgramType),
    Map(MapType),
    Helper(ProgramType, BpfHelper),
    /// A type of the kernel, by kind and name.
    Type(BtfKind, &'static str),
    /// A field of a structure or union.
    Field(&'static str, &'static str),
}

/// Something that the programs use.
#[derive(Debug)]
pub struct Feature {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub purpose: &'static str,
    /// The first Linux that has it.
    pub since: &'static str,
    /// What happens without it; `None` if nothing works without it.
    pub without: Option<&'static str>,
    probe: Probe,
}

const fn required(name: &'static str, purpose: &'static str, since: &'static str, probe: Probe) -> Feature {
    Feature {
        name,
        purpose,
        since,
        without: None,
        probe,
    }
}

const fn optional(
    name: &'static str,
    purpose: &'static str,
    since: &'static str,
    without: &'static str,
    probe: Probe,
) -> Feature {
    Feature {
        name,
        purpose,
        since,
        without: Some(without),
        probe,
    }
}

use Probe::{Field, Helper, Map, Program, Type};

/// Everything that not every kernel of these years has.
pub const FEATURES: &[Feature] = &[
    required(
        "sock_addr",
        "programs at connect, sendmsg and recvmsg",
        "4.17",
        Program(ProgramType::CgroupSockAddr),
    ),
    required(
        "sock_ops",
        "programs that see connections being established",
        "4.13",
        Program(ProgramType::SockOps),
    ),
    required(
        "cgroup_skb",
        "programs that see packets",
        "4.10",
        Program(ProgramType::CgroupSkb),
    ),
    required("sk_storage", "records in sockets", "5.2", Map(MapType::SkStorage)),
    required(
        "ring_buffer",
        "events and the access log",
        "5.8",
        Map(MapType::RingBuf),
    ),
    required(
        "map_in_map",
        "tables that are replaced in one step",
        "4.12",
        Map(MapType::ArrayOfMaps),
    ),
    required(
        "lpm_trie",
        "policies about networks",
        "4.11",
        Map(MapType::LpmTrie),
    ),
    required(
        "sock_hash",
        "sockets of one node that hand over messages to each other",
        "4.18",
        Map(MapType::SockHash),
    ),
    required(
        "netns_cookie",
        "telling one pod's addresses from another's",
        "5.7",
        Helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_get_netns_cookie),
    ),
    required(
        "iter_sk_storage",
        "listing connections",
        "5.9",
        Type(BtfKind::Struct, "bpf_iter__bpf_sk_storage_map"),
    ),
    required(
        "iter_task_file",
        "adopting connections",
        "5.8",
        Type(BtfKind::Struct, "bpf_iter__task_file"),
    ),
    required(
        "tp_set_state",
        "seeing connections end",
        "4.16",
        Type(BtfKind::Typedef, "btf_trace_inet_sock_set_state"),
    ),
    required(
        "tp_retransmit",
        "counting segments sent again",
        "4.15",
        Type(BtfKind::Typedef, "btf_trace_tcp_retransmit_skb"),
    ),
    optional(
        LOOP,
        "reading requests in packets",
        "5.17",
        "nothing is metered: connections are placed and counted, requests are not",
        Helper(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_loop),
    ),
    optional(
        SET_RETVAL,
        "refusing a connection with the errno of the reason",
        "5.18",
        "a refused connection fails with EPERM whatever the reason",
        Helper(ProgramType::CgroupSockAddr, BpfHelper::BPF_FUNC_set_retval),
    ),
    optional(
        "iter_one_task",
        "adopting connections of --cgroup only",
        "6.1",
        "connections of the whole host are adopted",
        Field("bpf_iter_link_info", "task"),
    ),
    optional(
        "tp_send_length",
        "the meter's times and sizes per call of the application",
        "6.3",
        "the meter takes them from packets",
        Type(BtfKind::Typedef, "btf_trace_sock_send_length"),
    ),
    optional(
        "tcx",
        "the packet path",
        "6.6",
        "no interface can be served, and the status says so",
        Type(BtfKind::Struct, "tcx_link"),
    ),
];

const LOOP: &str = "bpf_loop";
const SET_RETVAL: &str = "set_retval";

/// What the loader must know of the features that have fallbacks.
#[derive(Clone, Copy, Debug, Hash)]
pub struct Fallbacks {
    /// Whether packets can be read: the programs that do use `bpf_loop`.
    pub can_loop: bool,
    /// Whether a program can choose the errno of a call that it refuses.
    pub can_set_retval: bool,
}

/// Nothing is missing.
impl Default for Fallbacks {
    fn default() -> Self {
        Self {
            can_loop: true,
            can_set_retval: true,
        }
    }
}

/// A feature that nobody knows.
#[derive(Debug, thiserror::Error)]
#[error("{0} is no feature with a fallback that the loader chooses; these are {LOOP} and {SET_RETVAL}")]
pub struct UnknownFeature(String);

impl Fallbacks {
    /// Tries them; `without` names those that are to be taken as missing. What cannot be tried is taken as there, so that the load says
    /// what is wrong.
    pub fn probe(without: &[String]) -> Result<Self, UnknownFeature> {
        if let Some(name) = without
            .iter()
            .find(|name| ![LOOP, SET_RETVAL].contains(&name.as_str()))
        {
            return Err(UnknownFeature(name.clone()));
        }
        let has = |name: &str| {
            let feature = FEATURES.iter().find(|feature| feature.name == name);
            let missing = feature.is_some_and(|feature| try_helper(feature.probe) == Answer::No);
            !missing && !without.iter().any(|other| other == name)
        };
        Ok(Self {
            can_loop: has(LOOP),
            can_set_retval: has(SET_RETVAL),
        })
    }
}

fn try_helper(probe: Probe) -> Answer {
    let unread = "the kernel's types were not read".to_owned();
    ask(probe, Err(&unread), Err(&unread))
}

/// The kernel's own types.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Tries all of them.
pub fn probe() -> BTreeMap<&'static str, Answer> {
    let types = Btf::from_sys_fs().map_err(|error| error.to_string());
    let raw = fs::read(VMLINUX).map_err(|error| error.to_string());
    FEATURES
        .iter()
        .map(|feature| (feature.name, ask(feature.probe, types.as_ref(), raw.as_deref())))
        .collect()
}

fn ask(probe: Probe, types: Result<&Btf, &String>, raw: Result<&[u8], &String>) -> Answer {
    match probe {
        Program(kind) => Answer::of(is_program_supported(kind)),
        Map(kind) => Answer::of(is_map_supported(kind)),
        Helper(kind, helper) => Answer::of(is_helper_supported(kind, helper)),
        Type(kind, name) => match types {
            Ok(types) => Answer::of::<String>(Ok(types.id_by_type_name_kind(name, kind).is_ok())),
            Err(error) => Answer::Unknown(error.clone()),
        },
        Field(within, name) => match raw {
            Ok(raw) => Answer::of(super::btf::Btf::parse(raw).map(|btf| {
                let within = btf.composite_named(within);
                within.is_some_and(|within| btf.bit_offset(within, name).is_some())
            })),
            Err(error) => Answer::Unknown(error.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_every_fallback_is_told() {
        let names: std::collections::BTreeSet<_> = FEATURES.iter().map(|feature| feature.name).collect();
        assert_eq!(names.len(), FEATURES.len());
        let operations = include_str!("../../../docs/operations.md");
        for feature in FEATURES {
            if let Some(without) = feature.without {
                assert!(
                    operations.contains(without) && operations.contains(feature.since),
                    "docs/operations.md does not tell what happens without {}: {without}",
                    feature.name
                );
            }
        }
    }

    #[test]
    fn a_type_that_is_not_there_is_told_from_one_that_cannot_be_asked() {
        let types = Btf::from_sys_fs().unwrap();
        let raw = fs::read(VMLINUX).unwrap();
        let has = |probe| ask(probe, Ok(&types), Ok(&raw));
        assert_eq!(has(Type(BtfKind::Struct, "sock")), Answer::Yes);
        assert_eq!(has(Type(BtfKind::Struct, "sock_nothing")), Answer::No);
        assert_eq!(has(Field("sock", "sk_err")), Answer::Yes);
        assert_eq!(has(Field("sock", "sk_nothing")), Answer::No);
        assert_eq!(has(Field("bpf_iter_link_info", "map")), Answer::Yes);
        let broken = "gone".to_owned();
        assert_eq!(
            ask(Type(BtfKind::Struct, "sock"), Err(&broken), Ok(&raw)),
            Answer::Unknown(broken.clone())
        );
        assert_eq!(
            ask(Field("sock", "sk_err"), Ok(&types), Err(&broken)),
            Answer::Unknown(broken.clone())
        );
    }
}
