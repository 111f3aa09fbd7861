// SPDX-License-Identifier: Apache-2.0
//! What the double does not do, and how it says so: the `Status` of a real API server, with its codes and reasons.

use serde_json::{Value, json};

use super::kinds::Resource;

/// Why a request is not done.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) code: u16,
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            code,
            reason,
            message,
        }
    }

    fn called(resource: &Resource, name: &str) -> String {
        let dot = if resource.group.is_empty() { "" } else { "." };
        format!("{}{dot}{} {name:?}", resource.plural, resource.group)
    }

    pub(super) fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", Self::called(resource, name) + " not found")
    }

    pub(super) fn exists(resource: &Resource, name: &str) -> Self {
        Self::new(
            409,
            "AlreadyExists",
            Self::called(resource, name) + " already exists",
        )
    }

    /// The object is another one than the writer has seen.
    pub(super) fn conflict(resource: &Resource, name: &str) -> Self {
        let what = Self::called(resource, name);
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {what}: the object has been modified"),
        )
    }

    /// Another manager has applied a field.
    pub(super) fn apply_conflict(why: &str) -> Self {
        Self::new(409, "Conflict", format!("Apply failed with 1 conflict: {why}"))
    }

    /// What has changed since is not known any more.
    pub(super) fn expired() -> Self {
        Self::new(410, "Expired", "too old resource version")
    }

    pub(super) fn invalid(why: &str) -> Self {
        Self::new(422, "Invalid", why)
    }

    pub(super) fn bad_request(why: &str) -> Self {
        Self::new(400, "BadRequest", why)
    }

    /// A patch in a form that is not known here.
    pub(super) fn unknown_patch(form: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format: {form}"),
        )
    }

    /// As it is sent.
    pub(super) fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
