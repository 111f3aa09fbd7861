// SPDX-License-Identifier: Apache-2.0
//! What a patch makes of an object: JSON merge patches (RFC 7386), and server-side apply.
//!
//! Source: Kubernetes documentation, "Server-Side Apply". Used by `objects`. Invariant: of what others applied nothing changes without
//! force. Simpler than the real thing in two ways: a list is one value, whatever its schema says, and only those who apply own fields.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// What each field manager applied last.
pub(super) type Applied = BTreeMap<String, Value>;

/// Merges `patch` into `target`.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    for (name, value) in patch {
        if value.is_null() {
            target.as_object_mut().expect("it is one").remove(name);
        } else {
            merge(&mut target[name.as_str()], value);
        }
    }
}

/// Applies `wanted` as `manager`; the conflict, as `manager: field`, if others applied something else and it is not forced.
pub(super) fn apply(
    live: &mut Value,
    applied: &mut Applied,
    manager: &str,
    wanted: &Value,
    is_forced: bool,
) -> Result<(), String> {
    for (other, theirs) in applied.iter_mut().filter(|(other, _)| *other != manager) {
        let mut conflicts = Vec::new();
        disown(theirs, wanted, "", &mut conflicts);
        if let (Some(field), false) = (conflicts.first(), is_forced) {
            return Err(format!("conflict with {other:?}: {field}"));
        }
    }
    let former = applied.insert(manager.to_owned(), wanted.clone());
    let others: Vec<&Value> = applied
        .iter()
        .filter(|(other, _)| *other != manager)
        .map(|(_, theirs)| theirs)
        .collect();
    if let Some(former) = former {
        give_up(live, &former, wanted, &others);
    }
    overlay(live, wanted);
    Ok(())
}

/// Takes from `theirs` every field that `wanted` has another value for, and notes its path.
fn disown(theirs: &mut Value, wanted: &Value, path: &str, conflicts: &mut Vec<String>) {
    let (Value::Object(theirs), Value::Object(wanted)) = (theirs, wanted) else {
        return;
    };
    for (name, value) in wanted {
        let path = format!("{path}.{name}");
        match theirs.get_mut(name) {
            Some(their) if their.is_object() && value.is_object() => disown(their, value, &path, conflicts),
            Some(their) if their != value => {
                theirs.remove(name);
                conflicts.push(path);
            }
            _ => {}
        }
    }
}

/// Removes what was applied formerly, is not wanted any more and is nobody else's.
fn give_up(live: &mut Value, former: &Value, wanted: &Value, others: &[&Value]) {
    let (Value::Object(live), Value::Object(former)) = (live, former) else {
        return;
    };
    for (name, value) in former {
        let theirs: Vec<&Value> = others.iter().filter_map(|other| other.get(name)).collect();
        match (wanted.get(name), live.get_mut(name)) {
            (Some(wanted), Some(live)) => give_up(live, value, wanted, &theirs),
            (None, Some(own)) => {
                if theirs.is_empty() {
                    live.remove(name);
                } else {
                    give_up(own, value, &Value::Null, &theirs);
                }
            }
            (_, None) => {}
        }
    }
}

fn overlay(live: &mut Value, wanted: &Value) {
    let Value::Object(wanted) = wanted else {
        live.clone_from(wanted);
        return;
    };
    if !live.is_object() {
        *live = Value::Object(Map::new());
    }
    for (name, value) in wanted {
        overlay(&mut live[name.as_str()], value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_field_that_is_not_applied_again_goes_unless_another_one_applied_it() {
        let (mut live, mut applied) = (json!({"kept": 1}), Applied::new());
        let mut by = |live: &mut Value, manager: &str, wanted| {
            apply(live, &mut applied, manager, &wanted, false).unwrap();
        };
        by(&mut live, "a", json!({"labels": {"x": "1", "y": "1"}}));
        by(&mut live, "b", json!({"labels": {"y": "1"}}));
        by(&mut live, "a", json!({"labels": {"z": "1"}}));
        assert_eq!(live, json!({"kept": 1, "labels": {"y": "1", "z": "1"}}));
        by(&mut live, "b", json!({}));
        assert_eq!(live, json!({"kept": 1, "labels": {"z": "1"}}));
    }

    #[test]
    fn what_another_one_applied_is_changed_by_force_only() {
        let (mut live, mut applied) = (json!({}), Applied::new());
        apply(&mut live, &mut applied, "a", &json!({"spec": {"n": 1}}), false).unwrap();
        let conflict = apply(
            &mut live.clone(),
            &mut applied.clone(),
            "b",
            &json!({"spec": {"n": 2}}),
            false,
        );
        assert_eq!(conflict, Err("conflict with \"a\": .spec.n".to_owned()));
        apply(&mut live, &mut applied, "b", &json!({"spec": {"n": 2}}), true).unwrap();
        assert_eq!(live, json!({"spec": {"n": 2}}));
        // It is no longer the first one's to give up.
        apply(&mut live, &mut applied, "a", &json!({}), false).unwrap();
        assert_eq!(live, json!({"spec": {"n": 2}}));
    }

    #[test]
    fn a_merge_patch_removes_by_null() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "d": [1]});
        merge(&mut target, &json!({"a": {"b": null, "e": 3}, "d": [2]}));
        assert_eq!(target, json!({"a": {"c": 2, "e": 3}, "d": [2]}));
    }
}
