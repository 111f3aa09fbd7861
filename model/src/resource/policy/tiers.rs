// SPDX-License-Identifier: Apache-2.0
//! Which backends are asked first: `locality` of a traffic policy.
//!
//! Invariant: no tier is empty by construction: a level never follows one that contains it.

use nodemesh_abi::{Rules, service::TIERS};

use super::range::number;
use crate::{
    invalid::{AdmissionProblem, Findings, Problem},
    keyword::{self, Keyword},
    resource::locality::LocalityLevel,
    wire,
};

const _: () = assert!(
    LocalityLevel::WORDS.len() == TIERS as usize,
    "each level, and the rest, has a table"
);

/// Reads `spec.locality`: the levels of the tiers but the last, in order.
pub(super) fn read(
    wire: Option<wire::LocalityTiers>,
    rules: &mut Rules,
    findings: &mut Findings,
) -> Box<[LocalityLevel]> {
    let Some(wire) = wire else { return Box::default() };
    if wire.tiers.is_empty() {
        let example = "[node, zone, region]";
        findings.add("spec.locality.tiers", Problem::Empty { example });
    }
    let spill = number(
        wire.spill_requests,
        1..=1_000_000,
        ", or leave it out to spill only when a tier has no fit backend",
    );
    let spill = findings.check("spec.locality.spillRequests", spill).flatten();
    rules.spill_load = spill.unwrap_or_default();
    let mut levels: Vec<(usize, LocalityLevel)> = Vec::new();
    for (index, word) in wire.tiers.iter().enumerate() {
        let field = format_args!("spec.locality.tiers[{index}]");
        let Some(level) = findings.check(field, keyword::parse::<LocalityLevel>(word)) else {
            continue;
        };
        match levels.iter().find(|(_, earlier)| *earlier >= level) {
            None => levels.push((index, level)),
            Some((first, earlier)) => findings.add(field, misplaced(level, *earlier, *first)),
        }
    }
    levels.into_iter().map(|(_, level)| level).collect()
}

fn misplaced(level: LocalityLevel, earlier: LocalityLevel, first: usize) -> Problem {
    let (level, wider) = (level.word(), earlier.word());
    if level == wider {
        AdmissionProblem::TierTwice { level, first }.into()
    } else {
        AdmissionProblem::TierWithin { level, wider, first }.into()
    }
}
