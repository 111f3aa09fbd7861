// SPDX-License-Identifier: Apache-2.0
//! YAML text to one generic value per document. Called by `manifest`.
//!
//! Invariant: the work is bounded by the length of the text: aliases, nesting and merge keys have budgets, so a small file
//! cannot become a large value.

use serde_json::Value;
use serde_saphyr::{DefaultMessageFormatter, Error, MessageFormatter as _, Options, budget::BudgetBreach};

use crate::invalid::{Problem, on_one_line};

/// Longest text, bytes: room for the most backends that a configuration may hold.
pub(crate) const MAX_BYTES: usize = 256 << 20;
/// Most nodes in one text: a backend with all its fields has 9.
const MAX_NODES: usize = 20_000_000;
/// Most documents in one text.
const MAX_DOCUMENTS: usize = 2_000_000;
/// Most events that aliases may add: 100,000 backends with a merge key each.
const MAX_REPLAYED: usize = 1_000_000;
/// Most anchors, aliases and merge keys.
const MAX_REFERENCES: usize = 200_000;
/// Most events that anchors may hold.
const MAX_ANCHORED: usize = 200_000;

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: Some(MAX_BYTES),
            max_events: 3 * MAX_NODES,
            max_nodes: MAX_NODES,
            max_documents: MAX_DOCUMENTS,
            max_total_scalar_bytes: MAX_BYTES,
            max_anchors: MAX_REFERENCES,
            max_aliases: MAX_REFERENCES,
            max_merge_keys: MAX_REFERENCES,
            max_recorded_anchor_events: MAX_ANCHORED,
            // One anchor with defaults that every backend merges is the usual way to use them.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPLAYED },
        // `no` is a country and `on` a name: only `true` and `false` are booleans, as in YAML 1.2.
        strict_booleans: true,
        with_snippet: false,
    }
}

/// Hands each document of `text` that is not empty to `each`, in order.
///
/// A document with a duplicate key is a problem of its own; after a syntax error there is no next document.
pub(crate) fn for_each_document(text: &str, mut each: impl FnMut(Result<Value, Problem>)) {
    if text.len() > MAX_BYTES {
        return each(Err(Problem::TextTooLong {
            bytes: text.len(),
            limit: MAX_BYTES,
        }));
    }
    let mut reader = text.as_bytes();
    for document in serde_saphyr::read_with_options::<_, Value>(&mut reader, options()) {
        each(document.map_err(|error| problem(&error)));
    }
}

fn problem(error: &Error) -> Problem {
    let (line, column) = error
        .location()
        .map_or((0, 0), |location| (location.line(), location.column()));
    match cause(error) {
        Error::DuplicateMappingKey { key: Some(key), .. } => Problem::DuplicateKey {
            line,
            column,
            key: key.clone(),
        },
        Error::Budget { breach, .. } => Problem::OverBudget {
            line,
            column,
            remedy: remedy(breach),
        },
        Error::AliasReplayLimitExceeded { .. } | Error::AliasReplayStackDepthExceeded { .. } => {
            Problem::OverBudget {
                line,
                column,
                remedy: WRITE_OUT,
            }
        }
        other => Problem::Syntax {
            line,
            column,
            message: on_one_line(&DefaultMessageFormatter.format_message(other)),
        },
    }
}

const WRITE_OUT: &str = "anchors and aliases expand to too much; write the values out";

/// What was too much, and what to do about it.
fn remedy(breach: &BudgetBreach) -> &'static str {
    match breach {
        BudgetBreach::Depth { .. } => "the nesting is too deep; no resource needs more than 7 levels",
        BudgetBreach::Aliases { .. }
        | BudgetBreach::Anchors { .. }
        | BudgetBreach::MergeKeys { .. }
        | BudgetBreach::RecordedAnchorEvents { .. }
        | BudgetBreach::RecordedAnchorBytes { .. } => WRITE_OUT,
        _ => "the text is too large; split it into several files",
    }
}

/// The error itself, without the wrapper that tells the place of the anchor.
fn cause(error: &Error) -> &Error {
    match error.without_snippet() {
        Error::AliasError { error, .. } => cause(error),
        other => other,
    }
}
