// SPDX-License-Identifier: Apache-2.0
//! `PromQL`, as far as the shipped rules and panels need it: what of an alert must have data although it does not fire, and which
//! metrics an expression names.
//!
//! Invariant: an expression that is not understood is given back whole, so that it is asked for rather than passed over.

use std::collections::BTreeSet;

/// Operators that leave out samples. Longer ones first.
const FILTERS: [&str; 9] = [" unless ", " and ", " or ", "==", "!=", ">=", "<=", ">", "<"];

/// The parts of `alert` that must have data: what is left and right of its comparisons and set operators, and inside `absent()`.
pub fn operands(alert: &str) -> Vec<String> {
    let text = unwrapped(&alert.split_whitespace().collect::<Vec<_>>().join(" ")).to_owned();
    if let Some(inner) = text
        .strip_prefix("absent(")
        .and_then(|rest| rest.strip_suffix(')'))
    {
        return vec![inner.to_owned()];
    }
    match split(&text) {
        Some((left, right)) => [operands(left), operands(right)].concat(),
        None => vec![text],
    }
}

/// `text` without parentheses around all of it.
fn unwrapped(text: &str) -> &str {
    let text = text.trim();
    let inner = text.strip_prefix('(').and_then(|rest| rest.strip_suffix(')'));
    match inner {
        Some(inner) if outside(inner).all(|(_, depth)| depth >= 0) => unwrapped(inner),
        _ => text,
    }
}

/// Positions in `text` outside of strings, with the depth of brackets before each.
fn outside(text: &str) -> impl Iterator<Item = (usize, i32)> {
    let (mut depth, mut quoted, mut escaped) = (0, false, false);
    text.char_indices().filter_map(move |(at, char)| {
        if quoted {
            quoted = escaped || char != '"';
            escaped = !escaped && char == '\\';
            return None;
        }
        quoted = char == '"';
        let before = depth;
        depth += match char {
            '(' | '{' | '[' => 1,
            ')' | '}' | ']' => -1,
            _ => 0,
        };
        Some((at, before.min(depth)))
    })
}

/// What is left and right of the first operator outside of brackets that binds loosest.
fn split(text: &str) -> Option<(&str, &str)> {
    let levels: [&[&str]; 3] = [&FILTERS[2..3], &FILTERS[..2], &FILTERS[3..]];
    let places: Vec<usize> = outside(text)
        .filter(|(_, depth)| *depth == 0)
        .map(|(at, _)| at)
        .collect();
    levels.iter().find_map(|operators| {
        places.iter().find_map(|at| {
            let rest = &text[*at..];
            let operator = operators.iter().find(|operator| rest.starts_with(**operator))?;
            Some((&text[..*at], &rest[operator.len()..]))
        })
    })
}

/// The metrics of the agent, and the recorded ones, that `expression` names.
pub fn metrics(expression: &str) -> BTreeSet<String> {
    let is_name = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == ':';
    let words = expression.split(|char| !is_name(char));
    words
        .filter(|word| word.contains("nodemesh_"))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_are_taken_apart_outside_of_brackets() {
        let cases: [(&str, &[&str]); 7] = [
            ("up == 0", &["up", "0"]),
            (
                "a{x=~\"b > c\"} / (b > 0)\n  > 0.9",
                &["a{x=~\"b > c\"} / (b > 0)", "0.9"],
            ),
            ("absent(up{job=\"x\"})", &["up{job=\"x\"}"]),
            (
                "(a > 1 and b >= 2 * 3) or c != 4",
                &["a", "1", "b", "2 * 3", "c", "4"],
            ),
            ("sum by (x) (a) < bool 1", &["sum by (x) (a)", "bool 1"]),
            ("(a) / (b)", &["(a) / (b)"]),
            ("a unless b", &["a", "b"]),
        ];
        for (alert, expected) in cases {
            assert_eq!(operands(alert), expected, "{alert}");
        }
    }

    #[test]
    fn metrics_are_found_with_the_recorded_ones() {
        let found = metrics("rate(nodemesh_a_total{x=\"y\"}[5m]) / service:nodemesh_b:ratio > up");
        assert_eq!(
            found,
            ["nodemesh_a_total", "service:nodemesh_b:ratio"]
                .map(str::to_owned)
                .into()
        );
    }
}
