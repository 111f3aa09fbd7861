// SPDX-License-Identifier: Apache-2.0
//! The reasons for which an access policy, or what a traffic policy says about limits and health, is refused.
//!
//! Invariant: as for every [`super::Problem`], text of the user is quoted and cut, and a remedy is named.

use std::time::Duration;

use humantime::format_duration;

use super::problem::quoted;

/// What is wrong, and the remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[expect(
    missing_docs,
    reason = "the message of each variant says what it and its fields mean"
)]
pub enum AdmissionProblem {
    #[error("is {found}; use {least} to {most}{remedy}")]
    Number {
        found: i64,
        least: u32,
        most: u32,
        remedy: &'static str,
    },
    #[error("{} is out of range; use {} to {}", quoted(.found), format_duration(*.least), format_duration(*.most))]
    Duration {
        found: String,
        least: Duration,
        most: Duration,
    },
    #[error("is {}, less than {other}; make it at least {}", format_duration(*.found), format_duration(*.least))]
    ShorterThan {
        found: Duration,
        other: &'static str,
        least: Duration,
    },
    #[error("is {}, longer than {other}; make it at most {}", format_duration(*.found), format_duration(*.most))]
    LongerThan {
        found: Duration,
        other: &'static str,
        most: Duration,
    },
    #[error("a burst without connectionsPerSecond limits nothing; add connectionsPerSecond, or remove it")]
    BurstWithoutRate,
    #[error("is {one}, more than the {all} of all clients together; use at most {all}, or leave it out")]
    MoreThanAll { one: u64, all: u64 },
    #[error("limits nothing; give at least one of {fields}, or remove it")]
    NoLimit { fields: &'static str },
    #[error("neither a window nor untilFirstToken is given; add window: 30s, or remove slowStart")]
    NoSlowStart,
    #[error("{found} ports; leave out at most 7, or switch the shortcut off")]
    ShortcutPorts { found: usize },
    #[error("excepts ports from a shortcut that is off; write enabled: true, or remove it")]
    ShortcutOff,
    #[error("a path is for kind http, this is {kind}; remove it")]
    PathUnused { kind: &'static str },
    #[error("{} is no path; write one such as /health, of printable characters without spaces", quoted(.found))]
    Path { found: String },
    #[error("{level} is already tiers[{first}]; name each level once")]
    TierTwice { level: &'static str, first: usize },
    #[error(
        "{level} lies within {wider}, which is tiers[{first}], so no backend would be left for it; order them node, zone, region"
    )]
    TierWithin {
        level: &'static str,
        wider: &'static str,
        first: usize,
    },
    #[error("{} is no locality; use 1 to 253 printable characters without spaces", quoted(.found))]
    Locality { found: String },

    #[error("{} is no SPIFFE ID: {reason}; write one such as spiffe://example.org/ns/apps/chat", quoted(.found))]
    Identity { found: String, reason: &'static str },
    #[error("{} is no pattern: {reason}; write a name, or the beginning of one and * as its last character", quoted(.found))]
    Pattern { found: String, reason: &'static str },
    #[error("{} is no address range; write one such as 10.1.0.0/16 or fd00:1::/64", quoted(.found))]
    Cidr { found: String },
    #[error("{} has bits beyond its length; write {network}", quoted(.found))]
    CidrBits { found: String, network: String },
    #[error("{} is already at [{first}]; remove one of the two", quoted(.found))]
    Twice { found: String, first: usize },

    #[error(
        "a Mesh is the target of policies in namespace {namespace} only; use kind Service, or move the policy there"
    )]
    MeshNamespace { namespace: &'static str },
    #[error("there is one mesh, which has no name; remove it")]
    MeshName,
    #[error(
        "says nothing: there is neither a rule nor a default; add rules: [{{action: deny}}], or default: deny"
    )]
    NoRules,
    #[error(
        "is empty and would match nobody; list at least one source, or remove \"from\" to match everybody"
    )]
    EmptyFrom,
    #[error(
        "is empty and would match everybody; give at least one field, or remove \"from\" of the rule to mean everybody"
    )]
    EmptySource,
    #[error("a client that is unknown has no {with}; give unknown an entry of its own in \"from\"")]
    UnknownWith { with: &'static str },
    #[error("is false; write unknown: true, or remove it")]
    UnknownFalse,
    #[error("is empty and would match nothing; list at least one, or remove it")]
    EmptyList,
    #[error("{} is no name of a rule; use 1 to 63 of letters, digits, -, _, . and spaces", quoted(.found))]
    RuleName { found: String },
    #[error("{} is already the name of rules[{first}]; give each rule its own", quoted(.found))]
    DuplicateRuleName { found: String, first: usize },
    #[error("has {found} rules; split it into policies of at most {limit}")]
    TooManyRules { found: usize, limit: usize },
}
