// SPDX-License-Identifier: Apache-2.0
//! The conditions of a custom resource: whether it is valid, and on how many nodes it holds.
//!
//! Written by `status`. Source: Kubernetes API conventions, "Typical status properties". Invariant: a condition that says the same as
//! before keeps the time of its last transition.

use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};

use super::{super::finding::Verdict, Programmed};

/// Longest message of a condition, bytes (the API's own limit).
const MAX_MESSAGE: usize = 32_768;

/// The conditions of a resource with `verdict`; `former` are those that it has.
pub(super) fn conditions(verdict: &Verdict, programmed: Programmed, former: &Value) -> Value {
    let messages: Vec<String> = verdict.findings.iter().map(ToString::to_string).collect();
    let (accepted, reason) = match verdict.findings.first() {
        None => ("True", "Accepted"),
        Some(finding) => ("False", finding.reason.word()),
    };
    let text = if messages.is_empty() {
        "valid".to_owned()
    } else {
        messages.join("; ")
    };
    let Programmed { nodes, of } = programmed;
    let (holds, reason_held) = match (nodes, of) {
        (_, 0) => ("Unknown", "NoNodes"),
        (nodes, of) if nodes == of => ("True", "Programmed"),
        _ => ("False", "Pending"),
    };
    let all = [
        ("Accepted", accepted, reason, text),
        ("Programmed", holds, reason_held, format!("{nodes} of {of} nodes")),
    ];
    let conditions = all.into_iter().map(|(kind, status, reason, message)| {
        let message = shortened(&message, MAX_MESSAGE);
        json!({
            "type": kind, "status": status, "reason": reason, "message": message,
            "observedGeneration": verdict.generation, "lastTransitionTime": since(kind, status, former),
        })
    });
    conditions.collect()
}

/// Whether two lists of conditions say the same.
pub(super) fn is_same(one: &Value, other: &Value) -> bool {
    const FIELDS: [&str; 5] = ["type", "status", "reason", "message", "observedGeneration"];
    let essence = |conditions: &Value| -> Vec<Value> {
        let conditions = conditions.as_array().into_iter().flatten();
        conditions
            .flat_map(|condition| FIELDS.map(|field| condition[field].clone()))
            .collect()
    };
    essence(one) == essence(other)
}

/// The longest beginning of `text` of at most `bytes`.
pub(super) fn shortened(text: &str, bytes: usize) -> &str {
    let ends = text.char_indices().map(|(start, char)| start + char.len_utf8());
    &text[..ends.take_while(|end| *end <= bytes).last().unwrap_or(0)]
}

fn since(kind: &str, status: &str, former: &Value) -> Value {
    let former = former.as_array().into_iter().flatten();
    let mut same = former.filter(|condition| condition["type"] == kind && condition["status"] == status);
    match same.next() {
        Some(condition) => condition["lastTransitionTime"].clone(),
        None => Timestamp::now().to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::finding::{Finding, Reason},
        *,
    };

    #[test]
    fn a_message_is_shortened_between_letters() {
        assert_eq!(shortened("aé", 2), "a");
        assert_eq!(shortened("aé", 3), "aé");
        assert_eq!(shortened("", 3), "");
    }

    #[test]
    fn conditions_tell_validity_and_reach_and_keep_their_times() {
        let programmed = Programmed { nodes: 3, of: 3 };
        let good = Verdict {
            generation: Some(2),
            findings: Vec::new(),
        };
        let first = conditions(&good, programmed, &Value::Null);
        assert_eq!(
            (&first[0]["status"], &first[0]["observedGeneration"]),
            (&json!("True"), &json!(2))
        );
        assert_eq!(first[1]["message"], "3 of 3 nodes");

        let mut former = first.clone();
        former[1]["lastTransitionTime"] = json!("2020-01-01T00:00:00Z");
        let bad = Verdict {
            generation: Some(3),
            findings: vec![Finding::new(Reason::Invalid, "spec.ports[0].port: 0 is no port")],
        };
        let second = conditions(&bad, programmed, &former);
        assert_eq!(
            (&second[0]["status"], &second[0]["reason"]),
            (&json!("False"), &json!("Invalid"))
        );
        assert!(
            second[0]["message"]
                .as_str()
                .unwrap()
                .contains("spec.ports[0].port")
        );
        assert_eq!(second[1]["lastTransitionTime"], "2020-01-01T00:00:00Z");
        assert!(!is_same(&first, &second));
        assert!(is_same(&first, &former), "the time is not what it says");

        let pending = conditions(&good, Programmed { nodes: 1, of: 3 }, &former);
        assert_eq!(
            (&pending[1]["status"], &pending[1]["message"]),
            (&json!("False"), &json!("1 of 3 nodes"))
        );
    }
}
